"""The verbs about examples, on files of a real export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models

from tests.builders import Invoke
from tests.training.text.models import model_files, store_model
from tuneloop import jsonl
from tuneloop.specs.training.model import TokenizerSpec
from tuneloop.training.export.index import IndexedFile, dump_offsets
from tuneloop.training.export.inspect import _texts_of, inspect_example, render_html
from tuneloop.training.schema import TrainingExample, parse_example
from tuneloop.training.text.chat_format import load_chat_format
from tuneloop.training.text.json_tokenizer import JsonTokenizer
from tuneloop.training.text.trainer import train_tokenizer


def example(number: int) -> TrainingExample:
    line = {
        "id": f"e{number}",
        "metadata": {"source_trace_id": f"t{number}"},
        "prompt": f"Say {number} <b>",
        "response": f"Answer: {number}",
    }
    return parse_example(jsonl.dump_line(line), "x")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Write three examples with their index, as an export does."""
    path = tmp_path / "examples-00000-of-00001.jsonl"
    (tmp_path / "index").mkdir()
    with path.open("wb") as out:
        file = IndexedFile(out.write)
        for number in range(3):
            file.add([example(number)])
    index = tmp_path / "index" / "examples-00000-of-00001.u64"
    index.write_bytes(dump_offsets(file.offsets))
    (tmp_path / "t.model").write_bytes(
        train_tokenizer(
            ["user model", "Say 0 1 2 <b>", "Be brief", "Answer: 0 1 2"],
            TokenizerSpec(vocab_size=300),
        )
    )
    return path


def test_the_mask_covers_the_response_and_the_end_of_its_turn(shard: Path) -> None:
    model = (shard.parent / "t.model").read_bytes()
    chat = load_chat_format({"tokenizer.model": model}, place="t.model")
    found = inspect_example(example(1), chat, None)
    trained = "".join(piece.text for piece in found.pieces if piece.trained)
    assert trained == "Answer: 1<end_of_turn>"
    assert "".join(piece.text for piece in found.pieces) == found.text
    assert found.text.startswith("<bos><start_of_turn>user\nSay 1 <b>")
    assert found.roles == ("user", "assistant")
    assert f"{found.total} tokens, loss on {found.trained}" in found.summary()
    page = render_html(found)
    assert page.count('class="trained"') == found.trained + 1
    assert "&lt;start_of_turn&gt;" in page
    assert "Say 1 <b>" not in page


def test_inspect_by_row_and_by_id(shard: Path, tuneloop: Invoke) -> None:
    code, out, _ = tuneloop("examples", "inspect", str(shard), "--row", "2", "--json")
    assert (code, json.loads(out)["id"]) == (0, "e2")
    for name in ("e1", "t1"):
        code, out, _ = tuneloop("examples", "inspect", str(shard.parent), "--id", name, "--json")
        assert (code, json.loads(out)["id"]) == (0, "e1")


def test_inspect_shows_text_counts_and_a_page(shard: Path, tuneloop: Invoke) -> None:
    code, out, _ = tuneloop(
        *("examples", "inspect", str(shard), "--tokenizer", str(shard.parent / "t.model")),
        *("--system-instruction", "Be brief", "--html", str(shard.parent / "page.html")),
    )
    assert code == 0
    assert "Be brief" in out
    assert "turns: user, assistant" in out
    assert "Be brief" in (shard.parent / "page.html").read_text()
    code, out, _ = tuneloop("examples", "inspect", str(shard), "--family", "gemma4")
    assert (code, "<|turn>model" in out, "no tokenizer given" in out) == (0, True, True)
    before, after = out.split("--- in the loss\n")
    assert "--- not in the loss\n<|turn>user" in before
    assert after.startswith("Answer: 0")


def test_characters_of_several_tokens_are_shown_with_their_last_one() -> None:
    chat = load_chat_format(model_files(), place="small")
    one = TrainingExample(id="e", prompt="é", response="漢 🎉")
    texts = [piece.text for piece in inspect_example(one, chat, None).pieces if piece.trained]
    assert texts == ["", "", "漢", " ", "", "", "", "🎉", "<|im_end|>"]


def test_a_space_that_decoders_drop_at_the_beginning_is_shown() -> None:
    vocab = {"<s>": 0, "\u2581a": 1, "\u2581b": 2, "c": 3, "<0xC3>": 4, "<0xA9>": 5}
    model = models.BPE(vocab=vocab, merges=[], byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(  # as Llama 2 and Mistral have it
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    ids = [1, 2, 3, 4, 5, 1]
    assert list(_texts_of(ids, JsonTokenizer(tokenizer))) == ["a", " b", "c", "", "é", " a"]


def test_a_stored_model_shows_its_own_tokens(shard: Path, tuneloop: Invoke) -> None:
    artifacts = str(shard.parent / "artifacts")
    store_model(artifacts)
    model = ("--model", "small", "--artifacts", artifacts)
    code, out, _ = tuneloop("examples", "inspect", str(shard), *model, "--json")
    found = json.loads(out)
    assert (code, found["unit"]) == (0, "tokens")
    assert found["text"] == (
        "<|im_start|>user\nSay 0 <b><|im_end|>\n<|im_start|>assistant\nAnswer: 0<|im_end|>"
    )
    assert [text for text, trained in found["pieces"] if trained][-1] == "<|im_end|>"
    code, out, _ = tuneloop("examples", "stats", str(shard), *model, "--json")
    assert json.loads(out)["lengths"]["response_tokens"]["quantiles"]["max"] == 10
    code, _, err = tuneloop("examples", "inspect", str(shard), *model, "--thinking", "steps")
    assert (code, "does not write reasoning apart" in err) == (3, True)
    code, _, err = tuneloop("examples", "inspect", str(shard), *model, "--tokenizer", "t.model")
    assert (code, "--tokenizer: given together with --model" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("inspect", "FILE", "--row", "9"), 12, "has 3 examples and no row 9"),
        (("inspect", "FILE", "--id", "no"), 12, "found no example with id"),
        (("inspect", "FOLDER", "--row", "1"), 2, "give a file, or --id"),
        (("inspect", "FILE", "--family", "x"), 3, "chat template 'x' is unknown"),
        (("inspect", "FILE", "--tokenizer", "no.model"), 2, "no such file"),
        (("inspect", "FILE", "--model", "no"), 12, "no: neither a model nor a finished run"),
        (("inspect", "FOLDER/no.jsonl"), 12, "the file or its index is missing"),
        (("stats", "FOLDER/no.jsonl"), 12, "no such file, expected examples"),
        (("stats", "FOLDER/index"), 12, "found no files examples-*.jsonl"),
        (("export", "FILE", "--format", "x"), 2, "expected one of messages, prompt_completion"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    arguments: tuple[str, ...], code: int, said: str, shard: Path, tuneloop: Invoke
) -> None:
    places = {"FILE": str(shard), "FOLDER": str(shard.parent)}
    filled = [places.get(a, a.replace("FOLDER", str(shard.parent))) for a in arguments]
    found, _, err = tuneloop("examples", *filled)
    assert (found, said in err) == (code, True), err


def test_stats_count_and_measure(shard: Path, tuneloop: Invoke) -> None:
    tokenizer = ("--tokenizer", str(shard.parent / "t.model"))
    code, out, _ = tuneloop("examples", "stats", str(shard.parent), *tokenizer, "--json")
    found = json.loads(out)
    assert (code, found["examples"]) == (0, 3)
    assert found["lengths"]["response_characters"]["quantiles"]["p50"] == len("Answer: 0")
    assert found["lengths"]["prompt_tokens"]["mean"] > 0
    code, out, _ = tuneloop("examples", "stats", str(shard))
    assert "3 examples" in out


def test_other_tools_get_messages_or_prompt_and_completion(shard: Path, tuneloop: Invoke) -> None:
    _, out, _ = tuneloop("examples", "export", str(shard))
    assert json.loads(out.splitlines()[0]) == {
        "id": "e0",
        "messages": [
            {"role": "user", "content": "Say 0 <b>"},
            {"role": "assistant", "content": "Answer: 0"},
        ],
    }
    _, out, _ = tuneloop("examples", "export", str(shard), "--format", "prompt_completion")
    assert json.loads(out.splitlines()[2])["completion"] == "Answer: 2"
