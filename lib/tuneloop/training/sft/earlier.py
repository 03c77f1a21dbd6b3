"""Find the finished run that `train.continue_from` names, and check that it can be continued.

Continuing is well-defined if nothing but the number of steps and the validation differ, because
batch number n depends on the examples, the seed, the batch size and n alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from tuneloop.artifacts import layout, records
from tuneloop.artifacts.records import Record
from tuneloop.artifacts.results import TrainCounts
from tuneloop.artifacts.runs.run_manifest import RunManifest, read_run_manifest
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.specs.training.train import TrainSpec
from tuneloop.storage import paths
from tuneloop.validation import first_error

MAY_DIFFER = ("steps", "epochs", "continue_from", "validation", "keep_checkpoints")
"""Keys of `train` that do not have to equal those of the earlier run."""
EXAMPLES = "examples-"
"""First part of the names of the export's files that training reads."""


@dataclass(frozen=True)
class EarlierRun:
    """The end of a finished training that another one continues."""

    resume_prefix: str
    """URL of the prefix of its checkpoints and metrics."""
    step: int
    """Its number of steps."""
    earlier: EarlierRun | None = None
    """The run that it continued in turn, whose checkpoints it did not copy."""


def find_earlier_run(
    options: TrainSpec, *, seed: int, system_instruction: str | None, artifacts: str
) -> EarlierRun | None:
    """Find the run to continue; None if the spec names none.

    Args:
        options: options of the new training.
        seed: seed of the new run.
        system_instruction: system instruction of the new run.
        artifacts: URL of the artifacts prefix.

    Raises:
        InputMissing: there is no such run, or its training has not finished.
        SpecError: it was trained with other options, or it already has as many steps.
        DataError: its manifest or its record is broken.
    """
    run_id = options.continue_from
    if run_id is None:
        return None
    manifest = read_run_manifest(artifacts, run_id)
    if manifest is not None and manifest.run_id != run_id:
        raise DataError(
            f"{layout.run_manifest_url(artifacts, run_id)}: is the manifest of another run,"
            f" {manifest.run_id[:200]}, expected that of {run_id}; restore it"
        )
    record = records.find(artifacts, run_id, "train")
    if manifest is None or record is None:
        raise InputMissing(
            f"{layout.run_prefix(artifacts, run_id)}: no finished training, expected the run that"
            " train.continue_from names; finish it, or correct the id"
        )
    its_options = _options_of(manifest)
    _check_options(options, its_options, manifest, seed, system_instruction)
    step = record.counts_as(TrainCounts).steps
    if options.steps is not None and options.steps <= step:
        raise SpecError(
            f"train.steps is {options.steps}, expected more than the {step} steps of run {run_id},"
            " which are counted too; raise it"
        )
    prefix = layout.stage_prefix(artifacts, _trained_by(record), "train")
    before = find_earlier_run(
        its_options, seed=seed, system_instruction=system_instruction, artifacts=artifacts
    )
    return EarlierRun(paths.join(prefix, "resume"), step, before)


def check_same_examples(options: TrainSpec, export: Record, artifacts: str) -> None:
    """Check that the run to continue has read the same examples.

    Args:
        options: options of the new training.
        export: record of the new run's export.
        artifacts: URL of the artifacts prefix.

    Raises:
        SpecError: the examples differ.
    """
    if options.continue_from is None:
        return
    earlier = records.find(artifacts, options.continue_from, "export")
    if earlier is None or _digests(earlier) != _digests(export):
        raise SpecError(
            f"train.continue_from: run {options.continue_from} has read other examples than this"
            " run, expected the same ones; use the same dataset and export options, or start with"
            " train.model: {kind: pretrained, run: " + options.continue_from + "}"
        )


def _digests(export: Record) -> list[tuple[str, str]]:
    return [(file.name, file.sha256) for file in export.outputs_like(EXAMPLES)]


def _options_of(manifest: RunManifest) -> TrainSpec:
    try:
        return TrainSpec.model_validate(manifest.spec.get("train"))
    except ValidationError as e:
        raise DataError(
            f"run {manifest.run_id}: train.{first_error(e)}; it was planned by another version of"
            " tuneloop, with which it can be continued"
        ) from e


def _check_options(
    options: TrainSpec,
    earlier: TrainSpec,
    manifest: RunManifest,
    seed: int,
    system_instruction: str | None,
) -> None:
    run_id = manifest.run_id
    found = earlier.model_dump(exclude=set(MAY_DIFFER))
    expected = options.model_dump(exclude=set(MAY_DIFFER))
    differing = [f"train.{key}" for key in expected if expected[key] != found[key]]
    differing += ["seed"] if manifest.seed != seed else []
    if manifest.spec.get("system_instruction") != system_instruction:
        differing.append("system_instruction")
    if differing:
        raise SpecError(
            f"train.continue_from: {', '.join(differing)} differ from run {run_id}, expected the"
            " same values; copy them from its run_manifest.json, or start with train.model:"
            f" {{kind: pretrained, run: {run_id}}}"
        )


def _trained_by(record: Record) -> str:
    """Return the run that trained; a run adopts the record of another with the same options."""
    return record.outputs[0].path.split("/")[1]
