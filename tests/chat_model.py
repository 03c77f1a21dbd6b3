"""A tiny model that can chat, in a folder as the train stage writes it."""

from __future__ import annotations

from pathlib import Path

from tests.builders import TINY_MODEL
from tuneloop.specs.training.model import RandomModelSpec, TokenizerSpec
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.models.parameters import live_params
from tuneloop.training.models.publish.text_files import trained_text_files
from tuneloop.training.models.random_architecture import random_architecture
from tuneloop.training.models.random_weights import build_random_model
from tuneloop.training.models.stored import Lineage, write_model_folder
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.trainer import train_tokenizer

SENTENCES = ["user", "model", "Say a", "Answer: a"]


def write_chat_model(folder: Path, seed: int) -> str:
    """Write a tiny model with random weights and its manifest; returns the manifest's digest."""
    tokenizer = train_tokenizer(SENTENCES, TokenizerSpec(vocab_size=300))
    chat_format = load_chat_format({"tokenizer.model": tokenizer}, place="tiny")
    template = chat_template_named("gemma3")
    architecture = random_architecture(
        RandomModelSpec(**TINY_MODEL), chat_format.tokenizer.vocab_size
    )
    folder.mkdir(parents=True)
    return write_model_folder(
        live_params(build_random_model(architecture, seed)),
        architecture,
        Lineage(name=folder.name, source=f"random weights, seed {seed}"),
        trained_text_files(tokenizer, template, chat_format.stop_ids[0]),
        lambda name: (folder / name).open("wb"),
    ).digest
