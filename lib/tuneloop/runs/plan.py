"""From a run spec to a plan: fingerprints, run id, stage specs. Known before anything runs.

One rule: `build_plan` is pure. The same spec, seed, code and inputs give the same run id, so
running a spec again continues its run, and a changed spec is another run.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from tuneloop import jsonl, provenance
from tuneloop.artifacts import layout, records
from tuneloop.datasets.schema import DatasetManifest
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import InputMissing, SpecError
from tuneloop.evaluation.scorers.table import scorer_named
from tuneloop.evaluation.sets.schema import parse_eval_set, prompts_sha256
from tuneloop.specs.run import RunSpec
from tuneloop.specs.stages import (
    DatasetRef,
    EvalStage,
    ExportStage,
    ImportStage,
    StageSpec,
    TrainStage,
)
from tuneloop.storage import files, paths
from tuneloop.training.prompt_templates import recipe_named


@dataclass(frozen=True)
class Plan:
    """One run, before it starts."""

    run_id: str
    spec: RunSpec
    seed: int
    dataset: DatasetRef
    stages: tuple[StageSpec, ...]
    """In the order in which they run."""

    @property
    def artifacts(self) -> str:
        """Where everything is written."""
        return self.spec.execution.artifacts


def load_plan(
    spec: RunSpec, checkout: Path, *, seed: int | None = None, image_digest: str | None = None
) -> Plan:
    """Read what a plan depends on, and plan.

    Args:
        spec: the run spec.
        checkout: the code that the stages will run on this machine.
        seed: overrides the spec's, which overrides the dataset's.
        image_digest: names the code instead of the checkout: what a cluster runs.

    Raises:
        DataError: the dataset or the eval set is broken.
        InputMissing: the eval set is missing.
        SpecError: a URL holds a password, or the recipe or the scorer is unknown.
    """
    execution = spec.execution
    _refuse_credentials("execution.artifacts", execution.artifacts)
    _refuse_credentials("execution.store_url", execution.store_url)
    execution = execution.model_copy(update={"artifacts": paths.absolute(execution.artifacts)})
    if execution.datasets_url is not None:
        absolute = {"datasets_url": paths.absolute(execution.datasets_url)}
        execution = execution.model_copy(update=absolute)
    spec = spec.model_copy(update={"execution": execution})
    with DatasetSource(execution.datasets) as source:
        manifest = source.load_manifest(spec.dataset)
    recipe_named(manifest.recipe)
    scorer_named(spec.eval.scorer)
    return build_plan(
        spec,
        manifest,
        seed=next(s for s in (seed, spec.seed, manifest.seed) if s is not None),
        digests=_input_digests(spec),
        code=image_digest or provenance.code_identity(checkout),
    )


def _refuse_credentials(field: str, url: str) -> None:
    """A spec is copied into records, ConfigMaps and logs; the message does not repeat the URL."""
    found = urlsplit(url)
    # Azure names a container before the @; a name alone in front of a web server is a credential.
    if found.password is not None or (found.username and found.scheme in ("http", "https")):
        raise SpecError(
            f"{field}: holds a name or password before the @, expected none, because a spec is kept"
            " with the run; use TUNELOOP_STORE_TOKEN or the object store's own credentials, on a"
            " cluster execution.cluster.store_token_secret and credentials_secret"
        )


@dataclass(frozen=True)
class InputDigests:
    """What the inputs from outside hold."""

    eval_set: str
    """Of the file."""
    eval_prompts: str
    """Of its prompts."""
    tokenizer: str | None
    """Of the tokenizer that the export counts with; None if it counts characters."""


def _input_digests(spec: RunSpec) -> InputDigests:
    data = _read_input(spec.eval.eval_set, "the eval set", "eval.eval_set")
    items = parse_eval_set(data, spec.eval.eval_set)  # broken is found now, not after the training
    tokenizer = None
    if spec.export.tokenizer is not None:
        model = _read_input(spec.export.tokenizer, "a SentencePiece model", "export.tokenizer")
        tokenizer = hashlib.sha256(model).hexdigest()
    return InputDigests(hashlib.sha256(data).hexdigest(), prompts_sha256(items), tokenizer)


def _read_input(url: str, what: str, option: str) -> bytes:
    try:
        return files.read(url)
    except FileNotFoundError as e:
        raise InputMissing(
            f"{url}: missing, expected {what}; put it there, or change {option}"
        ) from e


def build_plan(
    spec: RunSpec, manifest: DatasetManifest, *, seed: int, digests: InputDigests, code: str
) -> Plan:
    """Fingerprint every stage, then name the run after all of them.

    Args:
        spec: the run spec.
        manifest: the dataset's.
        seed: the run's.
        digests: of the eval set and the export's tokenizer.
        code: identity of the code, from `provenance.code_identity`, or an image digest.
    """
    dataset = DatasetRef(
        key=manifest.dataset_key,
        build_id=manifest.build_id,
        recipe=manifest.recipe,
        instruction=manifest.instruction,
    )
    eval_identity = {
        **spec.eval.model_dump(mode="json"),
        # What it is called and what it holds; where it lies names no result.
        "eval_set": spec.eval.eval_set.rsplit("/", 1)[-1],
        "eval_set_sha256": digests.eval_set,
    }
    export_fp = _fingerprint(
        "export", code, _export_identity(spec, digests), {}, dataset=dataset.build_id
    )
    train_fp = _fingerprint(
        "train",
        code,
        {**spec.train.model_dump(mode="json"), "system_instruction": spec.system_instruction},
        {"export": export_fp},
        seed=seed,
    )
    eval_fp = _fingerprint("eval", code, eval_identity, {"train": train_fp}, seed=seed)
    import_fp = _fingerprint("import", code, {}, {"eval": eval_fp})

    fingerprints = [export_fp, train_fp, eval_fp, import_fp]
    run_id = f"{spec.name}-{_sha256({'stages': fingerprints})[:8]}"
    common: dict[str, Any] = {
        "run_id": run_id,
        "seed": seed,
        "dataset": dataset,
        "execution": spec.execution,
    }
    stages: tuple[StageSpec, ...] = (
        ExportStage(
            **common,
            fingerprint=export_fp,
            upstream={},
            options=spec.export,
            eval_set=spec.eval.eval_set,
            eval_prompts_sha256=digests.eval_prompts,
            tokenizer_sha256=digests.tokenizer,
            system_instruction=spec.system_instruction,
            model_family=spec.train.model.kind,
        ),
        TrainStage(
            **common,
            fingerprint=train_fp,
            upstream={"export": export_fp},
            options=spec.train,
            system_instruction=spec.system_instruction,
        ),
        EvalStage(
            **common,
            fingerprint=eval_fp,
            upstream={"train": train_fp},
            options=spec.eval,
            eval_set_sha256=digests.eval_set,
            system_instruction=spec.system_instruction,
        ),
        ImportStage(
            **common, fingerprint=import_fp, upstream={"eval": eval_fp}, options=spec.import_
        ),
    )
    return Plan(run_id, spec, seed, dataset, stages)


def _export_identity(spec: RunSpec, digests: InputDigests) -> dict[str, Any]:
    """Contents, not places; and of what the export reads, only what it makes use of."""
    identity = {**spec.export.model_dump(mode="json"), "tokenizer": digests.tokenizer}
    if spec.export.contamination != "off":
        identity["eval_prompts_sha256"] = digests.eval_prompts
    if digests.tokenizer is not None:
        identity["system_instruction"] = spec.system_instruction
        identity["model_family"] = spec.train.model.kind
    return identity


def _fingerprint(
    stage: str, code: str, identity: dict[str, Any], upstream: dict[str, str], **inputs: Any
) -> str:
    return _sha256(
        {
            "stage": stage,
            "code": code,
            "identity": identity,
            "upstream": upstream,
            "inputs": inputs,
        }
    )


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(jsonl.dump_line(value)).hexdigest()


State = Literal["done", "cached", "to run"]


def stage_state(stage: StageSpec) -> State:
    """Whether a stage has its record, can take over another run's, or has to run."""
    artifacts = stage.execution.artifacts
    if records.find(artifacts, stage.run_id, stage.stage) is not None:
        return "done"
    if records.find_cached(artifacts, stage.fingerprint) is not None:
        return "cached"
    return "to run"


def write_run_manifest(plan: Plan, checkout: Path, *, image: str | None = None) -> str:
    """Write what the run is, before its first stage; create-only, so the first one stands.

    Args:
        plan: the run.
        checkout: where it is planned.
        image: what a cluster runs; None: the checkout itself.

    Returns:
        Its URL.
    """
    url = paths.join(layout.run_prefix(plan.artifacts, plan.run_id), "run_manifest.json")
    with DatasetSource(plan.spec.execution.datasets) as source:
        manifest = source.load_manifest(plan.dataset.key)
    value = {
        "schema_version": "1",
        "run_id": plan.run_id,
        "spec": plan.spec.model_dump(mode="json", by_alias=True),
        "seed": plan.seed,
        "recipe": plan.dataset.recipe,
        "instruction": plan.dataset.instruction,
        "dataset": {
            "key": plan.dataset.key,
            "build_id": plan.dataset.build_id,
            "content_sha256": manifest.content_sha256,
            "trace_count": manifest.trace_count,
        },
        "stages": {stage.stage: stage.fingerprint for stage in plan.stages},
        "image": image,
        "provenance": provenance.gather(checkout),
    }
    files.publish(url, jsonl.dump_line(value))
    return url
