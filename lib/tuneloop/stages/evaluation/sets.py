"""The eval sets of the stage: read them, and check that the training set was searched for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from tuneloop.artifacts.evaluation.delta_report import ContaminationState
from tuneloop.artifacts.evaluation.eval_samples import EvalSet, Item, Stopping
from tuneloop.artifacts.results import ExportResults
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.scoring import ScorerName, check_allowed, scorer_of
from tuneloop.evaluation.scorers.user_file import UserScorer
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.specs.evaluation import EvalSetSpec
from tuneloop.specs.stages import EvalSetRef, EvalStage
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.stages.planned import load_planned_scorer, read_planned_set


@dataclass(frozen=True)
class EarlyStop:
    """Which items of a set were asked, if the evaluation could stop early."""

    every: tuple[EvalItem, ...]
    """All items of the set."""
    places: Mapping[str, int]
    """Id of each item -> its place in the random order."""
    row: Stopping


@dataclass(frozen=True)
class LoadedSet:
    """One eval set with its items."""

    options: EvalSetSpec
    ref: EvalSetRef
    items: tuple[EvalItem, ...]
    scorer: ScorerName
    """Scorer of items that name none; a Python file is loaded."""
    early_stop: EarlyStop | None = None
    """Set after the questions: `items` are those that were asked. None: all of them were."""

    @property
    def name(self) -> str:
        """Name of the set in the run."""
        return self.ref.name

    @property
    def scorer_name(self) -> str | dict[str, Any]:
        """The scorer as the spec names it; of a file, the name without its folder."""
        found = self.options.scorer
        return found if self.ref.scorer_sha256 is None else str(found).rsplit("/", 1)[-1]

    @property
    def user_scorer(self) -> UserScorer | None:
        """The scorer, if it is a Python file."""
        return self.scorer if isinstance(self.scorer, UserScorer) else None

    @property
    def row(self) -> EvalSet:
        """Its row in the file of samples."""
        return EvalSet(
            name=self.name,
            version=self.ref.version,
            sha256=self.ref.sha256,
            scorer=self.scorer_name,
            scorer_sha256=self.ref.scorer_sha256 or UNSET,
            weight=self.options.weight,
            samples=self.options.samples,
            stopping=UNSET if self.early_stop is None else self.early_stop.row,
        )

    @property
    def item_rows(self) -> Iterator[Item]:
        """Rows of all items in the file of samples, also of those that were not asked."""
        if self.early_stop is None:
            yield from (item.to_item(self.name) for item in self.items)
            return
        for item in self.early_stop.every:
            place = self.early_stop.places[item.id]
            yield msgspec.structs.replace(item.to_item(self.name), order=place)


def load_sets(spec: EvalStage, stage: Stage) -> tuple[LoadedSet, ...]:
    """Read all eval sets, in the order of the spec.

    Raises:
        InputMissing: a file is gone.
        DataError: a file was changed after the run was planned.
        SpecError: a scorer is not allowed to run here.
    """
    pairs = zip(spec.options.all_sets, spec.eval_sets, strict=True)
    return tuple(_load(options, ref, stage) for options, ref in pairs)


def _load(options: EvalSetSpec, ref: EvalSetRef, stage: Stage) -> LoadedSet:
    items = read_planned_set(ref, stage, "its place in `eval` of the spec")
    scorer = load_planned_scorer(
        options.scorer,
        f"the scorer of {ref.name}",
        ref.scorer_sha256,
        stage,
        f"scorer {ref.name}",
    )
    # Before the first question, because answers cost time.
    for each in (scorer, *(item.scorer for item in items if item.scorer is not None)):
        check_allowed(scorer_of(each), ())
    return LoadedSet(options, ref, items, scorer)


def contamination(spec: EvalStage, stage: Stage, sets: Sequence[LoadedSet]) -> str:
    """Return the result of the export's contamination check, for the report.

    Raises:
        SpecError: the export did not look for a set, and the spec requires that.
    """
    exported = stage.upstream("export").results_as(ExportResults)
    found, state = exported.contamination, contamination_state(exported, sets)
    if state == "kept":
        return f"{found.kept} training examples overlap the eval sets and were kept"
    if state == "clean":
        return f"checked: none left in the training set, {found.excluded} traces were kept out"
    if not spec.options.allow_unchecked:
        raise SpecError(
            "eval: the training set was not checked for the eval sets, expected a check by exact"
            " and 13-word overlap; set export.contamination to drop, or eval.allow_unchecked to"
            " true, which adds a warning to the report"
        )
    return "NOT CHECKED: the training set may hold the eval set"


def contamination_state(exported: ExportResults, sets: Sequence[LoadedSet]) -> ContaminationState:
    """Return whether the training set holds questions of the sets, as far as the export knows."""
    found = exported.contamination
    if not all(each.ref.prompts_sha256 in found.prompts_sha256 for each in sets):
        return "unchecked"
    return "kept" if found.kept else "clean"
