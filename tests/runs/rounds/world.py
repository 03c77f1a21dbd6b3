"""A world with planted skills, in place of the stages' processes: rounds run in it within a second.

`python -m tests.runs.rounds.world RUN.yaml` runs the rounds of a spec in it, slowly enough to be
killed. Everything around the stages is real: plans, records, datasets, selection, gates and the
report. A model's skill, the share of questions that it answers, is kept in the manifest of the
model, so that a process that was killed can be followed by another one.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.evaluation.samples import judged
from tests.model_manifests import make_manifest
from tuneloop import jsonl
from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.delta_report import Context, dump_report
from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Judgement,
    Model,
    Sample,
    State,
    Weight,
    dump_samples,
)
from tuneloop.artifacts.evaluation.verdict import Verdict
from tuneloop.artifacts.model_manifest import (
    ModelManifest,
    dump_model_manifest,
    load_referenced_model,
    parse_model_manifest,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.results import SampleCounts
from tuneloop.artifacts.runs.cancellation import Cancellation
from tuneloop.datasets.read import iter_rows, load_manifest
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.traces import build_sample_trace
from tuneloop.runs.planning.plan import write_run_manifest
from tuneloop.runs.rounds.execute import RoundsRun
from tuneloop.runs.rounds.plan import plan_rounds
from tuneloop.runs.rounds.report import write_report
from tuneloop.runs.rounds.spec_file import load_rounds_file
from tuneloop.runs.rounds.walk import Member
from tuneloop.specs.stages import EvalStage, SampleStage, StageSpec, TrainStage
from tuneloop.specs.target import Machines
from tuneloop.storage import files, paths
from tuneloop.traces.response_text import ParsedResponse

SETS: dict[Weight, int] = {"required": 40, "guarded": 20}
"""Weight of a set -> its number of questions."""
PROMPTS = 25
_REPORTS: dict[bytes, bytes] = {}
"""Answers -> report; building one takes a tenth of a second."""


@dataclass
class World:
    """What training does to skills."""

    after: Mapping[str, Callable[[float], float]] = field(
        default_factory=lambda: {
            "start": lambda skill: 0.4,
            "selected": lambda skill: min(1.0, skill + 0.25),
            "random": lambda skill: skill,
            "sft": lambda skill: 0.4,
        }
    )
    """Role -> (skill of the base model) -> skill of the trained model."""
    guard: Mapping[str, float] = field(default_factory=dict)
    """Role -> share of the guarded questions that its model answers; 1 by default."""
    correct: Callable[[float], float] = lambda skill: skill
    """(skill of the model) -> share of correct samples."""
    fails: Callable[[Member, str], bool] = lambda member, stage: False
    """Whether a stage of a member fails."""
    exit_code: int = 10
    """Exit code of stages that fail."""
    before_publish: Callable[[str], None] = lambda stage: None
    """Called before a stage publishes its record; may raise, as a signal would."""
    ran: list[str] = field(default_factory=list)
    """`round role stage` of the stages that were run."""

    def open(self, member: Member) -> WorldBackend:
        """Return the backend of a member."""
        write_run_manifest(member.plan)
        return WorldBackend(self, member)

    def run_stage(self, member: Member, spec: StageSpec) -> None:
        """Do the work of a stage: write its outputs, then its record."""
        self.ran.append(f"{member.place.round} {member.place.role} {spec.stage}")
        work: Any = {"train": self._train, "eval": self._eval, "sample": self._sample}.get(
            spec.stage
        )
        outputs, counts = work(member, spec) if work else ({"examples.jsonl": b"{}\n"}, {})
        found = tuple(_output(spec, name, data) for name, data in outputs.items())
        self.before_publish(spec.stage)
        record = Record(
            run_id=spec.run_id,
            stage=spec.stage,
            fingerprint=spec.fingerprint,
            attempt="a",
            inputs=dict(spec.upstream),
            outputs=found,
            counts=counts,
            started_at="2026-11-28T00:00:00+00:00",
            seconds=1.0,
            provenance={},
        )
        records.publish(record, spec.execution.artifacts)

    def _train(self, member: Member, spec: TrainStage) -> tuple[dict[str, bytes], dict[str, int]]:
        before = _skill(load_referenced_model(spec.model)) if spec.model else 0.0
        skill = self.after[member.place.role](before)
        digest = hashlib.sha256(f"{spec.fingerprint}".encode()).hexdigest()
        manifest = make_manifest(
            name=f"tuned-{digest[:8]}", weights_sha256=digest, source=f"skill {skill!r}"
        )
        return {"model/manifest.json": dump_model_manifest(manifest)}, {}

    def _eval(self, member: Member, spec: EvalStage) -> tuple[dict[str, bytes], dict[str, int]]:
        artifacts = spec.execution.artifacts
        record = records.load(artifacts, spec.run_id, "train", spec.upstream["train"])
        file = record.output("model/manifest.json")
        tuned = parse_model_manifest(records.read_output(file, artifacts), file.path)
        base = load_referenced_model(spec.model) if spec.model else None
        found = self._answers(member, base, tuned)
        samples = b"".join(dump_samples(found))
        if samples not in _REPORTS:
            _REPORTS[samples] = dump_report(build_report(found, Context(header={})))
        return {"delta_report.json": _REPORTS[samples], "samples.jsonl": samples}, {}

    def _answers(
        self, member: Member, base: ModelManifest | None, tuned: ModelManifest
    ) -> EvalSamples:
        role = member.place.role
        shares = {
            ("base", "required"): _skill(base) if base else 0.0,
            ("tuned", "required"): _skill(tuned),
            ("base", "guarded"): 1.0,
            ("tuned", "guarded"): self.guard.get(role, 1.0),
        }
        digests = {"base": base.digest if base else "0" * 64, "tuned": tuned.digest}
        items, samples = [], []
        for weight, count in SETS.items():
            for number in range(count):
                item = Item(
                    set=weight,
                    id=f"q{number}",
                    prompt=f"q {number}",
                    expected_answer="A",
                    category="c",
                )
                items.append(item)
                for model, digest in digests.items():
                    is_right = _chance(digest, weight, number) < shares[model, weight]
                    state: State = "correct" if is_right else "wrong"
                    samples.append(
                        Sample(
                            set=weight,
                            item=item.id,
                            model=model,
                            text="A",
                            tokens=1,
                            score=judged(state, "A"),
                        )
                    )
        return EvalSamples(
            {w: EvalSet(name=w, sha256=w[0] * 64, scorer="exact_match", weight=w) for w in SETS},
            {name: Model(name=name, digest=digest) for name, digest in digests.items()},
            {(item.set, item.id): item for item in items},
            tuple(samples),
        )

    def _sample(self, member: Member, spec: SampleStage) -> tuple[dict[str, bytes], dict[str, int]]:
        assert spec.dataset is not None
        share = self.correct(_skill(load_referenced_model(spec.model)))
        manifest = load_manifest(spec.execution.artifacts, spec.dataset.key)
        lines, correct = [], 0
        for _, row in list(iter_rows(manifest, spec.execution.artifacts))[:PROMPTS]:
            for number in range(spec.options.completions):
                is_right = _chance(spec.fingerprint, row.prompt, number) < share
                correct += is_right
                answer = row.final_answer if is_right else f"{row.final_answer}?"
                item = Item(
                    set="prompts",
                    id=row.id,
                    prompt=row.prompt,
                    expected_answer=row.final_answer,
                    category="c",
                )
                trace = build_sample_trace(
                    item,
                    Judgement("correct" if is_right else "wrong", float(is_right), answer),
                    sample=number,
                    text=f"way {number}",
                    parsed=ParsedResponse((f"way {number}",), answer),
                    answer_alone=None,
                    meta={
                        "sampled": spec.fingerprint,
                        "model_digest": spec.model.digest,
                        "hit_token_limit": False,
                    },
                )
                lines.append(jsonl.dump_line(trace))
        total = len(lines)
        counts = dict.fromkeys(SampleCounts.model_fields, 0)
        counts |= {"prompts": PROMPTS, "samples": total, "correct": correct}
        return {"sampled.jsonl": b"".join(lines)}, {**counts, "wrong": total - correct}


class WorldBackend:
    """One member in the world; a stage runs when it is submitted."""

    poll_seconds = 0.0
    image: str | None = None

    def __init__(self, world: World, member: Member) -> None:
        self._world, self._member = world, member
        plan = member.plan
        self.run_id, self.artifacts = plan.run_id, plan.artifacts
        self.fingerprints = {each.stage: each.fingerprint for each in plan.stages}
        self._specs = {each.stage: each for each in plan.stages}
        self._failed = False

    def machines(self, stage: str) -> Machines:
        return Machines(where="local", accelerator="cpu", hosts=1, chips=0)

    def submit(self, stage: str, *, retry_failed: bool) -> None:
        self._failed = self._world.fails(self._member, stage)
        if not self._failed:
            self._world.run_stage(self._member, self._specs[stage])

    def poll(self, stage: str) -> Verdict:
        if self._failed:
            return Verdict(
                "UserError", "the stage is made to fail", exit_code=self._world.exit_code
            )
        return Verdict("Succeeded", "the record is published", exit_code=0)

    def exists(self, stage: str) -> bool:
        return False

    def progress(self, stage: str) -> None:
        return None

    def attempt(self, stage: str) -> str:
        return ""

    def cancel_run(self, stage: str | None = None, *, wait_seconds: float = 0.0) -> Cancellation:
        return Cancellation()

    def _nothing(self, *args: Any) -> None:
        """Do nothing: there is no process, and no other machine."""

    connect = save = confirm = archive = succeeded = settle = give_up = cancel = close = _nothing


def _skill(manifest: ModelManifest) -> float:
    return float(manifest.source.removeprefix("skill "))


def _chance(*parts: object) -> float:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _output(spec: StageSpec, name: str, data: bytes) -> OutputFile:
    path = f"training_runs/{spec.run_id}/{spec.stage}/attempts/a/{name}"
    files.write(paths.join(spec.execution.artifacts, path), data)
    digest = hashlib.sha256(data).hexdigest()
    return OutputFile(name=name, path=path, size_bytes=len(data), sha256=digest)


def main(spec: str) -> None:
    """Run the rounds of a spec; every stage takes a tenth of a second."""
    found = load_rounds_file(spec)
    assert found is not None
    plan = plan_rounds(found, found.spec)
    world = World(before_publish=lambda stage: time.sleep(0.1))
    write_report(RoundsRun(plan, open_backend=world.open).run(), plan.artifacts)


if __name__ == "__main__":
    main(sys.argv[1])
