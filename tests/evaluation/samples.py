"""Small `EvalSamples` for tests of statistics and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Judgement,
    Model,
    Sample,
    State,
    Weight,
)

BASE = Model(name="base", digest="b" * 64)
TUNED = Model(name="tuned", digest="c" * 64, run="letters-7c1aa298")


def judged(state: State, answer: str | None = None, value: float | None = None) -> Judgement:
    """A judgement with full credit only if it is correct."""
    credit = float(state == "correct") if value is None else value
    return Judgement(state, credit, answer, answer if state == "correct" else None)


def samples_of(
    states: Mapping[str, Sequence[State]],
    *,
    name: str = "test_v1",
    weight: Weight = "required",
    texts: Mapping[str, Sequence[str]] | None = None,
    categories: Sequence[str] = ("sums",),
    models: Sequence[Model] = (BASE, TUNED),
) -> EvalSamples:
    """Return one set, which all models answered once.

    Args:
        states: model -> state of each item's answer.
        name: name of the set.
        weight: weight of the set.
        texts: model -> text of each answer; by default the state.
        categories: categories, which the items take in turn.
        models: the models, the base first.
    """
    described = EvalSet(name=name, sha256="a" * 64, scorer="exact_match", weight=weight)
    count = len(next(iter(states.values())))
    items = {
        (name, f"item-{n}"): Item(
            set=name,
            id=f"item-{n}",
            prompt=f"Question {n}?",
            expected_answer=str(n),
            category=categories[n % len(categories)],
        )
        for n in range(count)
    }
    found = tuple(
        Sample(
            set=name,
            item=f"item-{n}",
            model=model,
            text=texts[model][n] if texts else f"{model} says {state} to {n}",
            tokens=len(texts[model][n].split()) if texts else 5,
            hit_limit=state == "truncated",
            score=judged(state, str(n) if state == "correct" else None),
        )
        for model, own in states.items()
        for n, state in enumerate(own)
    )
    return EvalSamples({name: described}, {each.name: each for each in models}, items, found)


def joined(*parts: EvalSamples) -> EvalSamples:
    """Put sets of the same models together."""
    return EvalSamples(
        {name: each for part in parts for name, each in part.sets.items()},
        {name: each for part in parts for name, each in part.models.items()},
        {key: item for part in parts for key, item in part.items.items()},
        tuple(sample for part in parts for sample in part.samples),
    )
