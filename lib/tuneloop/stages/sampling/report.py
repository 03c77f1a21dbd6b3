"""Count the samples of a run, and describe them in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneloop.artifacts.evaluation.eval_samples import STATES, Item, Judgement
from tuneloop.artifacts.results import SampleCounts, SampleResults
from tuneloop.evaluation.statistics.dtypes import Counts
from tuneloop.evaluation.statistics.repeats import pass_at_k
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.sampling.prompts import Prompts

FILE = "sampling_report.md"
MOST_CATEGORIES = 50
"""Categories that the report lists."""


@dataclass(frozen=True)
class Scored:
    """One completion with its score."""

    item: Item
    sample: int
    """Number of the completion among those of its prompt, from 0."""
    generation: Generation
    judgement: Judgement


def count_samples(prompts: Prompts, scored: Sequence[Scored]) -> SampleCounts:
    """Count prompts and samples by what became of them."""
    states = Counter(each.judgement.state for each in scored)
    return SampleCounts(
        prompts=len(prompts.items),
        prompts_repeated=prompts.repeated,
        prompts_ambiguous=prompts.ambiguous,
        prompts_apart=prompts.apart,
        prompts_unscorable=prompts.unscorable,
        prompts_conversation=prompts.conversation,
        prompts_not_renderable=prompts.not_renderable,
        prompts_over_limit=prompts.over_limit,
        samples=len(scored),
        tokens=sum(each.generation.tokens for each in scored),
        **{state: states[state] for state in STATES},
    )


def measure(
    scored: Sequence[Scored], completions: int, model_digest: str, answered_by: str | None
) -> SampleResults:
    """Compute the results of a stage.

    Args:
        scored: all samples, those of one prompt next to each other.
        completions: completions of each prompt.
        model_digest: digest of the model.
        answered_by: the server that drew the samples; None if the stage did.
    """
    correct = _correct(scored, completions)
    samples = np.full(len(correct), completions)
    return SampleResults(
        model_digest=model_digest,
        mean_reward=float(np.mean([each.judgement.value for each in scored])),
        pass_at={k: float(pass_at_k(correct, samples, k).mean()) for k in tries(completions)},
        all_correct=float((correct == completions).mean()),
        none_correct=float((correct == 0).mean()),
        answered_by=answered_by,
    )


def tries(completions: int) -> list[int]:
    """Return the numbers of tries that are reported: powers of two, and all completions."""
    powers = [2**n for n in range(completions.bit_length()) if 2**n < completions]
    return [*powers, completions]


def _correct(scored: Sequence[Scored], completions: int) -> Counts:
    """Return the number of correct completions of each prompt: int (prompts,)."""
    flags = np.array([each.judgement.state == "correct" for each in scored])
    counts: Counts = flags.reshape(-1, completions).sum(axis=1)
    return counts


def render(counts: SampleCounts, results: SampleResults, scored: Sequence[Scored]) -> str:
    """Render the report as Markdown; equal arguments give equal text."""
    lines = [
        "# Samples",
        "",
        # Not the name of the model: runs with the same weights share the report.
        f"{counts.samples:,} completions of {counts.prompts:,} prompts by the model with the digest"
        f" `{results.model_digest[:12]}`.",
        "",
        "| state | completions | share |",
        "|---|--:|--:|",
        *(_row(state, getattr(counts, state), counts.samples) for state in STATES),
        "",
        f"- Mean reward: {results.mean_reward:.3f}",
        *(f"- pass@{k}: {100 * share:.1f} %" for k, share in results.pass_at.items()),
        f"- Prompts with correct completions alone: {100 * results.all_correct:.1f} %",
        f"- Prompts without a correct completion: {100 * results.none_correct:.1f} %",
        f"- Prompts with both, which can teach something:"
        f" {100 * (1 - results.all_correct - results.none_correct):.1f} %",
        f"- Generated tokens: {counts.tokens:,}",
        "",
        *_not_asked(counts),
        *_categories(scored),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, count: int, total: int) -> str:
    return f"| {name.replace('_', ' ')} | {count:,} | {100 * count / total:.1f} % |"


def _not_asked(counts: SampleCounts) -> list[str]:
    reasons = {
        "Equal to an earlier prompt": counts.prompts_repeated,
        "With different final answers in the dataset": counts.prompts_ambiguous,
        "In an eval set that stays apart": counts.prompts_apart,
        "With an answer that the scorer cannot use": counts.prompts_unscorable,
        "Answered with calls of tools or in several messages": counts.prompts_conversation,
        "That the model's chat template cannot write": counts.prompts_not_renderable,
        "After the limit": counts.prompts_over_limit,
    }
    rows = [f"| {reason} | {count:,} |" for reason, count in reasons.items() if count]
    return [
        "## Prompts that were not asked",
        "",
        "| reason | prompts |",
        "|---|--:|",
        *rows,
        "",
    ] * (1 if rows else 0)


def _categories(scored: Sequence[Scored]) -> list[str]:
    """List mean rewards by category, those with most samples first; empty for one category."""
    values: dict[str, list[float]] = {}
    for each in scored:
        values.setdefault(each.item.category, []).append(each.judgement.value)
    if len(values) < 2:
        return []
    shown = sorted(values.items(), key=lambda each: (-len(each[1]), each[0]))
    lines = ["## Categories", "", "| category | completions | mean reward |", "|---|--:|--:|"]
    for name, found in shown[:MOST_CATEGORIES]:
        cell = " ".join(name.replace("|", "¦").replace("`", "'").split())
        lines.append(f"| `{cell}` | {len(found):,} | {sum(found) / len(found):.3f} |")
    if len(shown) > MOST_CATEGORIES:
        lines += ["", f"{len(shown) - MOST_CATEGORIES} more categories are not listed."]
    return lines
