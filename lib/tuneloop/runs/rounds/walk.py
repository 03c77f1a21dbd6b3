"""The walk through the members of a chain, in the order in which they run.

A member can be planned once those before it are done: its base model is the one whose gate passed,
and its dataset is made of samples. The walk is therefore a generator: it plans one member, and the
caller asks for the next one when that one is done. `run` and `plan` use the same walk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneloop.artifacts import records
from tuneloop.artifacts.rounds import store
from tuneloop.artifacts.rounds.store import RoundGate, RoundSelection, RoundsMember, RuleEffect
from tuneloop.datasets.read import find_manifest
from tuneloop.evaluation.gates.limits import Gate
from tuneloop.runs.backend import Backend
from tuneloop.runs.gating.judge import judge_run
from tuneloop.runs.outcome import load_outcome
from tuneloop.runs.planning.any_plan import AnyPlan
from tuneloop.runs.planning.plan import stage_state
from tuneloop.runs.planning.prepare import Prepared
from tuneloop.runs.rounds import members, samples
from tuneloop.runs.rounds.members import SAMPLE, START, Place
from tuneloop.runs.rounds.plan import RoundsPlan
from tuneloop.runs.rounds.samples import Chosen, Pool
from tuneloop.runs.rounds.spec import RoundGateSpec
from tuneloop.storage import paths

SAMPLED = "sampled.jsonl"
"""Output of the sample stage."""
SELECTED, RANDOM = "selected", "random"


@dataclass(frozen=True)
class Member:
    """A planned run of a chain."""

    place: Place
    prepared: Prepared[Backend]
    base: str
    """Run or stored model that it starts or samples from; empty for the first run."""
    dataset: str = ""
    """Key of the dataset that it trains on; empty for a sampling run."""

    @property
    def plan(self) -> AnyPlan:
        """Plan of its run."""
        return self.prepared.plan

    @property
    def row(self) -> RoundsMember:
        """The member as rounds.json names it."""
        return RoundsMember(
            seed=self.place.seed,
            round=self.place.round,
            role=self.place.role,
            run_id=self.plan.run_id,
            base=self.base,
            dataset=self.dataset,
            stages=tuple(each.stage for each in self.plan.stages),
        )

    @property
    def is_done(self) -> bool:
        """Whether every stage has its record, or can take that of another run."""
        return all(stage_state(each) != "to run" for each in self.plan.stages)


@dataclass(frozen=True)
class Walk:
    """The members of one chain."""

    plan: RoundsPlan
    seed: int
    may_write: bool
    """Whether datasets are published and gates judged; otherwise the walk ends before the first
    one that does not exist."""

    def members(self) -> Iterator[Member]:
        """Plan member after member; ask for the next one when the last one is done."""
        plan, settings = self.plan, self.plan.settings
        model: Mapping[str, Any] = plan.base["train"].get("model", {})
        if settings.start == "sft":
            spec = members.start_spec(plan.base, self.seed)
            first = Member(
                Place(self.seed, 0, START), plan.placement.prepare(spec), "", spec.dataset
            )
            yield first
            model = _of_run(first)
        for number in range(1, settings.count + 1):
            sampled = self._sample(number, model)
            yield sampled
            datasets = self._datasets(number, sampled)
            if datasets is None:
                return
            arms = {}
            for arm, key in datasets.items():
                arms[arm] = self._arm(Place(self.seed, number, arm), model, key)
                yield arms[arm]
            passed = self._passes(number, arms[SELECTED]) if arms else False
            if passed is None:
                return
            if passed:
                model = _of_run(arms[SELECTED])

    def _sample(self, number: int, model: Mapping[str, Any]) -> Member:
        place, like = Place(self.seed, number, SAMPLE), self.plan.dataset
        spec = members.sample_spec(
            self.plan.base,
            self.plan.settings,
            place,
            model=model,
            recipe=like.recipe,
            instruction=like.instruction,
        )
        return Member(place, self.plan.placement.prepare(spec), _name_of(model))

    def _arm(self, place: Place, model: Mapping[str, Any], dataset: str) -> Member:
        plan = self.plan
        spec = members.arm_spec(
            plan.base,
            plan.settings,
            place,
            model=model,
            dataset=dataset,
            is_of_samples=dataset != plan.dataset.dataset_key,
        )
        return Member(place, plan.placement.prepare(spec), _name_of(model), dataset)

    def _datasets(self, number: int, sampled: Member) -> dict[str, str] | None:
        """Select and publish; return arm -> key of its dataset.

        Returns:
            Empty if nothing is selected; None if a dataset does not exist and may not be written.
        """
        plan = self.plan
        record = records.find(plan.artifacts, sampled.plan.run_id, SAMPLE)
        if record is None:
            return None
        file = record.output(SAMPLED)
        place = paths.join(plan.artifacts, file.path)
        pool = samples.read_pool(records.read_output(file, plan.artifacts).splitlines(), place)
        rules, most = plan.settings.select, plan.settings.max_examples
        chosen = samples.choose(pool, rules, self.seed, most)
        if self.may_write:
            store.save_selection(
                _selection(pool, chosen), plan.artifacts, plan.rounds_id, self.seed, number
            )
        if not chosen.samples:
            return {}
        control = samples.draw(pool, len(chosen.samples), self.seed)
        found: dict[str, str] = {}
        is_same = chosen.samples == control.samples
        for arm in plan.settings.arms:
            if arm == RANDOM and is_same:
                found[arm] = found[SELECTED]  # nothing is trained twice
                continue
            of_arm = {SELECTED: chosen, RANDOM: control}.get(arm)
            key = plan.dataset.dataset_key if of_arm is None else self._publish(number, arm, of_arm)
            if key is None:
                return None
            found[arm] = key
        return found

    def _publish(self, number: int, arm: str, chosen: Chosen) -> str | None:
        name = f"{self.plan.base['name']}-r{number}-{arm}"
        request = samples.dataset_request(name, chosen.samples, self.plan.dataset, self.seed)
        if self.may_write:
            return samples.publish_dataset(request, chosen.samples, self.plan.artifacts)
        found = find_manifest(self.plan.artifacts, request.dataset_key)
        return found.dataset_key if found else None

    def _passes(self, number: int, selected: Member) -> bool | None:
        """Judge the gate of a round; None if it was not judged and may not be."""
        plan, run_id = self.plan, selected.plan.run_id
        known = store.read_gate(plan.artifacts, plan.rounds_id, self.seed, number)
        if known is not None and known.run_id == run_id:
            return known.passed
        if not self.may_write:
            return None
        outcome = load_outcome(plan.artifacts, run_id)
        found = judge_run(plan.artifacts, outcome, *_gate(plan.settings.gate))
        gate = RoundGate(run_id=run_id, passed=found.passed, problems=found.problems)
        store.save_gate(gate, plan.artifacts, plan.rounds_id, self.seed, number)
        return found.passed


def _of_run(member: Member) -> dict[str, str]:
    return {"kind": "pretrained", "run": member.plan.run_id}


def _name_of(model: Mapping[str, Any]) -> str:
    return str(model.get("run") or model.get("model"))


def _gate(spec: RoundGateSpec) -> tuple[Gate, Any]:
    # Policies import numpy, which plans do not need.
    from tuneloop.evaluation.gates.policy import Policy

    gate = Gate(
        min_accuracy=spec.min_accuracy,
        min_gain=spec.min_gain,
        max_regressions=spec.max_regressions,
        min_gain_low=spec.min_gain_low,
        min_guard_kept=spec.min_guard_kept,
        max_errors=spec.max_errors,
    )
    return gate, Policy(fail_if=spec.fail_if, max_set_loss=spec.max_set_loss)


def _selection(pool: Pool, chosen: Chosen) -> RoundSelection:
    return RoundSelection(
        samples=pool.total,
        unusable=pool.unusable,
        repeated=pool.repeated,
        full_reward=pool.full_reward,
        selected=len(chosen.samples),
        rules=tuple(
            RuleEffect(rule=each.rule, removed=each.removed, left=each.left)
            for each in chosen.account.rules
        ),
    )
