"""An evaluation whose models a server answers for, without JAX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.evaluation.backends.server import Fault, Handler, Served, completion, serving
from tests.stages.answering.test_saved import saved_in
from tuneloop.artifacts.evaluation.eval_samples import Context, Model
from tuneloop.artifacts.results import NoiseFloor
from tuneloop.errors import SpecError, Transient
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.specs.evaluation import EvalSetSpec
from tuneloop.specs.stages import EvalSetRef
from tuneloop.stages.answering import noise, remote
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.question import Question
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.eval_passes import Asker, Pass
from tuneloop.stages.evaluation.models import Asked, AskedModel
from tuneloop.stages.evaluation.samples import Judge, score_answers
from tuneloop.stages.evaluation.sets import LoadedSet
from tuneloop.stages.evaluation.stability import noise_floor
from tuneloop.stages.models.evaluated import EvaluatedModel
from tuneloop.training.generation.decoding import Sampling
from tuneloop.training.prompt_templates import recipe_named


class Words:
    """Stands for a chat format and its tokenizer: a word is a token."""

    @property
    def tokenizer(self) -> Words:
        return self

    def encode(self, text: str) -> list[str]:
        return text.split()


MODEL = EvaluatedModel(cast("Any", None), cast("Any", Words()), load=lambda: pytest.fail("loaded"))
MODELS: Mapping[str, EvaluatedModel] = {"base": MODEL, "tuned": MODEL}
QUESTIONS = tuple(Question(f"say {n} é") for n in range(20))


def spec_of(url: str, **changes: Any) -> BackendSpec:
    models = {"base": "b", "tuned": "t"}
    value = {"kind": "openai", "url": url, "models": models, "retry_seconds": 0, "concurrency": 4}
    return BackendSpec.model_validate({**value, **changes})


def ask(
    server: Served, *passes: Pass, saved: SavedBatches | None = None, share: Any = range
) -> Any:
    with remote.opened(spec_of(server.url), MODELS, "eval.backend") as served:
        asker = Asker(
            cast("Any", MODELS),
            "be brief",
            batch_size=4,
            check_stop=lambda: None,
            progress=lambda step, total, left: None,
            remote=cast("Any", served),
            saved=saved,
        )
        return asker.ask(passes, share)


def test_every_model_is_asked_under_its_name_and_shards_have_all_answers() -> None:
    shown = Question("last é", shots=(("first", "Answer: 1"),))
    passes = Pass("x", "base", (*QUESTIONS, shown), 5), Pass("y", "tuned", QUESTIONS, 5)
    with serving() as server:
        whole = ask(server, *passes)
        shares = [ask(server, *passes, share=lambda n, at=at: range(n)[at::3]) for at in range(3)]
    assert [whole["x"][n].text for n in range(20)] == [f"SAY {n} É" for n in range(20)]
    for name in "xy":
        assert whole[name] == shares[0][name] | shares[1][name] | shares[2][name]
    asked = {(body["model"], len(body["messages"])) for body in server.bodies}
    assert asked == {("b", 2), ("b", 4), ("t", 2)}
    assert whole["x"][20].text == "LAST É" and whole["x"][20].tokens == 3


def test_a_server_gets_the_whole_conversation() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"b": 1, "a": 2}}}
    context = Context(
        system="Be kind 🟡",
        messages=(
            {"role": "user", "content": "first"},
            {
                "role": "assistant",
                "content": "",
                "reasoning": "not sent",
                "tool_calls": [{"name": "look", "arguments": '{"at": 1}'}],
            },
            {"role": "tool", "content": "blue"},
            {"role": "assistant", "content": "Blue."},
        ),
        tools=(tool,),
    )
    asked = Question("last", shots=(("a", "Answer: b"),), id="x", context=context)
    with serving() as server:
        ask(server, Pass("x", "base", (asked, Question("plain")), 5))
    first, plain = sorted(server.bodies, key=lambda body: -len(body["messages"]))
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    assert first["messages"] == [
        {"role": "system", "content": "be brief\n\nBe kind 🟡"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "Answer: b"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "", "tool_calls": [{**call, "id": "call00000"}]},
        {"role": "tool", "content": "blue", "tool_call_id": "call00000", "name": "look"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "last"},
    ]
    assert first["tools"] == [tool]
    assert "tools" not in plain
    assert plain["messages"][0] == {"role": "system", "content": "be brief"}


def test_samples_have_seeds_of_their_own_and_missing_usage_is_counted() -> None:
    def without_usage(handler: Handler, number: int) -> bool:
        handler.send(200, completion("two words", "length", None))
        return True

    drawn = Pass("x", "tuned", QUESTIONS[:4], 5, samples=3, sampling=Sampling(0.7, seed=9))
    with serving(without_usage) as server:
        found = ask(server, drawn)["x"]
        seeds = [body["seed"] for body in server.bodies]
        ask(server, drawn)
    assert len(found) == 12 == len(set(seeds)) and max(seeds) < 2**31
    assert {(each.tokens, each.hit_limit) for each in found.values()} == {(2, True)}
    assert sorted(body["seed"] for body in server.bodies[12:]) == sorted(seeds)
    assert {body["temperature"] for body in server.bodies} == {0.7}


def test_a_stage_whose_server_went_away_goes_on_after_its_finished_batches(tmp_path: Path) -> None:
    def gone(count: int) -> Fault:
        def fault(handler: Handler, number: int) -> bool:
            if number >= count:
                handler.send(503, b"")
            return number >= count

        return fault

    asked = Pass("x", "tuned", QUESTIONS, 5)
    with serving(gone(17)) as server, pytest.raises(Transient, match="run again to continue"):
        ask(server, asked, saved=saved_in(tmp_path, "a"))
    with serving() as server:
        found = ask(server, asked, saved=saved_in(tmp_path, "b"))["x"]
    assert [found[n].text for n in range(20)] == [f"SAY {n} É" for n in range(20)]
    assert 4 <= len(server.bodies) <= 12


def test_the_server_is_described_and_unknown_models_are_refused() -> None:
    with serving() as server:
        found = remote.describe(spec_of(server.url))
        assert found.keys() == {"base", "tuned"}
        assert found["tuned"].startswith(f"t at {server.url} BaseHTTP")
    unknown = spec_of("http://h", models={"tuend": "t"})
    with pytest.raises(SpecError, match=r"model 'tuend', expected one of: base, tuned"):
        with remote.opened(unknown, MODELS, "eval.backend"):
            pass


def test_answers_and_scores_that_change_are_the_noise_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(noise, "QUESTIONS", 12)

    def every_fifth_differs(handler: Handler, number: int) -> bool:
        if number % 5 == 4:
            handler.send(200, completion("yes" if number == 4 else "no"))
        return number % 5 == 4

    first = Pass("x", "tuned", tuple(Question(f"say {n}") for n in range(20)), 5, samples=2)
    second = noise.again(first, 4, seed=3)
    assert len(second.questions) == 12 and second.batch_size == 1
    assert set(second.questions) < set(first.questions)
    assert noise.again(first, 1, seed=4).questions != second.questions
    with serving() as server:
        found = ask(server, first)
        steady = ask(server, second)
    with serving(every_fifth_differs) as server:
        other = ask(server, second)
    value = {"expected_answer": "say", "accepted_answers": ["yes"], "category": "x"}
    items = tuple(
        EvalItem.model_validate({"id": f"i{n}", "prompt": f"say {n}", **value}) for n in range(20)
    )
    digest = "a" * 64
    ref = EvalSetRef(name="says", url="says.jsonl", sha256=digest, prompts_sha256=digest, items=20)
    says = LoadedSet(
        EvalSetSpec(url="says.jsonl", samples=2, temperature=0.5), ref, items, "contains"
    )
    asked = [Asked(AskedModel(Model(name="tuned", digest=digest), "tuned", digest), says, "x")]
    judge = Judge(recipe_named("trace_sft_v1"))
    answered = score_answers(asked, found, judge)

    def measured(more: dict[str, dict[int, Generation]]) -> NoiseFloor | None:
        return noise_floor([first], answered, found | more, 3, judge)

    assert measured({}) is None
    assert measured(steady) == NoiseFloor(answers=12, changed=0, flipped=0, set="says")
    assert measured(other) == NoiseFloor(answers=12, changed=2, flipped=1, set="says")
