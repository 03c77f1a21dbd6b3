"""The export of conversations: lengths, exclusions, duplicates and the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.builders import TinyRun, make_tiny_run, publish_dataset
from tests.stages.test_export import export, exported, lines_of, reasons, record_of
from tests.training.text.models import store_model
from tests.training.text.test_turns import TOOL, TOOLS
from tuneloop.specs.stages import ExportStage
from tuneloop.traces.schema import build_trace

CALL = {"type": "tool_call", "name": "look", "content": '{"at": "sky"}'}
RESULT = {"type": "tool_result", "content": "blue"}


def history(answer: str = "Hello") -> list[dict[str, str]]:
    return [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answer}]


def colour(*steps: Any, answer: str = "It is blue", **fields: Any) -> dict[str, Any]:
    return build_trace("Which colour?", steps, answer, **fields)


def pretrained(folder: Path, traces: list[dict[str, Any]], **options: Any) -> ExportStage:
    """Export with a stored model whose chat template writes tools, but no user text `refuse`."""
    template = "{% if messages[-1].content == 'refuse' %}{{ raise_exception('No') }}{% endif %}"
    store_model(str(folder / "artifacts"), template=template + TOOLS)
    run = make_tiny_run(folder)
    publish_dataset(run.artifacts, traces, dataset_name="own", limit=10_000)
    run.change(
        dataset="own-v1",
        train__model={"kind": "pretrained", "model": "small"},
        train__max_length_tokens=300,
        **{f"export__{name}": value for name, value in options.items()},
    )
    spec = run.plan().stages[0]
    assert isinstance(spec, ExportStage)
    assert export(spec, folder) == 0
    return spec


def test_a_model_without_a_form_for_tools_excludes_their_traces(tmp_path: Path) -> None:
    traces = [
        colour(messages=history()),
        colour(messages=history("Good day")),
        colour(messages=history()),  # reads like the first
        colour(messages=history(), system="Be kind"),
        colour(CALL, RESULT, tools=[TOOL]),
    ]
    spec, record = exported(tmp_path, traces)
    assert reasons(spec) == [(2, "duplicate"), (4, "not_renderable")]
    assert record.counts["excluded_not_renderable"] == 1
    assert (
        "it uses tools, and a model with random weights"
        in lines_of(spec, "exclusions")[1]["detail"]
    )
    examples = lines_of(spec, "examples-")
    assert [each["conversation"]["messages"][1]["content"] for each in examples] == [
        *("Hello", "Good day", "Hello")
    ]
    assert examples[2]["conversation"]["system"] == "Be kind"
    lengths = record.results["lengths"]
    assert lengths["response_characters"]["quantiles"]["max"] == len("It is blue")
    assert lengths["prompt_characters"]["quantiles"]["min"] == len("HiHelloWhich colour?")


def test_tokens_of_conversations_are_counted_as_they_are_trained(tmp_path: Path) -> None:
    from tuneloop.training.export.inspect import iter_examples, token_counts
    from tuneloop.training.text.chat_format import load_chat_format

    traces = [
        colour(CALL, RESULT, tools=[TOOL], messages=history()),
        colour(messages=[{"role": "user", "content": "x " * 300}, *history()]),
        colour(messages=[{"role": "user", "content": "Hi"}], answer="refuse"),
        colour({**CALL, "content": "no JSON"}, RESULT, answer="Red"),
        colour(answer="so " * 120, messages=history()),
    ]
    spec = pretrained(tmp_path, traces, over_length="drop", loss="all_assistant")
    assert reasons(spec) == [
        (1, "no_trainable_tokens"),
        (2, "not_renderable"),
        (3, "not_renderable"),
        (4, "over_length"),
    ]
    details = [each["detail"] for each in lines_of(spec, "exclusions")]
    assert details[1].startswith("small/chat_template.jinja") or "No" in details[1]
    assert "expected a JSON object" in details[2]
    (example,) = (each for _, each in iter_examples(str(tmp_path / "artifacts" / "training_runs")))
    files = {
        path.name: path.read_bytes() for path in (tmp_path / "artifacts/models/small").iterdir()
    }
    chat = load_chat_format(files, place="small")
    other, trained = token_counts(example, chat, spec.system_instruction)
    lengths = record_of(spec).results["lengths"]
    assert lengths["prompt_tokens"]["quantiles"]["max"] == other
    assert lengths["response_tokens"]["quantiles"]["max"] == trained
    text = 'Hello<|im_end|><call>look{"at": "sky"}</call><|im_end|>It is blue<|im_end|>'
    assert trained == len(chat.tokenizer.encode(text))


def test_conversations_of_an_eval_set_are_contamination(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen"
    traces = [
        colour(messages=history()),  # the conversation of item a
        colour(messages=history("hello!"), system="Be kind", answer="Blue"),  # the same
        colour(messages=history("Good day")),
        colour(),  # the prompt of item a alone
        build_trace("Other", [], "x", messages=history(f"I said: {long}.")),  # of item b
        build_trace("Plain", [], "x", messages=history()),  # item c has no earlier turns
        build_trace("Plain?", [], "x", system="Be kind"),
    ]
    spec = pretrained(tmp_path, traces)
    items: list[dict[str, Any]] = [
        {"id": "a", "prompt": "Which colour?", "messages": history(), "system": "Be brief"},
        {"id": "b", "prompt": "Go on", "messages": history(f"{long} fourteen")},
        {"id": "c", "prompt": "plain"},
    ]
    lines = [json.dumps({"expected_answer": "x", "category": "c", **each}) for each in items]
    (tmp_path / "guard.jsonl").write_text("\n".join(lines))
    run = TinyRun(tmp_path, str(tmp_path / "artifacts"), tmp_path / "run.yaml")
    found = run.change(eval__guard_set=str(tmp_path / "guard.jsonl")).plan().stages[0]
    assert isinstance(found, ExportStage) and export(found, tmp_path) == 0
    assert reasons(found) == [(number, "contaminated") for number in (0, 1, 4, 5, 6)]
    details = [each["detail"] for each in lines_of(found, "exclusions")]
    assert details[0] == "its conversation is that of eval item a of the set guard"
    assert details[2] == f"13 words in a row are in eval item b of the set guard: {long}"
    assert details[3] == "its prompt is that of eval item c of the set guard"
    assert found.fingerprint != spec.fingerprint


def test_middle_steps_of_a_conversation_s_answer_go(tmp_path: Path) -> None:
    steps = [f"step {number} " * 9 for number in range(5)]
    trace = colour(*steps, messages=history())
    spec, _ = exported(tmp_path, [trace], max_length_characters=300, over_length="truncate_steps")
    (example,) = lines_of(spec, "examples-")
    assert example["metadata"]["dropped_steps"] == 2
    assert example["conversation"]["messages"][-1]["content"] == example["response"]
    assert example["response"].startswith("Reasoning:\n1. step 0")


def test_the_default_loss_has_no_part_in_the_identity(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    first = run.plan().stages[0].fingerprint
    assert run.change(export__loss="final").plan().stages[0].fingerprint == first
    assert run.change(export__loss="all_assistant").plan().stages[0].fingerprint != first
