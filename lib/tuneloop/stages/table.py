"""The stages of the loop: one row each. Planning, both backends, display and pages loop over it.

To add a stage: write its module with `run(spec, stage)`, its spec class in `specs/stages.py`, a
row here, and its name in the rows of `pipelines.py` that have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tuneloop.artifacts.results import (
    EvalCounts,
    EvalResults,
    ExportCounts,
    ImportCounts,
    ImportedScores,
    TrainCounts,
    TrainResults,
)
from tuneloop.specs.evaluation import SHORT_FORM
from tuneloop.specs.export import ExportSpec
from tuneloop.specs.run import RunSpec
from tuneloop.specs.stages import (
    DatasetRef,
    EvalSetRef,
    EvalStage,
    ExportStage,
    ImportStage,
    ModelRef,
    SampleStage,
    ScoreStage,
    StageSpec,
    TrainStage,
)
from tuneloop.stages.sampling import row as sampling
from tuneloop.stages.scoring import row as scoring

if TYPE_CHECKING:
    from tuneloop.artifacts.model_manifest import ModelManifest
    from tuneloop.artifacts.records import Record

Scope = Literal["single", "shared", "gang"]
Fields = dict[str, Any]


@dataclass(frozen=True)
class RunInputs:
    """Everything outside the code that the results of a run depend on."""

    spec: RunSpec
    dataset: DatasetRef
    seed: int
    eval_sets: tuple[EvalSetRef, ...]
    """The eval sets in the order of the spec; their URLs and sizes are never part of the
    identity."""
    baselines: dict[str, ModelRef] = field(default_factory=dict, kw_only=True)
    """Name in the spec -> baseline of the evaluation; its place is never part of the identity."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer that counts tokens in the export; None if it counts characters."""
    model: ModelManifest | None = None
    """Manifest of the model that training starts from; None for random weights."""
    model_ref: ModelRef | None = None
    """Where that model is stored; never part of the identity. None for random weights."""


@dataclass(frozen=True)
class StageDef:
    """One stage of the loop."""

    name: str
    """Name on the command line, in paths and records."""
    module: str
    """Module with `run(spec, stage)`, and `merge(spec, stage, shards)` if the stage is shared."""
    spec: type[StageSpec]
    """Class of the stage's spec."""
    upstream: tuple[str, ...]
    """Stages whose records this stage reads, as far as its run has them."""
    fields: Callable[[Any], Fields]
    """(inputs of the run) -> fields of the stage's spec besides those that every stage spec has."""
    identity: Callable[[Any], Fields]
    """(inputs of the run) -> what determines the result besides code and upstream stages; it enters
    the fingerprint."""
    inputs: Callable[[Any], Fields] = lambda inputs: {}
    """Digests of outside inputs and the seed, if the result depends on them."""
    scope: Scope = "single"
    """How many processes run the stage: `single` is one process; `shared` is N processes that each
    do a share; `gang` is N processes that form one process group."""
    extra: str = "train"
    """Package extra that installs the libraries of the stage."""
    lock: str = "requirements/train.txt"
    """Lock whose content is part of the stage's code identity."""
    copies: tuple[str, ...] = ()
    """Outputs that are also copied to the folder of the run, where users look for them."""
    summary: Callable[[Record], str] = lambda record: ""
    """One line about a finished stage."""
    uses_store: Callable[[Any], bool] = lambda spec: False
    """Whether the stage calls the trace store and so needs its token."""
    feeds_sink: bool = False
    """Whether the stage sends metrics to `execution.metrics_sink` and so needs its credentials."""


def _export_options(spec: RunSpec) -> ExportSpec:
    """A pretrained model can count tokens, so the limit of training is kept in the export."""
    tokens = spec.export.max_length_tokens
    if tokens is None and spec.starts_pretrained:
        tokens = spec.train.max_length_tokens
    return spec.export.model_copy(update={"max_length_tokens": tokens})


def _export_fields(inputs: RunInputs) -> Fields:
    spec = inputs.spec
    return {
        "options": _export_options(spec),
        "eval_sets": inputs.eval_sets,
        "model": inputs.model_ref,
        "thinking": spec.train.thinking,
        "tokenizer_sha256": inputs.tokenizer_sha256,
        "system_instruction": spec.system_instruction,
    }


def _export_identity(inputs: RunInputs) -> Fields:
    """Contents instead of locations, and only the contents that these options use."""
    spec = inputs.spec
    options = _export_options(spec)
    # Runs with the default loss have the identity that they had before there was another one.
    without = {"loss"} if options.loss == "final" else set[str]()
    identity: Fields = {
        **options.model_dump(mode="json", exclude=without),
        "tokenizer": inputs.tokenizer_sha256,
    }
    if spec.export.contamination != "off":
        # Exclusions name the items of the first set by their ids alone, so its name is not here.
        first, *others = inputs.eval_sets
        identity["eval_prompts"] = [first.prompts_sha256]
        identity["eval_prompts"] += [(each.name, each.prompts_sha256) for each in others]
    if inputs.model is not None:
        # Not the whole model: runs with other weights share the export.
        identity["model"] = {
            "text_files": inputs.model.text_digests,
            "thinking": spec.train.thinking,
        }
    if inputs.model is not None or inputs.tokenizer_sha256 is not None:
        identity["system_instruction"] = spec.system_instruction
    return identity


def _export_summary(record: Record) -> str:
    counts = record.counts_as(ExportCounts)
    return f"{counts.traces} traces -> {counts.examples} examples"


def _train_fields(inputs: RunInputs) -> Fields:
    return {
        "options": inputs.spec.train,
        "model": inputs.model_ref,
        "system_instruction": inputs.spec.system_instruction,
    }


def _train_identity(inputs: RunInputs) -> Fields:
    """The content of a stored model; its name and place do not matter."""
    spec = inputs.spec
    options = spec.train.model_dump(mode="json")
    if not spec.train.keep_checkpoints:  # the identity that runs had before there was the option
        del options["keep_checkpoints"]
    if inputs.model is not None:
        options["model"] = {"kind": "pretrained", "digest": inputs.model.digest}
        del options["tokenizer"]  # the model brings its own
    return {**options, "system_instruction": spec.system_instruction}


def _train_summary(record: Record) -> str:
    counts, results = record.counts_as(TrainCounts), record.results_as(TrainResults)
    text = f"{counts.steps} steps, loss {results.loss_first:.3f} -> {results.loss_last:.3f}"
    if results.validation_loss_first is not None and results.validation_loss_best is not None:
        first, best = results.validation_loss_first, results.validation_loss_best
        text += f", validation {first:.3f} -> {best:.3f} at step {results.best_step}"
    if results.stopped_early:
        text += ", stopped early"
    return text


def _eval_fields(inputs: RunInputs) -> Fields:
    return {
        "options": inputs.spec.eval,
        "eval_sets": inputs.eval_sets,
        "baselines": inputs.baselines,
        "model": inputs.model_ref,
        "thinking": inputs.spec.train.thinking,
        "system_instruction": inputs.spec.system_instruction,
    }


def _eval_identity(inputs: RunInputs) -> Fields:
    """Name and content of each set; neither its folder nor the form of the spec matters."""
    options = inputs.spec.eval
    sets = zip(options.all_sets, inputs.eval_sets, strict=True)
    # Runs without a server have the identity that they had before there were servers.
    without = {"backend"} if options.backend is None else set()
    if not options.checkpoints:
        without |= {"checkpoints"}
    if not options.stop_early:
        without |= {"stop_early", "stop_candidate"}
    return {
        **options.model_dump(mode="json", exclude={*SHORT_FORM, "sets", *without}),
        "sets": [
            {
                **each.model_dump(mode="json", exclude={"url"}),
                "name": ref.name,
                "sha256": ref.sha256,
                "scorer": _scorer_identity(each.scorer, ref.scorer_sha256),
            }
            for each, ref in sets
        ],
        "baselines": [(name, ref.digest) for name, ref in inputs.baselines.items()],
    }


def _scorer_identity(scorer: str | dict[str, Any], file_sha256: str | None) -> Any:
    """Name and content of a scorer that is a file; its folder does not matter."""
    return scorer if file_sha256 is None else [str(scorer).rsplit("/", 1)[-1], file_sha256]


def _eval_summary(record: Record) -> str:
    counts, results = record.counts_as(EvalCounts), record.results_as(EvalResults)
    base, tuned = 100 * results.accuracy_base, 100 * results.accuracy_tuned
    text = f"{counts.items} items, accuracy {base:.1f} % -> {tuned:.1f} %"
    if results.random_weights:
        text += ", from random weights"
    if counts.not_asked:
        text += f", decided with {counts.not_asked} items not asked"
    if counts.guard_items:
        text += f", {counts.guard_kept} of {counts.guard_base_correct} guarded answers kept"
    return text


def _import_summary(record: Record) -> str:
    if "scores" in record.counts:
        posted = record.counts_as(ImportedScores)
        more = f", {posted.unknown_traces} of deleted traces" if posted.unknown_traces else ""
        return f"{posted.scores} scores in the store{more}"
    return f"{record.counts_as(ImportCounts).traces} traces in the store"


def _seed(inputs: RunInputs) -> Fields:
    return {"seed": inputs.seed}


STAGES: dict[str, StageDef] = {
    row.name: row
    for row in (
        StageDef(
            name="export",
            module="tuneloop.stages.export",
            spec=ExportStage,
            upstream=(),
            fields=_export_fields,
            identity=_export_identity,
            inputs=lambda inputs: {"dataset": inputs.dataset.build_id},
            scope="shared",
            extra="data",
            lock="requirements/base.txt",
            copies=("export_report.md", "lengths.svg"),
            summary=_export_summary,
            uses_store=lambda spec: (spec.execution.datasets_url or "").startswith("http"),
        ),
        StageDef(
            name="train",
            module="tuneloop.stages.train",
            spec=TrainStage,
            upstream=("export",),
            fields=_train_fields,
            identity=_train_identity,
            inputs=_seed,
            scope="gang",
            copies=("metrics.jsonl",),
            summary=_train_summary,
            feeds_sink=True,
        ),
        StageDef(
            name="eval",
            module="tuneloop.stages.evaluate",
            spec=EvalStage,
            upstream=("export", "train"),
            fields=_eval_fields,
            identity=_eval_identity,
            inputs=_seed,
            scope="shared",
            copies=(
                "eval_before.jsonl",
                "eval_after.jsonl",
                "delta_report.md",
                "delta_report.json",
                "delta_report.html",
                "samples.jsonl",
            ),
            summary=_eval_summary,
            feeds_sink=True,
        ),
        StageDef(
            name="sample",
            module="tuneloop.stages.sample",
            spec=SampleStage,
            upstream=(),
            fields=sampling.fields,
            identity=sampling.identity,
            inputs=sampling.inputs_of,
            scope="shared",
            copies=("sampled.jsonl", "sampling_report.md"),
            summary=sampling.summary,
            uses_store=sampling.uses_store,
        ),
        StageDef(
            name="score",
            module="tuneloop.stages.score",
            spec=ScoreStage,
            upstream=(),
            fields=scoring.fields,
            identity=scoring.identity,
            inputs=scoring.inputs_of,
            scope="shared",
            extra="eval",
            copies=("scores.jsonl",),
            summary=scoring.summary,
            uses_store=scoring.uses_store,
        ),
        StageDef(
            name="import",
            module="tuneloop.stages.import_traces",
            spec=ImportStage,
            upstream=("eval", "sample", "score"),
            fields=lambda inputs: {"options": inputs.spec.import_},
            identity=lambda inputs: {},
            extra="store",
            lock="requirements/base.txt",
            summary=_import_summary,
            uses_store=lambda spec: True,
        ),
    )
}
"""Stage name -> row, in the order of every kind of run; each reads only records of stages before
it."""


def names_in(scope: Scope) -> list[str]:
    """Return the names of the stages of a scope, in the order of the loop."""
    return [row.name for row in STAGES.values() if row.scope == scope]
