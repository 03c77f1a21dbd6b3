"""`make check-torch`: models that tuneloop writes are read by transformers and PEFT.

transformers makes one small model of each family. tuneloop loads it, compares it with what
transformers computed, changes all weights or adds an adapter, and writes the folders of a tuned
model. transformers and PEFT read these and must give the same logits within 2e-5 and the same
greedy tokens.

    python -m tests.torch.check TORCH_PYTHON
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from tests.training.text.models import model_files
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.check import (
    Reference,
    check_model,
    compute_logits,
    continue_greedily,
    load_reference,
)
from tuneloop.training.models.hf_config import parse_config
from tuneloop.training.models.hf_layout import open_folder
from tuneloop.training.models.loading import load_model
from tuneloop.training.models.lora.apply import apply_lora, lora_items
from tuneloop.training.models.lora.merge import adapters_of, merge_adapters, remove_adapters
from tuneloop.training.models.lora.peft import peft_files
from tuneloop.training.models.parameters import live_params, param_items
from tuneloop.training.models.publish.text_files import inherited_text_files
from tuneloop.training.models.stored import Lineage, write_model_folder
from tuneloop.training.text.chat_format import load_chat_format

LORA = LoraMethod(kind="lora", rank=8, alpha=16.0)
LINEAGE = Lineage("tuned", "tests/torch/check.py")


def main(torch_python: str) -> int:
    """Run the three steps; returns the exit code."""
    program = [torch_python, str(Path(__file__).with_name("with_torch.py"))]
    with tempfile.TemporaryDirectory(prefix="tuneloop-check-torch-") as temporary:
        folder = Path(temporary)
        subprocess.run([*program, "make", str(folder)], check=True)
        for place in sorted(folder.iterdir()):
            export(place)
        return subprocess.run([*program, "verify", str(folder)], check=False).returncode


def export(place: Path) -> None:
    """Write the folders full, merged and adapter beside a base, with what they must compute."""
    config = json.loads((place / "base" / "config.json").read_text())
    architecture = parse_config(config, str(place))
    stored = open_folder(str(place / "base"))
    model = load_model(stored, architecture)
    base = load_reference(str(place / "base.npz"))
    found = check_model(model, base, str(place))
    row = {"model": place.name, "folder": "base", "max_difference": found.max_difference}
    print(json.dumps({**row, "passed": found.passed}), flush=True)  # noqa: T201
    if not found.passed:
        sys.exit(1)
    rng = np.random.default_rng(0)
    for _, variable in param_items(model):
        noise = rng.standard_normal(variable.shape, np.float32)
        variable.set_value(variable.get_value() + 0.01 * noise)
    save(model, architecture, base, place, "full")

    model = apply_lora(load_model(stored, architecture), architecture, LORA, 0)
    for path, variable in lora_items(model):
        if path[-1].endswith("_lora_b"):
            variable.set_value(rng.standard_normal(variable.shape, np.float32) * 0.05)
    adapters = adapters_of(model, LORA)
    save_answers(model, base, place / "adapter.npz")
    for name, data in peft_files(adapters, architecture.family, LORA, "base").items():
        with opener(place / "adapter")(name) as file:
            file.write(data)
    remove_adapters(model)
    merge_adapters(model, adapters)
    save(model, architecture, base, place, "merged")


def save(model: Any, architecture: Any, base: Reference, place: Path, kind: str) -> None:
    """Write a model folder with a tokenizer, and what it must compute."""
    # By its model type alone, transformers would take the tokenizer for that of the family.
    files = model_files(tokenizer_class="PreTrainedTokenizerFast")
    chat = load_chat_format(files, place="tests")
    documents = inherited_text_files(files, chat.stop_ids, "tests")
    params = live_params(model)
    write_model_folder(params, architecture, LINEAGE, documents, opener(place / kind))
    chat_ids = chat.encode_prompt("Say é 12\n a", None)
    save_answers(model, base, place / f"{kind}.npz", chat_ids=np.array(chat_ids))


def save_answers(model: Any, base: Reference, target: Path, **more: np.ndarray) -> None:
    """Save the logits of the base's ids, and a greedy continuation of their first row."""
    with jax.default_matmul_precision("highest"):
        generated = base.ids[0, : base.generated.size].copy()
        new = continue_greedily(model, generated)
        generated[-new.size :] = new
        logits = np.asarray(compute_logits(model, base.ids), np.float32)
    np.savez(target, ids=base.ids, logits=logits, gen=generated, **more)  # type: ignore[arg-type]


def opener(folder: Path) -> Callable[[str], Any]:
    """Return the function that opens the files of a folder for writing."""
    folder.mkdir(exist_ok=True)

    @contextmanager
    def open_file(name: str) -> Iterator[IO[bytes]]:
        with (folder / name).open("xb") as file:
            yield file

    return open_file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
