"""Score the answers of a finished run again, and build its report from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.delta_report import DeltaReport, dump_report
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Judgement, Sample, dump_samples
from tuneloop.artifacts.results import NoiseFloor, RecordPart
from tuneloop.artifacts.runs.run_manifest import read_run_manifest
from tuneloop.errors import DataError
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.markdown import render_markdown
from tuneloop.evaluation.report.page.html import render_html
from tuneloop.evaluation.report.texts import TUNED
from tuneloop.evaluation.scorers.scoring import ScorerName, score_text
from tuneloop.runs.outcome import load_outcome, required_report
from tuneloop.runs.reports.samples import SAMPLES, read_samples
from tuneloop.runs.reports.scorer_files import scorers_of
from tuneloop.training.prompt_templates import Recipe, recipe_named

SHOWN = 10
"""Changed answers that are listed; `as_json` has all."""


class _Noise(RecordPart):
    """The noise floor among the results of the eval stage."""

    noise: NoiseFloor | None = None


@dataclass(frozen=True)
class Change:
    """An answer that is judged differently."""

    set: str
    item: str
    model: str
    sample: int
    reading: str
    """`strict` or `lenient`."""
    before: Judgement
    after: Judgement


@dataclass(frozen=True)
class Rescored:
    """A run with new scores."""

    run_id: str
    samples: EvalSamples
    report: DeltaReport
    former: DeltaReport
    changes: tuple[Change, ...]

    def lines(self) -> list[str]:
        """Say what changed."""
        total = len(self.samples.samples)
        strict = sum(each.reading == "strict" for each in self.changes)
        lenient = len(self.changes) - strict
        said = [
            f"{self.run_id}: scored {total} answers again: {strict} strict and {lenient} lenient"
            " scores changed"
        ]
        steps = Counter((e.reading, e.before.state, e.after.state) for e in self.changes)
        for (reading, before, after), count in sorted(steps.items()):
            said.append(f"  {reading}: {count} from {before} to {after}")
        for each in self.changes[:SHOWN]:
            said.append(
                f"  {each.set}/{each.item}, {each.model}: {each.before.state} ->"
                f" {each.after.state} ({each.reading})"
            )
        if len(self.changes) > SHOWN:
            said.append(f"  and {len(self.changes) - SHOWN} more; --format json lists all")
        old, new = self.former, self.report
        if old.verdict != new.verdict:
            said.append(f"verdict: {old.verdict} -> {new.verdict}")
        if old.overall != new.overall:
            said.append(
                f"accuracy: base {_percent(old.overall.base.share)} ->"
                f" {_percent(new.overall.base.share)}, tuned"
                f" {_percent(old.overall.tuned.share)} -> {_percent(new.overall.tuned.share)}"
            )
        return said

    def as_json(self) -> dict[str, Any]:
        """Return the new report with all changes, for `--format json`."""
        return {
            "run_id": self.run_id,
            **self.report.model_dump(mode="json"),
            "rescored": {
                "answers": len(self.samples.samples),
                "former_verdict": self.former.verdict,
                "changes": [msgspec.to_builtins(each) for each in self.changes],
            },
        }

    def files(self) -> dict[str, bytes]:
        """Return all files of the report by name."""
        return {
            SAMPLES: b"".join(dump_samples(self.samples)),
            "delta_report.json": dump_report(self.report),
            "delta_report.md": self.markdown().encode(),
            "delta_report.html": render_html(self.report, self.samples).encode(),
        }

    def markdown(self) -> str:
        """Return the report as Markdown."""
        return render_markdown(self.report, self.samples)


def rescore_run(artifacts: str, run_id: str) -> Rescored:
    """Score all answers of a run with the scorers of this version; nothing is written.

    Raises:
        InputMissing: the run has no evaluation, or one without samples.
        DataError: a file is broken, or the run does not name its prompt template.
        SpecError: a scorer is a Python file, and nobody has allowed it to run here.
    """
    former = required_report(load_outcome(artifacts, run_id))
    manifest = read_run_manifest(artifacts, run_id)
    if manifest is None or manifest.recipe is None:
        raise DataError(
            f"run {run_id}: its manifest names no recipe, so answers cannot be read from the"
            " texts; run it again with this version of tuneloop"
        )
    found = read_samples(artifacts, run_id)
    record = records.find(artifacts, run_id, "eval")
    scorers = None if record is None else scorers_of(found, record, artifacts)
    samples = rescore(found, recipe_named(manifest.recipe), scorers)
    changes = tuple(_changes(found, samples))
    noise = _noise(artifacts, run_id, changes)
    context = former.context().model_copy(update={"noise": noise})
    return Rescored(run_id, samples, build_report(samples, context), former, changes)


def _noise(artifacts: str, run_id: str, changes: Sequence[Change]) -> NoiseFloor | None:
    """Return the noise floor of the record, which reports of older versions do not have.

    The texts of answers that were asked again are not kept, so their scores cannot be compared if
    the tuned model's answers are scored differently now.
    """
    record = records.find(artifacts, run_id, "eval")
    noise = record.results_as(_Noise).noise if record else None
    differs = any(each.model == TUNED and each.reading == "strict" for each in changes)
    return noise.model_copy(update={"flipped": None}) if noise and differs else noise


def rescore(
    found: EvalSamples, recipe: Recipe, scorers: Mapping[str, ScorerName] | None = None
) -> EvalSamples:
    """Return the samples with new scores.

    An answer that could not be generated stays an error.

    Args:
        found: the samples.
        recipe: prompt template of the dataset, which knows the form of a response.
        scorers: name of each set -> its scorer; None takes those that the samples name.
    """
    named = scorers or {name: each.scorer for name, each in found.sets.items()}

    def parse(text: str) -> str | None:
        return recipe.parse_response(text).answer

    def scored(one: Sample) -> Sample:
        if one.score.state == "error" and not one.text:
            return one
        strict, lenient = score_text(
            one.text,
            found.items[one.set, one.item],
            named[one.set],
            parse=parse,
            is_chat=recipe.is_chat,
            hit_limit=one.hit_limit,
        )
        kept = UNSET if lenient == strict else lenient
        return msgspec.structs.replace(one, score=strict, lenient=kept)

    return EvalSamples(found.sets, found.models, found.items, tuple(map(scored, found.samples)))


def _changes(before: EvalSamples, after: EvalSamples) -> list[Change]:
    changes = []
    for old, new in zip(before.samples, after.samples, strict=True):
        for reading, was, now in (
            ("strict", old.score, new.score),
            ("lenient", old.lenient_score, new.lenient_score),
        ):
            if (was.state, was.value) != (now.state, now.value):
                changes.append(Change(new.set, new.item, new.model, new.sample, reading, was, now))
    return changes


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
