from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.builders import letter_trace, stored_row
from tuneloop import jsonl
from tuneloop.training.export.formats import EXPORT_FORMATS
from tuneloop.training.renderers import render_tunix_sft_prompt

FORGED = {
    "source_trace_id": "forged",
    "trace_version": "forged",
    "created_at": "forged",
    "format": "forged",
    "recipe": "forged",
    "dataset_build_id": "forged",
    "kept": "yes",
}


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_meta_cannot_overwrite_provenance(name: str, tmp_path: Path) -> None:
    row, manifest = stored_row(tmp_path, {**letter_trace(0), "meta": FORGED})
    record = json.loads(jsonl.encode_line(EXPORT_FORMATS[name](row, manifest)))
    metadata = record["metadata"]
    assert metadata["kept"] == "yes"
    assert metadata["created_at"] == row.created_at
    assert metadata["trace_version"] == "1.0"
    if name == "training_example":
        assert metadata["source_trace_id"] == row.id
        assert metadata["recipe"] == "trace_sft_v1"
    if name == "tunix_sft":
        assert metadata["format"] == "tunix_sft"


def test_formats_are_json(tmp_path: Path) -> None:
    row, manifest = stored_row(tmp_path, letter_trace(80))  # The trace has non-ASCII words.
    for render in EXPORT_FORMATS.values():
        json.loads(jsonl.encode_line(render(row, manifest)))


def test_tunix_sft_is_what_the_renderer_makes_of_the_trace(tmp_path: Path) -> None:
    row, manifest = stored_row(tmp_path, {**letter_trace(0), "final_answer": "A<end_of_turn>"})
    trace = {
        "prompt": row.prompt,
        "trace_steps": row.step_contents,
        "final_answer": "A<end_of_turn>",
    }
    assert EXPORT_FORMATS["tunix_sft"](row, manifest)["prompts"] == render_tunix_sft_prompt(trace)
