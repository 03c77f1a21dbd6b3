"""Which prompts of a source are asked, and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import letter_trace, publish_dataset, write_eval_set
from tuneloop.artifacts.evaluation.eval_samples import Context, Item
from tuneloop.datasets.read import load_manifest
from tuneloop.errors import DataError, InputMissing
from tuneloop.runs.planning.plan_stages import dataset_ref
from tuneloop.specs.sampling import DatasetPrompts, FilePrompts
from tuneloop.specs.stages import DatasetRef
from tuneloop.stages.sampling.prompts import (
    ApartPrompts,
    Prompts,
    Rules,
    load_prompts,
    read_stated,
)
from tuneloop.training.prompt_templates import recipe_named


def of_dataset(
    folder: Path, traces: list[dict[str, Any]], limit: int | None = None, **options: Any
) -> Prompts:
    publish_dataset(str(folder), traces)
    dataset = dataset_ref(load_manifest(str(folder), "letters-v1"))
    source = DatasetPrompts(kind="dataset", dataset=dataset.key, limit=limit)
    return load(folder, source, dataset, **options)


def load(
    folder: Path,
    source: Any,
    dataset: DatasetRef | None = None,
    sha256: str | None = None,
    scorer: str = "exact_match",
    apart: Iterable[Item] = (),
    recipe: str = "trace_sft_v1",
    not_renderable: Callable[[Item], str | None] = lambda item: None,
) -> Prompts:
    return load_prompts(
        source,
        Rules(recipe_named(recipe), scorer, ApartPrompts(apart), not_renderable),
        dataset=dataset,
        datasets=str(folder),
        sha256=sha256,
    )


def question(prompt: str, **more: Any) -> Item:
    return Item(set="", id="a", prompt=prompt, expected_answer="x", category="", **more)


def asked(text: str, answer: str, **more: Any) -> dict[str, Any]:
    trace = {**letter_trace(0), "prompt": text, "final_answer": answer, **more}
    return trace | ({"trace_version": "1.1"} if more else {})


def said(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def test_each_prompt_is_asked_once_and_every_other_one_is_counted(tmp_path: Path) -> None:
    call = {"i": 0, "type": "tool_call", "name": "add", "content": "{}"}
    traces = [
        asked("1 + 1", "2", meta={"category": "sum"}),
        asked("1 + 1", "2"),
        asked("1 + 2", "3"),
        asked("2 or 3?", "2"),
        asked("2 or 3?", "3"),
        asked("in the eval set 🟡", "4"),
        asked("no number", "red"),
        asked("added", "6", steps=[call]),
        asked("6 in two messages", "6", steps=[{"i": 0, "type": "message", "content": "Well"}]),
        asked("with tools", "6", tools=[{"type": "function", "function": {"name": "add"}}]),
        asked("2 + 2", "4"),
        asked("2 + 3", "5"),
    ]
    found = of_dataset(
        tmp_path,
        traces,
        limit=3,
        scorer="numeric",
        apart=[question("in the eval set 🟡")],
        not_renderable=lambda item: "no tools" if item.tools else None,
    )
    assert [(item.prompt, item.expected_answer) for item in found.items] == [
        *(("1 + 1", "2"), ("1 + 2", "3"), ("2 + 2", "4")),
    ]
    assert [item.category for item in found.items] == ["sum", "prompts", "prompts"]
    assert found.ambiguous == 1 and found.repeated == 2
    counted = (found.repeated, found.ambiguous, found.apart, found.unscorable)
    assert counted == (2, 1, 1, 1)
    assert (found.conversation, found.not_renderable, found.over_limit) == (2, 1, 1)
    assert len(found.items) + sum(counted) + 2 + 1 + 1 == len(traces)


def test_prompts_are_equal_with_the_same_system_text_and_earlier_turns(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "x": 1.0}}
    traces = [
        asked("Yes", "red"),
        asked("Yes", "green", system="Be brief."),
        asked("Yes", "green", system="Be brief."),
        asked("Yes", "blue", messages=said("Sky?", "Blue?")),
        asked("Yes", "gray", messages=said("Road?", "Gray?"), tools=[tool]),
        asked("Yes", "1", messages=said("1 or 2?", "1?")),
        asked("Yes", "2", messages=said("1 or 2?", "1?")),
        asked("Yes", "3", messages=said("In the eval set?", "Yes?"), system="Be brief."),
        asked("OK", "4", messages=said("Where?", "Here?")),
    ]
    apart = [
        question("Yes", messages=tuple(said("In the eval set?", "Yes?"))),
        question("OK"),
        question("Yes", messages=tuple(said("Elsewhere?", "Yes?"))),
    ]
    found = of_dataset(tmp_path, traces, apart=apart)
    assert [item.expected_answer for item in found.items] == ["red", "green", "blue", "gray"]
    assert (found.repeated, found.ambiguous, found.apart) == (2, 1, 2)
    plain, brief, sky, road = found.items
    assert plain.context is None
    assert brief.context == Context(system="Be brief.")
    assert sky.context == Context(messages=tuple(said("Sky?", "Blue?")))
    assert road.context == Context(messages=tuple(said("Road?", "Gray?")), tools=(tool,))


@pytest.mark.parametrize(
    ("recipe", "fields", "bare"),
    [
        ("trace_sft_v1", {}, False),
        ("trace_sft_v1", {"steps": []}, True),
        ("trace_sft_v1", {"steps": [], "system": "Be brief."}, True),
        ("trace_sft_v1", {"system": "Be brief."}, False),
        ("trace_sft_v1", {"steps": [], "meta": {"source": "sample"}}, False),
        ("trace_sft_v1", {"steps": [], "meta": {"source": "sample", "bare_answer": True}}, True),
        ("answer_only_v1", {"steps": []}, False),
        ("trace_or_chat_v1", {"meta": {"chat": True}}, True),
        ("critique_v1", {"steps": []}, False),
    ],
)
def test_an_answer_is_bare_where_training_teaches_the_answer_alone(
    recipe: str, fields: dict[str, Any], bare: bool, tmp_path: Path
) -> None:
    (item,) = of_dataset(tmp_path, [asked("red?", "yes", **fields)], recipe=recipe).items
    assert (item.bare_answer is True) == bare


def test_a_source_without_a_prompt_to_ask_is_refused(tmp_path: Path) -> None:
    traces = [asked("red?", "yes"), asked("red?", "no"), asked("blue?", "no")]
    message = r"dataset letters-v1: found no prompt to ask, .*; 1 are in an eval set, 1 have diff"
    with pytest.raises(DataError, match=message):
        of_dataset(tmp_path, traces, apart=[question("blue?")])


def test_a_dataset_that_was_built_again_is_refused(tmp_path: Path) -> None:
    publish_dataset(str(tmp_path), [asked("1 + 1", "2")])
    dataset = dataset_ref(load_manifest(str(tmp_path), "letters-v1"))
    other = dataset.model_copy(update={"build_id": "0" * 32})
    with pytest.raises(DataError, match="plan the run again"):
        load(tmp_path, DatasetPrompts(kind="dataset", dataset="letters-v1"), other)


def test_a_file_is_read_in_the_form_of_an_eval_set(tmp_path: Path) -> None:
    write_eval_set(tmp_path / "a.jsonl", 5)
    source = FilePrompts(kind="file", url=str(tmp_path / "a.jsonl"), limit=3)
    stated = read_stated(source)
    found = load(tmp_path, source, sha256=stated.sha256, apart=[stated.items[0].to_item("")])
    assert [item.id for item in found.items] == ["letter-1", "letter-2"]
    assert found.apart == 1
    with pytest.raises(DataError, match=r"a.jsonl: its prompts changed after the run was planned"):
        load(tmp_path, source, sha256="0" * 64)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputMissing, match=r"a.jsonl: missing, expected prompts .* eval set"):
        read_stated(source)
