"""The verdict of a report, and the sentence that says it."""

from __future__ import annotations

from collections.abc import Sequence

from tuneloop.artifacts.evaluation.accuracy import Group
from tuneloop.artifacts.evaluation.delta_report import DeltaReport
from tuneloop.artifacts.evaluation.set_result import SetResult, Verdict
from tuneloop.evaluation.statistics.holm import adjust
from tuneloop.evaluation.statistics.paired import SIGNIFICANT

_ENDS: dict[str, str] = {
    "improved": "This is an improvement.",
    "regressed": "This is a regression.",
    "no detectable difference": "No difference is detected.",
}


def verdict_of(group: Group, p_value: float | None = None) -> Verdict:
    """Return the verdict on one group.

    Args:
        group: both models on the items.
        p_value: adjusted p-value; None takes the group's own.
    """
    p_value = group.paired.p_value if p_value is None else p_value
    if group.paired.anytime:
        return _anytime_verdict(group, p_value)
    if p_value >= SIGNIFICANT or group.gain == 0:
        return "no detectable difference"
    return "improved" if group.gain > 0 else "regressed"


def _anytime_verdict(group: Group, p_value: float) -> Verdict:
    """Return the verdict of a test that could stop at any item.

    The interval gives the direction: the gain may have changed its sign after the decision.
    """
    low, high = group.paired.gain_low, group.paired.gain_high
    if p_value >= SIGNIFICANT or low is None or high is None or low <= 0 <= high:
        return "no detectable difference"
    return "improved" if low > 0 else "regressed"


def worse_sets(sets: Sequence[SetResult]) -> list[SetResult]:
    """Return the required and guarded sets that got worse, with Holm-adjusted p-values."""
    counted = [each for each in sets if each.weight != "informative"]
    if len(counted) < 2:
        return [each for each in counted if each.verdict == "regressed"]
    adjusted = adjust([each.overall.paired.p_value for each in counted])
    return [
        each
        for each, p_value in zip(counted, adjusted, strict=True)
        if verdict_of(each.overall, p_value) == "regressed"
    ]


def judge(sets: Sequence[SetResult]) -> Verdict:
    """Return the verdict on all sets.

    It is `regressed` if a required or guarded set got worse, and `improved` if every required set
    got better. Without a required set, the first set decides in its place.
    """
    if worse_sets(sets):
        return "regressed"
    required = [each for each in sets if each.weight == "required"] or sets[:1]
    verdicts = {each.verdict for each in required}
    if verdicts == {"improved"}:
        return "improved"
    return "regressed" if verdicts == {"regressed"} else "no detectable difference"


def sentence(report: DeltaReport) -> str:
    """Say the verdict in a sentence or two for readers who do not know statistics."""
    overall, judged = report.overall, report.judged
    where = "" if len(judged) == 1 else f"on the {len(judged)} required sets together, "
    gain, paired = overall.gain, overall.paired
    interval = ""
    if paired.gain_low is not None and paired.gain_high is not None:
        kind = "interval that allows for stopping early" if paired.anytime else "interval"
        interval = f" (95 % {kind}: {span(paired.gain_low, paired.gain_high)})"
    if gain == 0:
        said = (
            f"{where}the tuned model answers as many questions correctly as the base model"
            f"{interval}."
        )
    else:
        doubt = (
            ""
            if verdict_of(overall) != "no detectable difference"
            else (", but the difference may be chance")
        )
        said = (
            f"{where}out of 100 questions, the tuned model answers {change(gain)} correctly than"
            f" the base model{doubt}{interval}."
        )
    return f"{said[0].upper()}{said[1:]} {_end(report)}{stop_sentence(report)}"


def stop_sentence(report: DeltaReport) -> str:
    """Say how many questions were not asked; empty if all were."""
    stopped = [each for each in report.sets if each.stopping and each.stopping.not_asked]
    if not stopped:
        return ""
    said = [
        f"{each.items} of {each.items + each.stopping.not_asked} questions"
        + (f" of {each.name}" if len(report.judged) > 1 else "")
        for each in stopped
        if each.stopping
    ]
    said[-2:] = [" and ".join(said[-2:])]
    return f" The evaluation stopped after {', '.join(said)}, because the result was decided."


def _end(report: DeltaReport) -> str:
    if report.verdict == verdict_of(report.overall):
        return _ENDS[report.verdict]
    worse = worse_sets(report.sets)
    if worse:
        named = ", ".join(f"{each.name} ({change(each.overall.gain)} out of 100)" for each in worse)
        return f"It got worse on {named}, so the verdict is a regression."
    same = [each.name for each in report.sets if each.name in report.judged]
    same = [name for name in same if _verdicts(report)[name] != "improved"]
    return f"It is not better on {', '.join(same)}, so no improvement is claimed."


def _verdicts(report: DeltaReport) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in report.sets}


def change(gain: float) -> str:
    """Format a gain for 100 questions, such as `12 more` or `0.4 fewer`."""
    return f"{_hundred(abs(gain))} {'more' if gain >= 0 else 'fewer'}"


def span(low: float, high: float) -> str:
    """Format an interval of gains for 100 questions, such as `5 to 19 more`."""
    if low < 0 < high:
        return f"{change(low)} to {change(high)}"
    ends = sorted((abs(low), abs(high)))
    direction = "more" if high > 0 else "fewer"
    return f"{_hundred(ends[0])} to {_hundred(ends[1])} {direction}"


def _hundred(share: float) -> str:
    value = 100 * share
    return f"{value:.0f}" if value >= 0.95 or value == 0 else f"{value:.1f}"
