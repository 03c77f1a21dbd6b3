"""The numbers of a report, its verdict, and its Markdown."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.evaluation.samples import BASE, TUNED, joined, judged, samples_of
from tuneloop.artifacts.evaluation.delta_report import (
    Context,
    ExportAccounts,
    Training,
    dump_report,
    load_report,
)
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Model, State
from tuneloop.artifacts.results import NoiseFloor
from tuneloop.errors import DataError
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.markdown import _code, render_markdown

SHOWN = Model(name="base (2 examples)", digest=BASE.digest, examples=2)
HEADER = {"eval set": "test_v1.jsonl", "seed": "3", "decoding": "greedy | batch 64"}
OLD = Path(__file__).parent / "delta_report_version_1.json"
R: State = "correct"
W: State = "wrong"
N: State = "no_answer"
T: State = "truncated"
E: State = "error"


def small() -> EvalSamples:
    """Six items: three improved, one regressed, one is still wrong; texts look like Markdown."""
    return samples_of(
        {"base": [N, R, W, N, N, R], "tuned": [R, W, R, R, T, R]},
        categories=("sums", "wo|rds"),
        texts={
            "base": ["base\n```\nNone", "Answer: 1", "8", "", "nothing\nhere", "Answer: שלום"],
            "tuned": ["tuned 0", "Answer: |", "Answer: `2`", "3", "````` so", "Answer: שלום"],
        },
    )


def full() -> EvalSamples:
    """The same with a better prompt of the base, a guard, a format problem and a missing answer."""
    models = (BASE, SHOWN, TUNED)
    main = small()
    plain = [
        msgspec.structs.replace(one, score=judged("no_answer"), text="")
        for one in main.samples
        if one.model == "base"
    ]
    rest = [
        msgspec.structs.replace(one, model=SHOWN.name) if one.model == "base" else one
        for one in main.samples
    ]
    lenient = msgspec.structs.replace(rest[7], lenient=judged("correct", "1"))
    samples = (*plain, *rest[:7], lenient, *rest[8:])
    guard = samples_of({"base": [R, R, R, W], "tuned": [R, W, N, R]}, name="general_v1")
    sets = {"general_v1": msgspec.structs.replace(guard.sets["general_v1"], weight="guarded")}
    whole = joined(
        EvalSamples(main.sets, {each.name: each for each in models}, main.items, samples),
        EvalSamples(sets, guard.models, guard.items, guard.samples[:-1]),
    )
    return EvalSamples(whole.sets, {each.name: each for each in models}, whole.items, whole.samples)


def full_context() -> Context:
    return Context(
        header=HEADER,
        random_weights=True,
        contamination="unchecked",
        training=Training(
            losses=((1, 3.0), (2, 2.0), (3, 1.0)),
            validations=((0, 3.0), (1, 2.0), (3, 2.5)),
            kept_step=3,
        ),
        export=ExportAccounts(
            traces=10, examples=4, excluded={"duplicate": 5, "invalid": 1}, truncated=1
        ),
        noise=NoiseFloor(answers=64, changed=5, flipped=1, set="test_v1"),
    )


@pytest.mark.golden
def test_snapshots_of_a_full_report(golden: Callable[[str, str], None]) -> None:
    report = build_report(full(), full_context())
    golden("report/delta_report_full.md", render_markdown(report, full()))
    golden("report/delta_report_full.json", dump_report(report).decode())


@pytest.mark.golden
def test_snapshots(golden: Callable[[str, str], None]) -> None:
    report = build_report(small(), Context(header=HEADER))
    golden("report/delta_report.md", render_markdown(report, small()))
    golden("report/delta_report.json", dump_report(report).decode())


def test_numbers() -> None:
    report = build_report(small(), Context())
    overall = report.overall
    assert (overall.base.correct, overall.tuned.correct) == (2, 4)
    assert (overall.base.no_answer, overall.tuned.no_answer, overall.tuned.truncated) == (3, 0, 1)
    assert (overall.paired.improved, overall.paired.regressed) == (3, 1)
    assert (overall.paired.both, overall.paired.neither) == (1, 1)
    assert [row.name for row in report.categories] == ["sums", "wo|rds"]
    assert [item.id for item in report.regressions] == ["item-1"]
    assert [item.id for item in report.still_wrong] == ["item-4"]
    assert report.verdict == "no detectable difference"
    value = json.loads(dump_report(report))
    assert value["schema_version"] == "2"
    assert value["items"][1]["tuned"]["outcome"] == "wrong"
    assert load_report(dump_report(report), "x") == report


def test_the_fair_base_is_the_one_that_scores_best() -> None:
    report = build_report(full(), Context())
    assert (report.base_examples, report.sets[0].base) == (2, SHOWN.name)
    assert [one.base.correct for one in report.base_prompts] == [0, 2]
    assert report.base_prompts[1].gain(report.overall.tuned) == report.overall.gain
    equal = samples_of({"base": [R], SHOWN.name: [R], "tuned": [R]}, models=(BASE, SHOWN, TUNED))
    assert build_report(equal, Context()).base_examples == 0


def test_the_guard_counts_what_was_kept_and_a_missing_answer_is_an_error() -> None:
    report = build_report(full(), Context())
    guard = report.guard
    assert guard is not None
    assert (guard.base.correct, guard.tuned.correct, guard.tuned.error, guard.kept) == (3, 1, 1, 1)
    assert [one.id for one in guard.lost] == ["item-1", "item-2"]
    assert [each.kind for each in report.warnings if each.kind == "missing"] == ["missing"]
    assert {item.set for item in report.judged_items} == {"test_v1"}


@pytest.mark.parametrize(
    ("base", "tuned", "verdict", "said"),
    [
        ([W] * 12, [R] * 12, "improved", "answers 100 more correctly"),
        ([R] * 12, [N] * 12, "regressed", "answers 100 fewer correctly"),
        ([R] * 12, [R] * 12, "no detectable difference", "answers as many questions correctly"),
        ([W] * 12, [R, *[W] * 11], "no detectable difference", "may be chance (95 % interval: "),
    ],
)
def test_the_verdict_needs_evidence(
    base: Sequence[State], tuned: Sequence[State], verdict: str, said: str
) -> None:
    found = samples_of({"base": base, "tuned": tuned})
    report = build_report(found, Context())
    assert report.verdict == verdict
    assert said in report.sentence
    assert f"# Delta report: {verdict}\n\n**{report.sentence}**" in render_markdown(report, found)


def test_guarded_sets_must_not_get_worse_and_informative_ones_may() -> None:
    better = samples_of({"base": [W] * 9, "tuned": [R] * 9})
    states: dict[str, list[State]] = {"base": ["correct"] * 9, "tuned": ["wrong"] * 9}
    worse = samples_of(states, name="general", weight="guarded")
    report = build_report(joined(better, worse), Context())
    assert report.verdict == "regressed"
    assert "It got worse on general (100 fewer out of 100)" in report.sentence
    assert report.overall.gain == 1
    harmless = samples_of(states, name="general", weight="informative")
    assert build_report(joined(better, harmless), Context()).verdict == "improved"
    second = samples_of({"base": [R] * 9, "tuned": [R] * 9}, name="second")
    report = build_report(joined(better, second), Context())
    assert report.verdict == "no detectable difference"
    assert "not better on second" in report.sentence
    assert report.overall.base.total == 18


def test_several_samples_and_partial_credit() -> None:
    one = samples_of({"base": [W, W, R], "tuned": [R, R, R]})
    sets = {"test_v1": msgspec.structs.replace(one.sets["test_v1"], samples=2)}
    again = tuple(
        msgspec.structs.replace(s, sample=1, score=judged("wrong", "?", 0.5)) for s in one.samples
    )
    report = build_report(EvalSamples(sets, one.models, one.items, one.samples + again), Context())
    base, tuned = report.overall.base, report.overall.tuned
    assert (base.total, tuned.total) == (6, 6)
    assert base.share == pytest.approx((0.25 + 0.25 + 0.75) / 3)
    assert report.overall.gain == pytest.approx(1 / 3)
    assert report.overall.paired.improved == 2
    assert report.sets[0].models[1].pass_at == {1: 0.5, 2: 1.0}
    assert report.items[0].tuned.value == 0.75


def test_a_scorer_with_options_is_named_by_its_kind() -> None:
    found = samples_of({"base": [W], "tuned": [R]})
    described = msgspec.structs.replace(
        found.sets["test_v1"], scorer={"kind": "numeric", "tolerance": 0.1}
    )
    found = EvalSamples({"test_v1": described}, found.models, found.items, found.samples)
    assert build_report(found, Context()).sets[0].scorer == "numeric"


def test_warnings() -> None:
    def kinds(samples: EvalSamples, context: Context | None = None) -> set[str]:
        return {each.kind for each in build_report(samples, context or Context()).warnings}

    good = samples_of({"base": [W] * 200, "tuned": [R] * 200})
    assert kinds(good) == set()
    cut = samples_of({"base": [R] * 99, "tuned": [T] * 99})
    texts = [each.text for each in build_report(cut, Context()).warnings if each.severe]
    assert texts[0] == "99 of 99 answers of the tuned model hit the token limit."
    assert kinds(good, full_context()) == {
        "contamination",
        "random_weights",
        "overfitting",
        "truncated_examples",
        "dropped_traces",
    }
    assert "errors" in kinds(samples_of({"base": [W] * 200, "tuned": [*[R] * 199, E]}))
    same = samples_of(
        {"base": [R] * 60, "tuned": [R] * 60}, texts={m: ["x"] * 60 for m in ("base", "tuned")}
    )
    assert "same_answers" in kinds(same)
    assert {"format", "missing"} <= kinds(full())


@pytest.mark.parametrize(
    ("noise", "found"),
    [
        (None, []),
        (NoiseFloor(answers=50, changed=9, flipped=2, set="test_v1"), []),  # 4 % against 10 %
        (NoiseFloor(answers=50, changed=9, flipped=3, set="test_v1"), [False]),  # 6 %
        (NoiseFloor(answers=50, changed=9, flipped=5, set="test_v1"), [True]),
        (NoiseFloor(answers=50, changed=2), []),
        (NoiseFloor(answers=50, changed=9), [False]),  # how many scores changed is not known
        (NoiseFloor(answers=50, changed=9, flipped=5, set="other"), []),
        (NoiseFloor(answers=50, changed=0, flipped=0), []),
    ],
)
def test_noise_near_the_difference_of_the_models_is_a_warning(
    noise: NoiseFloor | None, found: list[bool]
) -> None:
    samples = samples_of({"base": [R] * 60, "tuned": [*[W] * 6, *[R] * 54]})
    report = build_report(samples, Context(noise=noise))
    assert [each.severe for each in report.warnings if each.kind == "noise"] == found
    assert load_report(dump_report(report), "x").noise == noise
    text = render_markdown(report, samples)
    assert ("Noise floor: the tuned model was asked 50 questions" in text) == (noise is not None)


def test_reports_of_version_1_stay_readable() -> None:
    report = load_report(OLD.read_bytes(), "old")
    assert (report.schema_version, report.sets, report.warnings) == ("1", (), ())
    assert (report.overall.base.total, len(report.judged_items)) == (6, 6)
    assert [item.id for item in report.regressions] == ["item-1"]
    assert report.guard is None


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ((BASE,), "found the models base, expected"),
        ((TUNED, BASE), "expected the base model first"),
    ],
)
def test_samples_without_base_or_tuned_model_are_refused(
    models: tuple[Model, ...], said: str
) -> None:
    found = samples_of({"base": [R]}, models=models)
    with pytest.raises(DataError, match=said):
        build_report(found, Context())
    unanswered = EvalSamples(found.sets, {"base": BASE, "tuned": TUNED}, found.items, found.samples)
    with pytest.raises(DataError, match="no set was answered by both"):
        build_report(unanswered, Context())


def test_a_text_of_backticks_is_fenced_in_linear_time() -> None:
    """A list of all prefixes took 1.4 GB."""
    text = "`" * 50_000 + " x " + "`" * 7
    tracemalloc.start()
    fenced = _code(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fenced == f"{'`' * 50_001}text\n{text}\n{'`' * 50_001}"
    assert peak < 1 << 20
