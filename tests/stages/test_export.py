"""Traces in = examples out + listed exclusions, whatever the rules."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.__main__ import main
from tests.builders import TinyRun, letter_trace, make_tiny_run, publish_dataset, write_eval_set
from tests.training.text.models import store_model
from tuneloop.artifacts import layout, records
from tuneloop.artifacts.model_manifest import dump_model_manifest
from tuneloop.artifacts.records import Record
from tuneloop.errors import DataError
from tuneloop.specs.stages import ExportStage, dump_stage_spec
from tuneloop.training.export.files import read_line
from tuneloop.training.export.index import load_offsets
from tuneloop.training.export.inspect import iter_examples

if TYPE_CHECKING:
    from tuneloop.training.text.chat_format import ChatFormat

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def trace(number: int, **fields: Any) -> dict[str, Any]:
    return {**letter_trace(number), **fields}


def plan_of(folder: Path, traces: list[dict[str, Any]], **options: Any) -> ExportStage:
    """The export stage of a run over these traces."""
    run = make_tiny_run(folder)
    request = options.pop("request", {})
    publish_dataset(run.artifacts, traces, dataset_name="own", limit=10_000, **request)
    items = options.pop("eval_prompts", [])
    with (folder / "eval.jsonl").open("ab") as file:
        for number, prompt in enumerate(items):
            item = {"id": f"own-{number}", "prompt": prompt, "expected_answer": "x"}
            file.write(json.dumps({**item, "category": "c", "difficulty": "easy"}).encode() + b"\n")
    run.change(dataset="own-v1", **{f"export__{name}": value for name, value in options.items()})
    stage = run.plan().stages[0]
    assert isinstance(stage, ExportStage)
    return stage


def export(spec: ExportStage, folder: Path, index: int = 0, count: int = 1) -> int:
    url = folder / "spec.json"
    url.write_bytes(dump_stage_spec(spec))
    return main(["export", "--spec", str(url), "--index", str(index), "--count", str(count)])


def record_of(spec: ExportStage) -> Record:
    found = records.find(spec.execution.artifacts, spec.run_id, "export")
    assert found is not None
    return found


def lines_of(spec: ExportStage, prefix: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in record_of(spec).outputs_like(prefix)
        for line in records.read_output(file, spec.execution.artifacts).splitlines()
    ]


def exported(
    folder: Path, traces: list[dict[str, Any]], **options: Any
) -> tuple[ExportStage, Record]:
    spec = plan_of(folder, traces, **options)
    assert export(spec, folder) == 0
    return spec, record_of(spec)


def reasons(spec: ExportStage) -> list[tuple[int, str]]:
    return [(line["row"], line["reason"]) for line in lines_of(spec, "exclusions")]


def test_every_trace_is_an_example_or_a_listed_exclusion(tmp_path: Path) -> None:
    traces = [
        trace(0),
        trace(1, final_answer=" \n"),
        trace(2, prompt="\t"),
        trace(3, prompt="Upper: green d"),  # an eval prompt
        trace(0, prompt="upper:  RED a"),  # reads like the first
        trace(4, meta=None),
    ]
    spec, record = exported(tmp_path, traces)
    assert reasons(spec) == [
        (1, "empty_response"),
        (2, "invalid"),
        (3, "contaminated"),
        (4, "duplicate"),
    ]
    counts = record.counts
    assert counts["traces"] == 6 == counts["examples"] + counts["excluded"]
    assert (counts["examples"], counts["excluded_duplicate"]) == (2, 1)
    excluded = lines_of(spec, "exclusions")
    first = lines_of(spec, "examples-")[0]
    assert excluded[3]["detail"].endswith(first["metadata"]["source_trace_id"])
    assert excluded[2]["detail"] == "its prompt is that of eval item letter-3"
    names = set(record.content())
    assert names == {
        "examples-00000-of-00001.jsonl",
        "index/examples-00000-of-00001.u64",
        "exclusions.jsonl",
        "lengths.svg",
        "export_report.md",
    }
    report = records.read_output(record.output("export_report.md"), spec.execution.artifacts)
    assert b"6 traces = 2 examples + 4 excluded." in report
    picture = records.read_output(record.output("lengths.svg"), spec.execution.artifacts)
    assert picture.count(b"<g ") == 2


MIXED = [trace(n % 90, prompt=f"Upper: {n % 90} letters") for n in range(300)]


@pytest.mark.parametrize("count", [2, 16])
def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, count: int) -> None:
    """Duplicates lie in other files than what they duplicate, and of other processes."""
    options = {"shard_examples": 17, "validation_fraction": 0.2}
    (tmp_path / "one").mkdir()
    _, alone = exported(tmp_path / "one", MIXED, **options)
    assert alone.counts["excluded_duplicate"] > 50
    assert alone.counts["validation_examples"] > 10
    (tmp_path / "many").mkdir()
    spec = plan_of(tmp_path / "many", MIXED, **options)
    for index in range(count):
        assert export(spec, tmp_path / "many", index, count) == 0
    shared = record_of(spec)
    assert shared.content() == alone.content()
    assert list(shared.content()) == list(alone.content())
    assert (shared.counts, shared.results) == (alone.counts, alone.results)


def test_the_index_finds_every_line(tmp_path: Path) -> None:
    spec, record = exported(tmp_path, MIXED, shard_examples=50)
    for file in record.outputs_like("examples-"):
        data = records.read_output(file, spec.execution.artifacts)
        name = f"index/{file.name.removesuffix('.jsonl')}.u64"
        offsets = load_offsets(
            records.read_output(record.output(name), spec.execution.artifacts), name
        )
        cut = [data[a:b] for a, b in itertools.pairwise(offsets)]
        assert cut == data.splitlines(keepends=True)
        assert len(cut) == (file.rows or 0)


def test_duplicates_can_stay(tmp_path: Path) -> None:
    _, record = exported(tmp_path, [trace(0), trace(0)], duplicates="keep")
    assert record.counts["examples"] == 2


STORY = [f"word{n % 37} and then number {n}" for n in range(60)]


def test_near_duplicates_go_over_all_files_and_the_first_stays(tmp_path: Path) -> None:
    def story(*changes: int) -> dict[str, Any]:
        said = [f"changed {n}" if n in changes else text for n, text in enumerate(STORY)]
        return trace(0, steps=[{"i": 0, "type": "r", "content": " ".join(said)}])

    different = trace(3, steps=[{"i": 0, "type": "r", "content": "nothing of it " * 9}])
    traces = [story(), different, story(30), story(7), story(), story(*range(0, 60, 3))]
    options = {"near_duplicates": "drop", "shard_examples": 2}
    for folder in ("keep", "one", "many"):
        (tmp_path / folder).mkdir()
    spec, record = exported(tmp_path / "one", traces, **options)
    assert reasons(spec) == [(2, "near_duplicate"), (3, "near_duplicate"), (4, "duplicate")]
    assert record.counts["excluded_near_duplicate"] == 2
    assert "reads nearly like the example of trace" in lines_of(spec, "exclusions")[0]["detail"]
    many = plan_of(tmp_path / "many", traces, **options)
    for index in range(3):
        assert export(many, tmp_path / "many", index, 3) == 0
    assert record_of(many).content() == record.content()
    spec, _ = exported(tmp_path / "keep", traces)
    assert reasons(spec) == [(4, "duplicate")]


LONG = [
    trace(0),
    trace(
        1,
        steps=[{"i": n, "type": "r", "content": f"step {n} {'x' * 20}"} for n in range(10)],
    ),
    trace(2, prompt="p" * 150),
]


def test_over_length_fails_by_default_and_names_the_trace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert export(plan_of(tmp_path, LONG, max_length_characters=120), tmp_path) == 65
    assert "characters, expected at most 120; raise export.max_length_characters" in caplog.text


def test_over_length_drops_and_says_how_long(tmp_path: Path) -> None:
    spec, record = exported(tmp_path, LONG, max_length_characters=120, over_length="drop")
    assert reasons(spec) == [(1, "over_length"), (2, "no_trainable_tokens")]
    assert lines_of(spec, "exclusions")[0]["detail"].endswith("characters, expected at most 120")
    assert record.results["lengths"]["prompt_characters"]["quantiles"]["max"] == 12


def test_over_length_leaves_out_middle_steps_whole(tmp_path: Path) -> None:
    spec, record = exported(tmp_path, LONG, max_length_characters=120, over_length="truncate_steps")
    example = lines_of(spec, "examples-")[1]
    assert example["response"] == (
        f"Reasoning:\n1. step 0 {'x' * 20}\n2. step 9 {'x' * 20}\nAnswer: B"
    )
    assert example["metadata"]["dropped_steps"] == 8
    assert record.counts["truncated"] == 1
    assert reasons(spec) == [(2, "no_trainable_tokens")]
    total = record.results["lengths"]["response_characters"]["quantiles"]["max"]
    assert total + len(example["prompt"]) <= 120


def test_lengths_are_token_exact_with_a_tokenizer(tmp_path: Path) -> None:
    from tuneloop.specs.training.model import TokenizerSpec
    from tuneloop.training.text.chat_format import load_chat_format
    from tuneloop.training.text.trainer import train_tokenizer

    model = train_tokenizer(["Upper: red a", "Reasoning: a -> A"], TokenizerSpec(vocab_size=300))
    (tmp_path / "t.model").write_bytes(model)
    spec, record = exported(tmp_path, [trace(n) for n in range(9)], tokenizer=str(tmp_path / "t.model"))  # fmt: skip # noqa: E501
    chat = load_chat_format({"tokenizer.model": model}, place="t")
    longest = check_lengths(spec, record, chat)
    (tmp_path / "more").mkdir()
    _, fits = exported(
        tmp_path / "more",
        [trace(n) for n in range(9)],
        tokenizer=str(tmp_path / "t.model"),
        max_length_tokens=longest - 1,
        over_length="drop",
    )
    assert fits.counts["excluded_over_length"] >= 1


def check_lengths(spec: ExportStage, record: Record, chat: ChatFormat) -> int:
    """Compare the record with the ids of training; return the tokens of the longest example."""
    system = spec.system_instruction
    pairs = [
        tuple(map(len, chat.encode_example(e["prompt"], e["response"], system)))
        for e in lines_of(spec, "examples-")
    ]
    lengths = record.results["lengths"]
    assert lengths["prompt_tokens"]["quantiles"]["max"] == max(before for before, _ in pairs)
    assert lengths["response_tokens"]["quantiles"]["min"] == min(after for _, after in pairs)
    assert sum(lengths["prompt_tokens"]["histogram"]["counts"]) == len(pairs)
    return max(map(sum, pairs))


def pretrained_plan(folder: Path, limit: int, traces: list[dict[str, Any]] = LONG) -> ExportStage:
    """The export of a run that starts from the stored model."""
    run = make_tiny_run(folder)
    publish_dataset(run.artifacts, traces, dataset_name="own", limit=10_000)
    stage = run.change(
        dataset="own-v1",
        system_instruction="Be brief",
        train__model={"kind": "pretrained", "model": "small"},
        train__max_length_tokens=limit,
        export__over_length="drop",
    )
    found = stage.plan().stages[0]
    assert isinstance(found, ExportStage)
    return found


def test_a_pretrained_model_counts_with_its_own_tokenizer_and_the_limit_of_training(
    tmp_path: Path,
) -> None:
    from tuneloop.training.text.chat_format import load_chat_format

    folder = store_model(str(tmp_path / "artifacts"))
    spec = pretrained_plan(tmp_path, limit=180)
    assert spec.options.max_length_tokens == 180
    assert export(spec, tmp_path) == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    chat = load_chat_format(files, place="small")
    assert 0 < check_lengths(spec, record_of(spec), chat) <= 180
    assert reasons(spec) == [(1, "over_length"), (2, "no_trainable_tokens")]
    assert record_of(spec).inputs["model"] == spec.model.digest if spec.model else False


def test_a_model_that_changed_after_the_plan_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = store_model(str(tmp_path / "artifacts"))
    spec = pretrained_plan(tmp_path, limit=180)
    (folder / "chat_template.jinja").write_bytes(b"x")
    assert export(spec, tmp_path) == 65
    assert "chat_template.jinja: holds 1 bytes, expected" in caplog.text
    shutil.rmtree(folder)
    store_model(str(tmp_path / "artifacts"), eos_token="<|im_end|>")
    assert export(spec, tmp_path) == 65
    assert "the model changed after the run was planned" in caplog.text


def test_models_that_differ_in_weights_alone_share_the_export(tmp_path: Path) -> None:
    from tests.model_manifests import make_manifest
    from tuneloop.artifacts.model_manifest import parse_model_manifest

    place = store_model(str(tmp_path / "artifacts")) / "manifest.json"
    first = pretrained_plan(tmp_path, limit=180)
    manifest = parse_model_manifest(place.read_bytes(), "m")
    other = make_manifest(name="small", files=manifest.files, weights_sha256="9" * 64)
    place.write_bytes(dump_model_manifest(other))
    second = pretrained_plan(tmp_path, limit=180)
    assert first.model != second.model
    assert first.fingerprint == second.fingerprint
    assert pretrained_plan(tmp_path, limit=251).fingerprint != first.fingerprint


def test_both_length_limits_apply(tmp_path: Path) -> None:
    from tuneloop.specs.training.model import TokenizerSpec
    from tuneloop.training.text.trainer import train_tokenizer

    model = train_tokenizer(["Upper: red a", "Reasoning: a -> A"], TokenizerSpec(vocab_size=300))
    (tmp_path / "t.model").write_bytes(model)

    def export_with(folder: str, characters: int, tokens: int) -> tuple[ExportStage, Record]:
        (tmp_path / folder).mkdir()
        return exported(
            tmp_path / folder,
            LONG,
            tokenizer=str(tmp_path / "t.model"),
            max_length_characters=characters,
            max_length_tokens=tokens,
            over_length="drop",
        )

    spec, _ = export_with("characters", 120, 10_000)
    assert reasons(spec) == [(1, "over_length"), (2, "no_trainable_tokens")]
    assert lines_of(spec, "exclusions")[0]["detail"].endswith("characters, expected at most 120")
    spec, _ = export_with("tokens", 10_000, 120)
    assert reasons(spec) == [(1, "over_length"), (2, "no_trainable_tokens")]
    assert lines_of(spec, "exclusions")[0]["detail"].endswith("tokens, expected at most 120")
    report = next(tmp_path.glob("tokens/**/export_report.md")).read_text()
    assert "The limit is 10000 characters and 120 tokens for prompt and response" in report


CONTAMINATED = trace(
    5, steps=[{"i": 0, "type": "r", "content": f"I recall: {THIRTEEN.title()}!"}], prompt="Recall"
)


def test_thirteen_words_of_an_eval_prompt_are_contamination(tmp_path: Path) -> None:
    spec, record = exported(
        tmp_path, [trace(0), CONTAMINATED], eval_prompts=[f"Say {THIRTEEN}, then go on."]
    )
    (line,) = lines_of(spec, "exclusions")
    assert line["detail"] == f"13 words in a row are in eval item own-0: {THIRTEEN}"
    assert record.results["contamination"]["excluded"] == 1
    assert record.inputs["eval_prompts eval"] == spec.eval_sets[0].prompts_sha256


def test_questions_of_every_eval_set_are_contamination_too(tmp_path: Path) -> None:
    plan_of(tmp_path, [trace(0), CONTAMINATED])
    item = {"id": "g-0", "prompt": CONTAMINATED["prompt"], "expected_answer": "x"}
    guard = tmp_path / "guard.jsonl"
    guard.write_text(json.dumps({**item, "category": "c", "difficulty": "easy"}))
    run = TinyRun(tmp_path, str(tmp_path / "artifacts"), tmp_path / "run.yaml")
    spec = run.change(eval__guard_set=str(guard)).plan().stages[0]
    assert isinstance(spec, ExportStage)
    assert export(spec, tmp_path) == 0
    record = records.load(spec.execution.artifacts, spec.run_id, "export", spec.fingerprint)
    (line,) = lines_of(spec, "exclusions")
    assert line["detail"] == "its prompt is that of eval item g-0 of the set guard"
    digests = [each.prompts_sha256 for each in spec.eval_sets]
    assert record.results["contamination"]["prompts_sha256"] == digests
    assert record.inputs["eval_prompts guard"] == digests[1]


def test_contamination_can_fail_or_be_marked_or_not_be_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"eval_prompts": [f"Say {THIRTEEN}"]}
    for policy in ("fail", "report", "off"):
        (tmp_path / policy).mkdir()
    spec = plan_of(tmp_path / "fail", [trace(0), CONTAMINATED], contamination="fail", **options)
    assert export(spec, tmp_path / "fail") == 65
    assert "eval item own-0" in caplog.text
    spec, record = exported(
        tmp_path / "report", [trace(0), CONTAMINATED], contamination="report", **options
    )
    assert record.results["contamination"]["kept"] == 1 == record.counts["contaminated_kept"]
    assert "own-0" in lines_of(spec, "examples-")[1]["metadata"]["contamination"]
    _, record = exported(tmp_path / "off", [trace(0), CONTAMINATED], contamination="off", **options)
    assert record.results["contamination"]["prompts_sha256"] == []
    assert record.counts["examples"] == 2


def test_a_group_is_never_split_and_never_moves(tmp_path: Path) -> None:
    traces = [trace(n % 20, meta={"group": n % 10, "n": n}, prompt=f"p {n}") for n in range(200)]
    for folder in ("few", "all"):
        (tmp_path / folder).mkdir()
    options = {"validation_fraction": 0.4, "group_by": "group"}
    few, _ = exported(tmp_path / "few", traces[::2], **options)
    every, _ = exported(tmp_path / "all", traces, **options)

    def groups(spec: ExportStage, prefix: str) -> set[int]:
        return {line["metadata"]["group"] for line in lines_of(spec, prefix)}

    assert groups(every, "validation-")
    assert groups(every, "examples-")
    assert not groups(every, "validation-") & groups(every, "examples-")
    assert groups(few, "validation-") <= groups(every, "validation-")
    assert groups(few, "examples-") <= groups(every, "examples-")


def test_an_object_store_gets_the_same_bytes_as_a_folder(tmp_path: Path) -> None:
    """Any fsspec URL: here one that is no folder of this machine."""
    spec, record = exported(tmp_path, MIXED, shard_examples=50)
    artifacts = f"memory://{tmp_path.name}"
    publish_dataset(artifacts, MIXED, dataset_name="own", limit=10_000)
    execution = spec.execution.model_copy(update={"artifacts": artifacts})
    spec = spec.model_copy(update={"execution": execution})
    for index in range(2):
        assert export(spec, tmp_path, index, 2) == 0
    assert record_of(spec).content() == record.content()


def test_no_example_left_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export(plan_of(tmp_path, [trace(0, final_answer=" ")]), tmp_path) == 65
    assert "found no example to train on" in caplog.text


def test_critiques_come_from_traces_with_a_correction(tmp_path: Path) -> None:
    correction = {"final_answer": "A", "steps": ["a is the first letter", "a -> A"]}
    traces = [
        trace(0, final_answer="B", meta={"correction": correction}),
        trace(1),
        trace(2, meta={"correction": "A"}),
    ]
    request = {"recipe": "critique_v1", "instruction": "Find the mistake and correct it"}
    spec, _ = exported(tmp_path, traces, request=request)
    (example,) = lines_of(spec, "examples-")
    assert example["prompt"] == (
        "Upper: red a\n\nReasoning:\n1. a -> A\nAnswer: B\n\nFind the mistake and correct it"
    )
    assert example["response"] == "Reasoning:\n1. a is the first letter\n2. a -> A\nAnswer: A"
    assert reasons(spec) == [(1, "filtered"), (2, "invalid")]


def test_answers_alone(tmp_path: Path) -> None:
    spec, _ = exported(tmp_path, [trace(0)], request={"recipe": "answer_only_v1"})
    assert lines_of(spec, "examples-")[0]["response"] == "Answer: A"


def test_a_changed_eval_set_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = plan_of(tmp_path, [trace(0)])
    write_eval_set(tmp_path / "eval.jsonl", 3)
    assert export(spec, tmp_path) == 65
    assert "changed after the run was planned" in caplog.text


def test_eval_refuses_a_training_set_that_was_not_checked(tmp_path: Path) -> None:
    from tuneloop.errors import StageFailed
    from tuneloop.runs.local import run_plan
    from tuneloop.runs.planning.plan import Plan

    def run_until_eval(run: TinyRun) -> Plan:
        plan = run.plan()
        run_plan(replace(plan, stages=plan.stages[:3]))
        return plan

    run = make_tiny_run(tmp_path).change(train__steps=2, export__contamination="off")
    with pytest.raises(StageFailed, match="the training set was not checked"):
        run_until_eval(run)
    plan = run_until_eval(run.change(eval__allow_unchecked=True))
    report = Path(layout.run_prefix(run.artifacts, plan.run_id), "delta_report.md").read_text()
    assert "NOT CHECKED: the training set may hold the eval set" in report


def test_compressed_files_say_the_same(tmp_path: Path) -> None:
    options = {"shard_examples": 70, "validation_fraction": 0.2}
    (tmp_path / "plain").mkdir()
    (tmp_path / "small").mkdir()
    plain, expected = exported(tmp_path / "plain", MIXED, **options)
    small, record = exported(tmp_path / "small", MIXED, compression="zstd", **options)
    assert record.counts == expected.counts
    assert [file.rows for file in record.outputs] == [file.rows for file in expected.outputs]
    pairs = list(zip(record.outputs, expected.outputs, strict=True))
    for file, other in pairs:
        data = records.read_output(file, small.execution.artifacts)
        text = records.read_output(other, plain.execution.artifacts)
        if not file.name.endswith(".zst"):
            assert (file.name, data) == (other.name, text)  # the index, too
            continue
        assert file.name == f"{other.name}.zst"
        # What other tools make of it, and what is read from the middle.
        command = [sys.executable, "-c", "import pyzstd,sys; d=sys.stdin.buffer.read();"
                   "sys.stdout.buffer.write(pyzstd.decompress(d))"]  # fmt: skip
        assert subprocess.run(command, input=data, capture_output=True, check=True).stdout == text
        url = Path(small.execution.artifacts, file.path)
        lines = text.splitlines(keepends=True)
        assert [line for line, _ in zip(lines, range(3), strict=False)] == [
            read_line(str(url), row) for row in range(min(3, len(lines)))
        ]
        assert [example.id for _, example in iter_examples(str(url))] == [
            json.loads(line)["id"] for line in lines
        ]
    assert sum(file.name.endswith(".zst") for file, _ in pairs) == 10


def test_a_torn_compressed_file_is_named(tmp_path: Path) -> None:
    spec, record = exported(tmp_path, MIXED, compression="zstd")
    (file,) = record.outputs_like("examples-")
    data = records.read_output(file, spec.execution.artifacts)
    for name, torn, said in (
        ("half", data[: len(data) // 2], "the file is truncated within a zstd frame"),
        ("text", b"{}\n" * 9, "is not valid zstd"),
    ):
        path = tmp_path / f"{name}.jsonl.zst"
        path.write_bytes(torn)
        with pytest.raises(DataError, match=f"{name}.jsonl.zst: {said}"):
            list(iter_examples(str(path)))
