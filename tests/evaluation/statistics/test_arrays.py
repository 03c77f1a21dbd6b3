from __future__ import annotations

import random
import resource

import numpy as np

from tuneloop.artifacts.evaluation.eval_samples import (
    EvalSamples,
    EvalSet,
    Item,
    Judgement,
    Model,
    Sample,
    State,
)
from tuneloop.evaluation.statistics.arrays import scores_of_sets
from tuneloop.evaluation.statistics.categories import compare_categories
from tuneloop.evaluation.statistics.intervals import mean_interval
from tuneloop.evaluation.statistics.paired import compare_scores
from tuneloop.evaluation.statistics.repeats import flip_probability, pass_at_k, pass_hat_k

MODELS = {name: Model(name=name, digest=name) for name in ("base", "tuned")}


def item(identifier: str, group: str | None = None, category: str = "sums") -> Item:
    return Item(
        set="s",
        id=identifier,
        prompt="?",
        expected_answer="1",
        category=category,
        group=group,
    )


def sample(
    identifier: str, model: str, state: State, number: int = 0, text: str = "1", value: float = 0.0
) -> Sample:
    score = Judgement(state, 1.0 if state == "correct" else value)
    return Sample(
        set="s", item=identifier, model=model, sample=number, text=text, tokens=1, score=score
    )


def samples_of(items: list[Item], rows: list[Sample], asked: int = 1) -> EvalSamples:
    sets = {"s": EvalSet(name="s", sha256="0" * 64, scorer="exact", samples=asked)}
    return EvalSamples(sets, MODELS, {("s", one.id): one for one in items}, tuple(rows))


def test_every_state_and_every_missing_sample_counts_in_the_denominator() -> None:
    items = [item("é 🦊", "g"), item("b", "g"), item("c"), item("d"), item("e")]
    rows = [
        sample("b", "base", "correct"),
        sample("é 🦊", "base", "error", text=""),
        sample("c", "base", "truncated"),
        sample("d", "base", "no_answer", text=" \n"),
        *(sample(one.id, "tuned", "correct") for one in items),
    ]
    (found,) = scores_of_sets(samples_of(items, rows)).values()
    assert found.ids == ("é 🦊", "b", "c", "d", "e")
    assert found.groups.tolist() == [0, 0, 1, 2, 3] and found.total_samples == 5
    base = found.models["base"]
    assert base.values.tolist() == [0, 1, 0, 0, 0]
    assert base.states == {"correct": 1, "wrong": 0, "no_answer": 1, "truncated": 1, "error": 1}
    assert (base.missing, base.errors, base.empty) == (("e",), ("é 🦊",), 2)
    assert found.models["tuned"].values.mean() == 1.0 and found.models["tuned"].missing == ()


def test_the_value_of_an_item_is_the_mean_of_the_samples_that_the_set_asks_for() -> None:
    rows = [
        sample("a", "base", "correct", 0),
        sample("a", "base", "wrong", 1, value=0.5),
        sample("a", "base", "wrong", 2),
        sample("a", "tuned", "correct", 0),
    ]
    (found,) = scores_of_sets(samples_of([item("a")], rows, asked=4)).values()
    assert found.models["base"].values.tolist() == [0.375]
    assert found.models["base"].correct.tolist() == [1]
    assert found.models["tuned"].values.tolist() == [0.25]
    assert found.models["tuned"].missing == ("a",)


def test_lenient_scores_are_apart() -> None:
    strict = sample("a", "base", "no_answer")
    lenient = Judgement("correct", 1.0)
    row = Sample(
        set="s", item="a", model="base", text="1", tokens=1, score=strict.score, lenient=lenient
    )
    (found,) = scores_of_sets(samples_of([item("a")], [row])).values()
    base = found.models["base"]
    assert (base.values.tolist(), base.lenient.tolist()) == ([0.0], [1.0])
    assert (base.states["no_answer"], base.lenient_states["correct"]) == (1, 1)


def test_a_set_without_samples_has_no_models() -> None:
    (found,) = scores_of_sets(samples_of([item("a")], [])).values()
    assert found.models == {}
    assert scores_of_sets(samples_of([], [])) == {}


def test_all_statistics_of_many_samples_are_quick() -> None:
    rng = random.Random(1)
    items = [item(f"{n}", f"text-{n // 3}", f"category-{n % 10}") for n in range(1_250)]
    rows = [
        sample(one.id, model, rng.choice(("correct", "wrong")), number)
        for one in items
        for model in MODELS
        for number in range(4)
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    (found,) = scores_of_sets(samples_of(items, rows, asked=4)).values()
    base, tuned = found.models["base"], found.models["tuned"]
    compare_scores(base.values, tuned.values, found.groups)
    compare_categories(base.values, tuned.values, found.groups, found.categories)
    for model in (base, tuned):
        mean_interval(model.values, found.groups)
        assert np.all(pass_hat_k(model.correct, model.samples, 4) <= model.values)
        assert np.all(pass_at_k(model.correct, model.samples, 4) >= model.values)
        flip_probability(model.correct, model.samples)
    # 10,000 samples: a tenth of the 100,000 that may take 20 s of one core.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2
