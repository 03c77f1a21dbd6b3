from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from tests.training.text.models import CHATML, model_files
from tuneloop.training.chat_templates import CHAT_TEMPLATES, Turn
from tuneloop.training.models.publish.text_files import (
    inherited_text_files,
    template_source,
    trained_text_files,
)
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.jinja_template import JinjaTemplate
from tuneloop.training.text.sentencepiece_tokenizer import SentencePieceTokenizer

CONVERSATIONS = [
    [Turn("user", "Hi")],
    [Turn("user", "A\n b"), Turn("assistant", " C ")],
    [Turn("user", "1"), Turn("assistant", "{{ 2 }}"), Turn("user", "<b>'\"")],
]


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
@pytest.mark.parametrize("open_turn", [True, False])
def test_the_jinja_source_renders_as_the_built_in_template(name: str, open_turn: bool) -> None:
    row = CHAT_TEMPLATES[name]
    jinja = JinjaTemplate(template_source(row), {"bos_token": row.bos or "-"}, "x")
    for turns in CONVERSATIONS:
        if row.has_system_role:
            turns = [Turn("system", "Be brief."), *turns]
        messages = [turn._asdict() for turn in turns]
        found = jinja.render(messages, generation_prompt=open_turn, thinking=False)
        assert found == (row.bos or "") + row.render(turns, open_turn=open_turn)


def test_an_instruction_joins_the_first_user_turn_where_there_is_no_system_role() -> None:
    jinja = JinjaTemplate(template_source(CHAT_TEMPLATES["gemma3"]), {"bos_token": "<bos>"}, "x")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    found = jinja.render(messages, generation_prompt=True, thinking=False)
    user = "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>"
    assert found == f"<bos>{user}\n<start_of_turn>model\n"


@pytest.fixture
def trained(tokenizer_model: bytes) -> dict[str, bytes]:
    row = CHAT_TEMPLATES["gemma3"]
    end = SentencePieceTokenizer.load(tokenizer_model, "x").token_id("<end_of_turn>")
    assert end is not None
    return trained_text_files(tokenizer_model, row, end)


def test_files_of_a_trained_tokenizer_change_no_id(
    trained: dict[str, bytes], tokenizer_model: bytes
) -> None:
    """Training text has the same ids with and without the template's file."""
    ours = load_chat_format({"tokenizer.model": tokenizer_model}, place="x")
    written = load_chat_format(trained, place="x")
    for system in (None, "Be brief."):
        example = ("Say a", "Answer: a <end_of_turn>", system)
        assert written.encode_example(*example) == ours.encode_example(*example)
    assert set(written.stop_ids) == set(ours.stop_ids)
    assert written.pad_id == ours.pad_id == 0


def test_transformers_reads_the_files_of_a_trained_tokenizer(
    trained: dict[str, bytes], tmp_path: Path
) -> None:
    for name, data in {**trained, "config.json": b'{"model_type": "gemma3_text"}'}.items():
        (tmp_path / name).write_bytes(data)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = load_chat_format(trained, place="x")
    assert len(theirs) == ours.tokenizer.vocab_size
    messages = [{"role": "user", "content": "Say é 12\n a"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == ours.encode_prompt("Say é 12\n a", None)
    assert theirs.encode("Say a") == [2, *ours.tokenizer.encode("Say a")]


def test_a_base_keeps_its_files_and_gets_its_stop_ids() -> None:
    base = model_files(eos_token="<|endoftext|>") | {
        "generation_config.json": b'{"temperature": 0.6, "eos_token_id": 256, "pad_token_id": 256}',
        "model.safetensors": b"w",
        "README.md": b"x",
    }
    files = inherited_text_files(base, [258, 256], "x")
    assert sorted(files) == [
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert files["tokenizer.json"] == base["tokenizer.json"]
    assert json.loads(files["generation_config.json"]) == {
        "temperature": 0.6,
        "eos_token_id": [256, 258],
        "pad_token_id": 256,
    }
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == CHATML
    assert inherited_text_files(files, [258, 256], "x") == files


def test_a_template_in_the_config_alone_is_written_to_a_file_too() -> None:
    base = model_files(None, chat_template=CHATML)
    files = inherited_text_files(base, [258], "x")
    assert files["chat_template.jinja"].decode() == CHATML
    assert files["tokenizer_config.json"] == base["tokenizer_config.json"]


def test_a_base_without_a_template_gets_none() -> None:
    files = inherited_text_files(model_files(None), [256], "x")
    assert "chat_template.jinja" not in files
    assert json.loads(files["generation_config.json"]) == {"eos_token_id": [256]}
