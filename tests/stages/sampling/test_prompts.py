"""Which prompts of a source are asked, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import letter_trace, publish_dataset, write_eval_set
from tuneloop.datasets.read import load_manifest
from tuneloop.errors import DataError, InputMissing
from tuneloop.runs.plan_stages import dataset_ref
from tuneloop.specs.sampling import DatasetPrompts, FilePrompts
from tuneloop.specs.stages import DatasetRef
from tuneloop.stages.sampling.prompts import Prompts, load_prompts, read_stated


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
    apart: frozenset[str] = frozenset(),
) -> Prompts:
    return load_prompts(
        source,
        dataset=dataset,
        datasets=str(folder),
        sha256=sha256,
        scorer=scorer,
        apart=apart,
    )


def asked(text: str, answer: str, **more: Any) -> dict[str, Any]:
    trace = {**letter_trace(0), "prompt": text, "final_answer": answer, **more}
    return trace | ({"trace_version": "1.1"} if more else {})


def test_each_prompt_is_asked_once_and_every_other_one_is_counted(tmp_path: Path) -> None:
    traces = [
        asked("1 + 1", "2", meta={"category": "sum"}),
        asked("1 + 1", "2"),
        asked("1 + 2", "3"),
        asked("2 or 3?", "2"),
        asked("2 or 3?", "3"),
        asked("in the eval set 🟡", "4"),
        asked("no number", "red"),
        asked("and twice that?", "6", messages=[{"role": "user", "content": "3"}]),
        asked("brief", "6", system="Be brief."),
        asked("2 + 2", "4"),
        asked("2 + 3", "5"),
    ]
    found = of_dataset(
        tmp_path, traces, limit=3, scorer="numeric", apart=frozenset({"in the eval set 🟡"})
    )
    assert [(item.prompt, item.expected_answer) for item in found.items] == [
        *(("1 + 1", "2"), ("1 + 2", "3"), ("2 + 2", "4")),
    ]
    assert [item.category for item in found.items] == ["sum", "prompts", "prompts"]
    counted = (found.repeated, found.ambiguous, found.apart, found.unscorable, found.conversation)
    assert counted == (2, 1, 1, 1, 2)
    assert found.over_limit == 1
    assert len(found.items) + sum(counted) + found.over_limit == len(traces)


def test_a_source_without_a_prompt_to_ask_is_refused(tmp_path: Path) -> None:
    traces = [asked("red?", "yes"), asked("red?", "no"), asked("blue?", "no")]
    message = r"dataset letters-v1: found no prompt to ask, .*; 1 are in an eval set, 1 have diff"
    with pytest.raises(DataError, match=message):
        of_dataset(tmp_path, traces, apart=frozenset({"blue?"}))


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
    found = load(tmp_path, source, sha256=stated.sha256, apart=frozenset({stated.items[0].prompt}))
    assert [item.id for item in found.items] == ["letter-1", "letter-2"]
    assert found.apart == 1
    with pytest.raises(DataError, match=r"a.jsonl: its prompts changed after the run was planned"):
        load(tmp_path, source, sha256="0" * 64)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputMissing, match=r"a.jsonl: missing, expected prompts .* eval set"):
        read_stated(source)
