"""Plan rounds: their seeds, and their id, which is known before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuneloop import jsonl
from tuneloop.artifacts.rounds.store import MARK, RoundsManifest
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.runs.backend import Backend, BackendType
from tuneloop.runs.local import LocalBackend
from tuneloop.runs.planning.any_plan import load_any_plan
from tuneloop.runs.planning.plan_stages import code_of
from tuneloop.runs.planning.prepare import Prepared
from tuneloop.runs.rounds.members import start_spec
from tuneloop.runs.rounds.spec import RoundsSpec
from tuneloop.runs.rounds.spec_file import RoundsFile
from tuneloop.runs.sampling.plan import read_planned_prompts
from tuneloop.specs.run import RunSpec
from tuneloop.specs.sampling import AnyRunSpec, DatasetPrompts, DrawSpec
from tuneloop.specs.target import Target
from tuneloop.stages.table import STAGES
from tuneloop.storage import paths


@dataclass(frozen=True)
class Placement:
    """Where the members of rounds run."""

    kind: BackendType[Backend] = LocalBackend
    target: Target = field(default_factory=Target)

    def prepare(self, spec: AnyRunSpec) -> Prepared[Backend]:
        """Plan the run of a member, and place it; nothing is started or written.

        Eval traces are not imported into the trace store. They would be answers of controls, which
        no loop starts from, and a machine without a trace store could not finish them.
        """
        plan = load_any_plan(spec, image_digest=self.kind.code_identity(spec, self.target))
        stages = tuple(each for each in plan.stages if each.stage != "import")
        plan = replace(plan, stages=stages)
        return Prepared(plan, self.kind.place(plan, self.target))

    def sample_code(self, spec: AnyRunSpec) -> str:
        """Return the identity of the code that samples."""
        return code_of(self.kind.code_identity(spec, self.target))(STAGES["sample"])


@dataclass(frozen=True)
class RoundsPlan:
    """Planned rounds."""

    rounds_id: str
    artifacts: str
    settings: RoundsSpec
    base: Mapping[str, Any]
    """The run spec as a mapping of the keys that are set."""
    dataset: DatasetManifest
    """The seed dataset."""
    seeds: tuple[int, ...]
    placement: Placement = field(default_factory=Placement)

    def manifest(self) -> RoundsManifest:
        """Build rounds.json without members."""
        return RoundsManifest(
            rounds_id=self.rounds_id,
            settings=self.settings.model_dump(mode="json"),
            # Not where things are: rounds elsewhere have the same bytes.
            spec={key: value for key, value in self.base.items() if key != "execution"},
            seeds=self.seeds,
            count=self.settings.count,
            arms=self.settings.arms,
        )


def plan_rounds(
    found: RoundsFile, spec: RunSpec, seed: int | None = None, placement: Placement | None = None
) -> RoundsPlan:
    """Plan rounds; nothing is written.

    Args:
        found: the spec file.
        spec: its run spec, with the options of the command line.
        seed: seed that overrides those of the file.
        placement: where the members run; None means this machine.

    Raises:
        DataError: the dataset, an eval set or the prompts are broken.
        InputMissing: an eval set, the prompts or the model is missing.
        SpecError: the run spec is invalid, the scorer is unknown, or a range of seeds overlaps that
            of an eval set.
    """
    placement = placement or Placement()
    with DatasetSource(spec.execution.datasets) as source:
        dataset = source.load_manifest(spec.dataset)
    settings = found.settings
    seeds = settings.seeds or (dataset.seed if spec.seed is None else spec.seed,)
    seeds = seeds if seed is None else (seed,)
    base = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    starts = [placement.prepare(start_spec(base, each)).plan.run_id for each in seeds]
    identity = {
        "starts": starts,
        "settings": settings.model_dump(mode="json"),
        "prompts": _prompts_identity(settings.sample, spec),
        "code": placement.sample_code(spec),
    }
    digest = hashlib.sha256(jsonl.dump_line(identity)).hexdigest()[:8]
    artifacts = paths.absolute(spec.execution.artifacts)
    rounds_id = f"{spec.name}{MARK}{digest}"
    return RoundsPlan(rounds_id, artifacts, settings, base, dataset, seeds, placement)


def _prompts_identity(draw: DrawSpec, spec: RunSpec) -> str:
    """Return the content of the prompts, which are checked; their place does not matter."""
    read = read_planned_prompts(draw, [each.url for each in spec.eval.all_sets], "rounds.sample")
    if read.stated is not None:
        return read.stated.sha256
    assert isinstance(draw.prompts, DatasetPrompts)
    with DatasetSource(spec.execution.datasets) as opened:
        return opened.load_manifest(draw.prompts.dataset).build_id
