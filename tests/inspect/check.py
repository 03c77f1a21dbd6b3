"""`make check-inspect`: logs of inspect_ai, whose packages are not in the tests' environment."""

from __future__ import annotations

import math
import time
from pathlib import Path

import msgspec
import pytest

from tests.builders import Invoke, letter_trace, publish_dataset
from tests.evaluation.samples import judged
from tests.finished_run import TUNED_DIGEST, answered, publish_run
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Sample

# inspect_ai and the packages that it imports warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore")

RUN = "letters-7c1aa298"


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("tests.finished_run.answered", every_state)
    url = str(tmp_path / "artifacts")
    publish_run(url, publish_dataset(url, [letter_trace(n) for n in range(3)]), RUN)
    return url


def every_state(tuned_digest: str = TUNED_DIGEST) -> EvalSamples:
    """Two samples for each item; the first five answers of a model have the five states."""
    found = answered(tuned_digest)
    (eval_set,) = found.sets.values()
    sets = {eval_set.name: msgspec.structs.replace(eval_set, samples=2, version="v2")}
    items = {
        key: msgspec.structs.replace(
            item,
            prompt=f"{item.prompt} \u0627 🙂",
            accepted_answers=("x",),
            group="g",
            meta={"n": 1},
        )
        for key, item in found.items.items()
    }
    states = [
        judged("correct", "A"),
        judged("wrong", "b", 0.25),
        judged("no_answer"),
        judged("truncated"),
        judged("error", "C"),
    ]
    last = list(items)[-1]
    items[last] = msgspec.structs.replace(
        items[last],
        system="Be brief.",
        messages=(
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{}"}]},
            {"role": "tool", "content": "r"},
            {"role": "assistant", "content": "a"},
        ),
    )
    samples: list[Sample] = []
    for number, one in enumerate(found.samples):
        score = states[number // 2] if number < 10 else one.score
        text = "" if number == 8 else one.text
        again = msgspec.structs.replace(
            one, score=score, text=text, hit_limit=score.state == "truncated"
        )
        lenient = judged("correct", "B")
        samples += again, msgspec.structs.replace(again, sample=1, lenient=lenient)
    return EvalSamples(sets, found.models, items, tuple(samples))


def test_logs_are_read_again_by_inspect_ai(
    tuneloop: Invoke, artifacts: str, tmp_path: Path
) -> None:
    from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries

    out = tmp_path / "logs of a run"
    options = "report", RUN, "--artifacts", artifacts, "--format", "inspect", "-o", str(out)
    code, text, said = tuneloop(*options)
    assert code == 0, said
    places = text.splitlines()
    assert [Path(place).parent for place in places] == [out, out]
    assert sorted(path.name for path in out.iterdir()) == sorted(Path(p).name for p in places)
    listed = list_eval_logs(str(out))
    assert {(each.task, len(each.task_id)) for each in listed} == {("letters-v1", 32)}

    log = read_eval_log(places[0])
    assert (log.status, log.eval.task, log.eval.task_version) == ("success", "letters_v1", "v2")
    assert log.eval.model == f"tuneloop/{RUN}/base"
    assert log.eval.model_args["digest"] == "1b" * 32
    assert (log.eval.config.epochs, log.eval.dataset.samples) == (2, 36)
    assert log.eval.created.startswith("2026-11-22T11:22:33")
    assert log.eval.metadata["report"]["scorer"] == "exact_match"
    samples = {(one.id, one.epoch): one for one in log.samples}
    assert len(samples) == 72
    values = [samples[f"letter-{n}", 1].scores["strict"].value for n in range(4)]
    assert values == ["C", "I", "N", "N"]
    assert [samples[f"letter-{n}", 1].output.stop_reason for n in (2, 3)] == ["stop", "max_tokens"]
    assert samples["letter-1", 1].scores["strict"].metadata["value"] == 0.25
    failed = samples["letter-4", 1]
    assert math.isnan(failed.scores["strict"].value)
    assert failed.error is not None and samples["letter-3", 1].error is None
    assert samples["letter-1", 2].scores["lenient"].value == "C"
    first = samples["letter-0", 1]
    assert first.input == first.messages[0].text == "Upper: green a \u0627 🙂"
    assert (first.target, first.metadata["group"], first.metadata["meta"]) == (
        ["A", "x"],
        "g",
        {"n": 1},
    )
    chat = samples[list(every_state().items)[-1][1], 1]
    turns = [(each.role, each.text) for each in chat.messages]
    assert turns[:5] == [
        *(("system", "Be brief."), ("user", "q"), ("assistant", "f({})"), ("tool", "r")),
        ("assistant", "a"),
    ]
    assert [each.role for each in chat.input] == [role for role, _ in turns[:-1]]
    assert first.model_usage[log.eval.model].output_tokens == len(first.output.completion)
    scores = {each.name: each for each in log.results.scores}
    assert list(scores) == ["strict", "lenient"]
    known = [one for one in every_state().samples if one.model == "base"]
    right = sum(one.score.state == "correct" for one in known)
    unknown = sum(one.score.state == "error" for one in known)
    # inspect_ai leaves out what has no score.
    assert scores["strict"].metrics["accuracy"].value == pytest.approx(right / (72 - unknown))
    assert len(read_eval_log_sample_summaries(places[0])) == 72

    before = [Path(place).read_bytes() for place in places]
    time.sleep(2.1)  # times of ZIP files have steps of 2 s
    assert tuneloop(*options)[1] == text
    assert [Path(place).read_bytes() for place in places] == before
