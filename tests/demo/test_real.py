from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tuneloop.demo import real
from tuneloop.demo.general_questions import guard_items, questions, replay_prompts
from tuneloop.demo.loop import REAL
from tuneloop.demo.real_tasks import TASKS
from tuneloop.errors import InputMissing
from tuneloop.evaluation.scorers.rows.contains import judge_contains
from tuneloop.evaluation.scorers.rows.exact import ExactOptions
from tuneloop.evaluation.sets.schema import EvalItem, parse_eval_set
from tuneloop.runs.planning.spec_file import load_run_spec
from tuneloop.specs.training.model import PretrainedModelSpec
from tuneloop.traces.schema import parse_trace


def test_traces_are_tasks_and_replay_from_one_source() -> None:
    traces = real.real_traces(0)
    assert traces == real.real_traces(0)
    for number, trace in enumerate(traces):
        assert parse_trace(trace, "real", number).meta == trace["meta"]
        assert trace["meta"]["source"] == real.SOURCE
        assert ("chat" in trace["meta"]) == (trace["meta"]["category"] == "chat")
    counts = Counter(trace["meta"]["category"] for trace in traces)
    assert counts == {
        **dict.fromkeys(TASKS, real.TRACES_PER_TASK),
        "chat": len(real.replay_traces()),
    }


def test_replay_is_right_where_the_right_answer_is_known_and_is_never_guarded() -> None:
    known = {question.prompt: question for question in questions()}
    guarded = {item.prompt for item in guard_items()}
    replay = real.replay_traces()
    prompts = [trace["prompt"] for trace in replay]
    assert len(prompts) == len(set(prompts)) >= 100
    assert set(prompts) <= set(replay_prompts())
    assert not set(prompts) & guarded
    for trace in replay:
        if question := known.get(trace["prompt"]):
            item = EvalItem(
                id="replay",
                prompt=question.prompt,
                expected_answer=question.answers[0],
                accepted_answers=question.answers[1:],
                category=question.kind,
                difficulty="easy",
            )
            judged = judge_contains(trace["final_answer"], item.to_item("replay"), ExactOptions())
            assert judged.state == "correct"


def test_the_model_comes_from_the_installed_package() -> None:
    path = real.model_file()
    assert path.is_file()
    assert path.suffix == ".gguf"


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("no-such-package", "package no-such-package: not installed, expected the model"),
        ("msgspec", "package msgspec: found no GGUF file, expected one"),
    ],
)
def test_a_missing_model_names_the_package_and_the_remedy(
    package: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "PACKAGE", package)
    with pytest.raises(InputMissing, match=f"{message}.*requirements/smollm2.txt"):
        real.model_file()


def test_the_run_spec_names_the_model_and_files_that_exist(repository: Path) -> None:
    spec = load_run_spec(str(repository / REAL.config))
    assert spec.train.model == PretrainedModelSpec(kind="pretrained", model=real.MODEL)
    assert spec.eval.base_examples == 2
    for name in (spec.eval.eval_set, spec.eval.guard_set):
        assert name is not None
        assert len(parse_eval_set((repository / name).read_bytes(), name)) >= 150


def test_the_replay_file_has_one_object_per_line(repository: Path) -> None:
    text = (repository / "lib" / "tuneloop" / "demo" / "real_replay.jsonl").read_text()
    assert all(set(json.loads(line)) == {"prompt", "reply"} for line in text.splitlines())
