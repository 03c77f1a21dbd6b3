"""A model that is asked answers from its weights, its template and the conversation."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.chat_model import write_chat_model
from tuneloop.artifacts.model_manifest import MANIFEST, load_model_manifest
from tuneloop.errors import DataError
from tuneloop.models.answering import Answerer, OpenedModel, Settings, open_model
from tuneloop.training.generation.generator import Generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    write_chat_model(place, 1)
    return place


@pytest.fixture(scope="module")
def opened(folder: Path) -> OpenedModel:
    return open_model(str(folder), load_model_manifest(str(folder)))


def test_an_answer_is_what_the_model_generates_after_its_template(opened: OpenedModel) -> None:
    settings = Settings(system="Be brief.", max_new_tokens=6)
    history = [("Say a", "Answer: a")]
    answer = Answerer(opened, settings).ask("Say b", history)
    ids = opened.chat_format.encode_prompt("Say b", "Be brief.", history)
    generator = Generator(
        opened.model,
        opened.architecture,
        stop_ids=opened.chat_format.stop_ids,
        batch_size=1,
        max_new_tokens=6,
    )
    expected = generator.generate([ids], generator.plan([ids]))[0]
    assert answer.text == opened.chat_format.decode_response(expected.ids)
    assert (answer.prompt_tokens, answer.tokens) == (len(ids), len(expected.ids))
    assert (answer.hit_limit, answer.forgotten) == (expected.hit_limit, 0)


def test_draws_are_repeated_by_their_seed(opened: OpenedModel) -> None:
    def drawn(seed: int) -> str:
        settings = Settings(max_new_tokens=12, temperature=3.0, top_p=0.95, seed=seed)
        return Answerer(opened, settings).ask("Say a").text

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(1, 4)}) > 1


def test_the_oldest_turns_are_forgotten_when_the_context_is_full(opened: OpenedModel) -> None:
    turn = ("Say a", "Answer: a")
    alone = len(opened.chat_format.encode_prompt("Say b", None))
    one = len(opened.chat_format.encode_prompt("Say b", None, [turn]))
    architecture = opened.architecture.model_copy(update={"max_positions": one + 4})
    short = dataclasses.replace(opened, architecture=architecture)
    answerer = Answerer(short, Settings(max_new_tokens=4))
    answer = answerer.ask("Say b", [turn] * 3)
    assert (answer.forgotten, answer.prompt_tokens) == (2, one)
    architecture = opened.architecture.model_copy(update={"max_positions": alone + 3})
    short = dataclasses.replace(opened, architecture=architecture)
    with pytest.raises(DataError, match=f"has {alone} tokens and the answer up to 4, expected"):
        Answerer(short, Settings(max_new_tokens=4)).ask("Say b", [turn])


def test_a_folder_without_a_manifest_is_the_same_model(
    folder: Path, opened: OpenedModel, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        if path.name != MANIFEST:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    plain = open_model(str(tmp_path), None)
    assert plain.chat_format.digest == opened.chat_format.digest
    settings = Settings(max_new_tokens=6)
    assert Answerer(plain, settings).ask("Say a") == Answerer(opened, settings).ask("Say a")
