"""Compare the tuned models of runs on the eval sets that the runs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tuneloop.artifacts.evaluation.eval_samples import EvalSamples
from tuneloop.errors import UsageError
from tuneloop.evaluation.report.answers import Answers, by_set
from tuneloop.evaluation.report.figures import accuracy_of
from tuneloop.evaluation.report.texts import TUNED
from tuneloop.evaluation.statistics.anytime import compare_anytime
from tuneloop.evaluation.statistics.holm import adjust
from tuneloop.evaluation.statistics.paired import SIGNIFICANT, Verdict, compare_scores
from tuneloop.runs.reports.samples import read_samples


@dataclass(frozen=True)
class Row:
    """The tuned model of one run on one set."""

    set: str
    sha256: str
    run_id: str
    items: int
    """Items that both runs have."""
    accuracy: float
    low: float
    """Lower end of the 95 % interval of the accuracy."""
    high: float
    gain: float | None = None
    """Accuracy minus that of the first run, on the same items; null for the first run."""
    gain_low: float | None = None
    gain_high: float | None = None
    p_value: float | None = None
    adjusted_p: float | None = None
    """p-value after Holm's correction for all comparisons; null for the first run."""
    better: int | None = None
    """Items that this run answered better than the first."""
    worse: int | None = None
    verdict: Verdict | None = None
    """Verdict by the adjusted p-value; null for the first run."""


def compare_runs(artifacts: str, run_ids: Sequence[str]) -> list[Row]:
    """Compare the tuned model of each run with that of the first, on each set that they share.

    Sets are the same if their files have the same digest; their names do not matter.

    Args:
        artifacts: URL of the artifacts.
        run_ids: at least two runs.

    Raises:
        InputMissing: a run has no samples.
        UsageError: no run shares a set with the first.
    """
    return compare_samples({each: read_samples(artifacts, each) for each in run_ids})


def compare_samples(samples: Mapping[str, EvalSamples]) -> list[Row]:
    """Compare runs by their samples; see `compare_runs`.

    Args:
        samples: run -> its samples, the first run first.

    Raises:
        UsageError: no run shares a set with the first.
    """
    sets = {run_id: _sets_of(found) for run_id, found in samples.items()}
    first, *others = sets
    rows = []
    for digest, (name, before) in sets[first].items():
        pairs = [(run_id, sets[run_id][digest][1]) for run_id in others if digest in sets[run_id]]
        if pairs:
            rows.append(_alone(name, digest, first, before))
        rows += [_compared(name, digest, run_id, before, after) for run_id, after in pairs]
    if not rows:
        known = "; ".join(
            f"{run_id} has {', '.join(name for name, _ in found.values()) or 'none'}"
            for run_id, found in sets.items()
        )
        raise UsageError(
            f"compare: no run shares an eval set with {first}, expected a set with the same digest:"
            f" {known}; compare other runs, or evaluate them on one set"
        )
    return _adjusted(rows)


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """Adjust p-values and verdicts for the number of comparisons."""
    adjusted = iter(adjust([row.p_value for row in rows if row.p_value is not None]))
    return [row if row.p_value is None else _decided(row, next(adjusted)) for row in rows]


def _decided(row: Row, adjusted_p: float) -> Row:
    chance = adjusted_p >= SIGNIFICANT
    verdict = "no detectable difference" if chance else row.verdict
    return replace(row, adjusted_p=adjusted_p, verdict=verdict)


def _sets_of(samples: EvalSamples) -> dict[str, tuple[str, tuple[list[str], Answers]]]:
    """Return digest of each set -> its name, its items' ids, and the tuned model's answers."""
    return {
        samples.sets[name].sha256: (
            name,
            ([item.id for item in found.items], found.models[TUNED]),
        )
        for name, found in by_set(samples).items()
        if TUNED in found.models
    }


def _alone(name: str, digest: str, run_id: str, found: tuple[list[str], Answers]) -> Row:
    ids, answers = found
    accuracy = accuracy_of(answers)
    share = float(answers.values.mean())
    return Row(name, digest, run_id, len(ids), share, accuracy.low, accuracy.high)


def _compared(
    name: str,
    digest: str,
    run_id: str,
    before: tuple[list[str], Answers],
    after: tuple[list[str], Answers],
) -> Row:
    before, after = _shared(before, after), _shared(after, before)
    alone = asdict(_alone(name, digest, run_id, after))
    base, tuned = before[1], after[1]
    order = base.order or tuned.order
    scores = np.asarray(base.values), np.asarray(tuned.values), base.groups
    found = compare_scores(*scores) if order is None else compare_anytime(*scores, order)
    return Row(
        **{
            **alone,
            "gain": found.gain,
            "gain_low": found.low,
            "gain_high": found.high,
            "p_value": found.p_value,
            "better": found.higher,
            "worse": found.lower,
            "verdict": found.verdict,
        }
    )


def _shared(
    own: tuple[list[str], Answers], other: tuple[list[str], Answers]
) -> tuple[list[str], Answers]:
    """Return the answers to items that both runs asked; one that stopped early asked fewer."""
    # The same digest means the same items in the same order.
    ids, answers = own
    known = set(other[0])
    rows = np.array([n for n, each in enumerate(ids) if each in known], np.int64)
    if len(rows) == len(ids):
        return own
    return [ids[n] for n in rows], replace(
        answers,
        samples=[answers.samples[n] for n in rows],
        groups=answers.groups[rows],
        order=answers.order and answers.order.take(rows),
    )


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return all rows, for `--json`."""
    return {"first": rows[0].run_id, "rows": [asdict(row) for row in rows]}
