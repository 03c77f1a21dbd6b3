"""Put the scored answers of all models together as `samples.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuneloop.artifacts.eval_samples import EvalSet, Item, Judgement, Model, Row, Sample, State
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.stages.answering.generation import Generation

FILE = "samples.jsonl"
"""Name of the output."""


@dataclass(frozen=True)
class Answered:
    """One model's answers to all items of one set."""

    set: str
    model: str
    generations: Sequence[Generation]
    """One for each item of the set, in its order."""
    scores: Sequence[Score]
    """Their scores."""


def rows_of(
    sets: Sequence[EvalSet],
    models: Sequence[Model],
    items: Mapping[str, Sequence[EvalItem]],
    answered: Sequence[Answered],
) -> Iterator[Row]:
    """Yield the rows of the file in its order; equal arguments give equal rows.

    Args:
        sets: the sets in the order of the spec.
        models: the models, the base first.
        items: name of the set -> its items.
        answered: the answers; at most one entry for each set and model.
    """
    yield from sets
    yield from models
    for each in sets:
        yield from (item_row(each.name, item) for item in items[each.name])
    order = {model.name: number for number, model in enumerate(models)}
    for each in sets:
        own = [one for one in answered if one.set == each.name]
        for one in sorted(own, key=lambda one: order[one.model]):
            for item, generation, score in zip(
                items[each.name], one.generations, one.scores, strict=True
            ):
                yield Sample(
                    set=each.name,
                    item=item.id,
                    model=one.model,
                    text=generation.text,
                    tokens=generation.tokens,
                    hit_limit=generation.hit_limit,
                    score=_judgement(score, generation),
                )


def item_row(set_name: str, item: EvalItem) -> Item:
    """Return the row of an item."""
    return Item(
        set=set_name,
        id=item.id,
        prompt=item.prompt,
        expected_answer=item.expected_answer,
        accepted_answers=item.accepted_answers,
        category=item.category,
        difficulty=item.difficulty,
        case_sensitive=item.case_sensitive,
        group=item.group,
        scorer=item.scorer,
        meta=item.meta,
    )


def _judgement(score: Score, generation: Generation) -> Judgement:
    cut = score.outcome == "no_answer" and generation.hit_limit
    state: State = "truncated" if cut else score.outcome
    return Judgement(state, score.value, score.answer, score.matched, score.explanation)
