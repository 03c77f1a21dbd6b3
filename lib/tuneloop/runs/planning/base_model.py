"""Find the model that a run starts from: its manifest and the folder that holds it.

Only the manifest is read, so a plan costs the same for a model of any size.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from tuneloop.artifacts import aliases, layout, records
from tuneloop.artifacts.aliases import AliasChange
from tuneloop.artifacts.model_manifest import (
    MANIFEST,
    ModelManifest,
    load_model_manifest,
    model_prefix,
    parse_model_manifest,
)
from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.artifacts.runs.run_manifest import ModelOfRun, read_run_manifest
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.specs.sampling import BaseOfRunSpec
from tuneloop.specs.stages import ModelRef
from tuneloop.specs.training.model import ModelSpec, PretrainedModelSpec, RandomModelSpec
from tuneloop.specs.training.train import TrainSpec
from tuneloop.storage import paths
from tuneloop.validation import first_error

TUNED_MANIFEST = f"model/{MANIFEST}"
"""Output of the train stage that describes the tuned model."""
BASE_MANIFEST = f"base/{MANIFEST}"
"""Output of the train stage that describes its random weights, if it started from such."""
Thinking = Literal["steps", "plain"]


@dataclass(frozen=True)
class FoundModel:
    """A stored or tuned model."""

    manifest: ModelManifest
    folder: str
    """URL of the folder that holds the manifest."""

    @property
    def ref(self) -> ModelRef:
        """The reference that stage specs carry."""
        return ModelRef(name=self.manifest.name, folder=self.folder, digest=self.manifest.digest)


@dataclass(frozen=True)
class NamedModel:
    """What the name of a model stands for."""

    kind: Literal["run", "stored"]
    """Whether the model is that of a run or a stored one."""
    name: str
    """Id of the run, or name of the stored model; never an alias."""
    model: FoundModel
    change: AliasChange | None = None
    """The change of the alias that names the model; None if it was named without an alias."""


def find_base_model(spec: ModelSpec, artifacts: str) -> FoundModel | None:
    """Read the manifest of the model that a run starts from.

    Args:
        spec: `train.model` of the run spec.
        artifacts: URL of the artifacts prefix.

    Returns:
        The model; None if the run starts from random weights.

    Raises:
        InputMissing: there is no such model, or the run has no tuned model yet.
        DataError: the manifest or the record is broken.
    """
    if isinstance(spec, RandomModelSpec):
        return None
    if spec.run is not None:
        return find_tuned_model(spec.run, artifacts)
    if spec.model is None:  # the spec's own validator refuses this
        raise SpecError("model: expected one of the two keys `model` and `run`")
    found = find_stored_model(spec.model, artifacts)
    if found.manifest.tokenizer_sha256 is None:
        raise DataError(_without_tokenizer(spec.model))
    return found


def find_baselines(
    names: Sequence[str], artifacts: str, base: ModelRef | None
) -> dict[str, ModelRef]:
    """Read the manifests of the models that an evaluation asks beside the base and the tuned one.

    Args:
        names: `eval.baselines` of the run spec.
        artifacts: URL of the artifacts prefix.
        base: the model that the run starts from; None for random weights.

    Raises:
        InputMissing: there is no such model or run.
        DataError: a manifest or record is broken, or a model has no tokenizer.
        SpecError: a name is there twice, has another meaning in the report, or is the base model.
    """
    found: dict[str, ModelRef] = {}
    for number, name in enumerate(names):
        if name in found or name in ("base", "tuned"):
            why = "is there twice" if name in found else "is a name of the report"
            raise SpecError(
                f"eval.baselines.{number}: {name} {why}, expected different names; remove it, or"
                " add the model under another name"
            )
        model = find_model(name, artifacts)
        if model.manifest.tokenizer_sha256 is None:
            raise DataError(_without_tokenizer(name))
        if base is not None and model.ref.digest == base.digest:
            raise SpecError(
                f"eval.baselines.{number}: {name} is the model that the run starts from, expected"
                " another one, because that one is asked anyway; remove it"
            )
        found[name] = model.ref
    return found


def _without_tokenizer(name: str) -> str:
    return (
        f"model {name}: has no tokenizer, expected one to encode conversations with; add the model"
        " again, from a folder with tokenizer.json or tokenizer.model, under another name"
    )


def find_stored_model(name: str, artifacts: str, *, digest: str | None = None) -> FoundModel:
    """Read the manifest of a model that `tuneloop models add` has stored, or that an alias names.

    Args:
        name: name of a stored model, or an alias.
        artifacts: URL of the artifacts prefix.
        digest: digest of a model that the alias may have named before; None takes its newest one.

    Raises:
        InputMissing: there is no such model and no such alias, or the alias's model was deleted.
        DataError: a file is broken, or the model of the alias was changed.
    """
    found = _find_stored(name, artifacts) or _find_aliased(name, artifacts, digest)
    if found is None:
        folder = model_prefix(artifacts, name)
        raise InputMissing(
            f"{paths.join(folder, MANIFEST)}: missing, expected the manifest of model {name}; add"
            f" it with `tuneloop models add {name} URL --artifacts {artifacts}`"
        )
    return found.model


def find_model(name: str, artifacts: str) -> FoundModel:
    """Read the manifest of the model that a name stands for; see `find_named_model`."""
    return find_named_model(name, artifacts).model


def find_named_model(name: str, artifacts: str) -> NamedModel:
    """Find the model that a name stands for, and read its manifest.

    Args:
        name: name of a stored model, an alias, or id of a run; the first that exists counts.
        artifacts: URL of the artifacts prefix.

    Raises:
        InputMissing: there is none of the three, or the alias's model was deleted.
        DataError: a file is broken, or the model of the alias was changed.
    """
    found = _find_stored(name, artifacts) or _find_aliased(name, artifacts)
    if found is not None:
        return found
    if records.find(artifacts, name, "train") is None:
        raise InputMissing(
            f"{name}: neither a model nor a finished run below {artifacts}, expected a name of"
            " `tuneloop models list` or a run id; check the name and --artifacts"
        )
    return NamedModel("run", name, find_tuned_model(name, artifacts))


def find_aliased_model(change: AliasChange, artifacts: str) -> NamedModel:
    """Read the manifest of the model that a change of an alias names.

    Raises:
        InputMissing: the model was deleted.
        DataError: a file is broken, or the model is not the one that was promoted.
    """
    place, model = f"alias {change.alias}, change {change.number}", change.model
    try:
        if model.kind == "run":
            found = find_tuned_model(model.name, artifacts)
        else:
            folder = model_prefix(artifacts, model.name)
            found = FoundModel(load_model_manifest(folder), folder)
    except InputMissing as e:
        raise InputMissing(
            f"{place}: names {model.name}, which was deleted ({e}); promote another model"
        ) from e
    if found.manifest.digest != model.digest:
        raise DataError(
            f"{place}: {model.name} has the digest {found.manifest.digest[:12]}…, expected"
            f" {model.digest[:12]}…, so it is another model now; promote it again"
        )
    return NamedModel(model.kind, model.name, found, change)


def _find_stored(name: str, artifacts: str) -> NamedModel | None:
    """Return the stored model of a name; None if there is none."""
    folder = model_prefix(artifacts, name)
    with contextlib.suppress(InputMissing):
        return NamedModel("stored", name, FoundModel(load_model_manifest(folder), folder))
    return None


def _find_aliased(name: str, artifacts: str, digest: str | None = None) -> NamedModel | None:
    """Return the model of an alias; None if there is no such alias."""
    change = aliases.read_current(artifacts, name)
    if change is None:
        return None
    if digest not in (None, change.model.digest):
        history = reversed(aliases.read_history(artifacts, name))
        change = next((each for each in history if each.model.digest == digest), change)
    return find_aliased_model(change, artifacts)


def find_tuned_model(run_id: str, artifacts: str) -> FoundModel:
    """Read the manifest of the model that a run has tuned.

    Raises:
        InputMissing: the run has no finished train stage below this artifacts prefix.
        DataError: the record or the manifest is broken, or the run is of an older version.
    """
    return _model_in(_train_record(run_id, artifacts).output(TUNED_MANIFEST), artifacts)


def find_sampled_model(
    spec: PretrainedModelSpec | BaseOfRunSpec, artifacts: str
) -> tuple[FoundModel, Thinking]:
    """Read the manifest of the model that a sampling run asks.

    Args:
        spec: `sample.model` of the spec.
        artifacts: URL of the artifacts prefix.

    Returns:
        The model, and the thinking mode that its run was trained with, also if an alias names the
        run; `plain` for a stored model.

    Raises:
        InputMissing: there is no such model, or the run has no finished train stage.
        DataError: a manifest or record is broken, or the model has no tokenizer.
    """
    if spec.run is None:
        found = find_base_model(spec, artifacts)
        if found is None:
            raise SpecError("sample.model: expected a stored model or a run; change it")
        return found, _thinking_of(spec.model or "", artifacts)
    record = _train_record(spec.run, artifacts)
    train = _train_spec(spec.run, artifacts)
    if isinstance(spec, PretrainedModelSpec):
        found = _model_in(record.output(TUNED_MANIFEST), artifacts)
    elif any(file.name == BASE_MANIFEST for file in record.outputs):
        found = _model_in(record.output(BASE_MANIFEST), artifacts)
    elif (found := find_base_model(train.model, artifacts)) is None:
        raise DataError(
            f"{layout.record_url(artifacts, spec.run, 'train')}: names no base model, expected one;"
            " run the train stage again"
        )
    return found, train.thinking


def _thinking_of(name: str, artifacts: str) -> Thinking:
    """Return the thinking mode of the run that an alias names; `plain` for a stored model."""
    named = _find_stored(name, artifacts) or _find_aliased(name, artifacts)
    if named is None or named.kind != "run":
        return "plain"
    return _train_spec(named.name, artifacts).thinking


def _train_record(run_id: str, artifacts: str) -> Record:
    record = records.find(artifacts, run_id, "train")
    if record is None:
        raise InputMissing(
            f"{layout.record_url(artifacts, run_id, 'train')}: missing, expected the record of a"
            f" finished train stage of run {run_id}; finish the run, or give the --artifacts URL"
            " that holds it"
        )
    return record


def _train_spec(run_id: str, artifacts: str) -> TrainSpec:
    """Read the options that a run was trained with."""
    manifest = read_run_manifest(artifacts, run_id)
    try:
        return TrainSpec.model_validate(manifest.spec.get("train") if manifest else None)
    except ValidationError as e:
        url = layout.run_manifest_url(artifacts, run_id)
        raise DataError(f"{url}: train: {first_error(e)}; run the run again") from e


def _model_in(file: OutputFile, artifacts: str) -> FoundModel:
    manifest = parse_model_manifest(records.read_output(file, artifacts), file.path)
    return FoundModel(manifest, folder_of(file, artifacts))


def folder_of(file: OutputFile, artifacts: str) -> str:
    """Return the URL of the folder that holds an output."""
    return paths.join(artifacts, re.sub(r"/[^/]*$", "", file.path))


def model_of_run(spec: ModelSpec, found: FoundModel | None) -> ModelOfRun:
    """Describe the model that a run starts from, for its manifest and for people."""
    if found is None:
        family = spec.family if isinstance(spec, RandomModelSpec) else ""
        return ModelOfRun(name=None, family=family, random_weights=True)
    return describe_model(found)


def describe_model(found: FoundModel) -> ModelOfRun:
    """Describe a stored or tuned model, for the manifest of a run and for people."""
    manifest = found.manifest
    return ModelOfRun(
        name=manifest.name,
        family=manifest.architecture.family,
        parameters=manifest.parameters,
        dtype=manifest.dtype,
        licence=manifest.licence,
        random_weights=manifest.random_weights,
        digest=manifest.digest,
        weights_bytes=sum(file.size_bytes for file in manifest.weight_files),
        place=manifest.place or found.folder,
    )
