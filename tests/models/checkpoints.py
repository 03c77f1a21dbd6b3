"""Small checkpoints in Hugging Face layout: copies of tests/data/hf_tiny with a tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from tests.builders import REPOSITORY

HF_TINY = REPOSITORY / "tests" / "data" / "hf_tiny"
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


def copy_checkpoint(folder: Path, name: str = "llama31", tokens: int = 512) -> Path:
    """Copy a checkpoint, and give it a tokenizer, a chat template and a card."""
    shutil.copytree(HF_TINY / name, folder)
    vocab = {f"t{number}": number for number in range(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="t0"))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "README.md").write_text(CARD)
    return folder


def change_tensors(folder: Path, **changes: object) -> None:
    """Rewrite model.safetensors without the tensors that are None, and with the given arrays."""
    path = folder / "model.safetensors"
    tensors = {**load_file(path), **{key.replace("__", "."): v for key, v in changes.items()}}
    save_file({key: value for key, value in tensors.items() if value is not None}, path)


def change_json(path: Path, **changes: object) -> None:
    """Rewrite keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
