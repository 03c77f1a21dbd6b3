"""The half of `make check-torch` that runs with torch, transformers and PEFT, without tuneloop.

python tests/torch/with_torch.py make FOLDER      makes FOLDER/<model>/base and its reference
python tests/torch/with_torch.py verify FOLDER    compares what tuneloop has written below it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
TOLERANCE = 2e-5
PROMPT, NEW = 12, 16
SHAPE: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
}
GEMMA: dict[str, Any] = {"sliding_window": 16, "query_pre_attn_scalar": 16}
LLAMA_31 = {
    **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
}
WIDE = {"rope_type": "default", "rope_theta": 5e6}


def configs() -> dict[str, Any]:
    """One small model of each family, with settings that its releases have."""
    no_head = {key: value for key, value in SHAPE.items() if key != "head_dim"}
    return {
        "gemma3": transformers.Gemma3TextConfig(**SHAPE, **GEMMA, num_hidden_layers=7),
        "gemma2": transformers.Gemma2Config(**SHAPE, **GEMMA, num_hidden_layers=4),
        "qwen3": transformers.Qwen3Config(
            **SHAPE, num_hidden_layers=3, rope_parameters=WIDE, tie_word_embeddings=False
        ),
        "qwen2": transformers.Qwen2Config(**no_head, num_hidden_layers=3, tie_word_embeddings=True),
        "llama3": transformers.LlamaConfig(
            **SHAPE, num_hidden_layers=3, rope_parameters=LLAMA_31, rms_norm_eps=1e-5
        ),
    }


def make(folder: Path) -> None:
    """Save a model of each family with random weights, and what it computes."""
    for name, config in configs().items():
        # Eager attention: the fused kernels have no soft cap, which Gemma 2 needs.
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        generator = torch.Generator().manual_seed(1)
        centre = 0.0 if name.startswith("gemma") else 1.0
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    parameter.copy_(noise * parameter.shape[-1] ** -0.5)
                else:
                    parameter.copy_(noise * 0.1 + (0.0 if key.endswith("bias") else centre))
        model.save_pretrained(folder / name / "base")
        ids = np.random.default_rng(0).integers(4, SHAPE["vocab_size"], (2, 48))
        logits, generated = answers(model, ids)
        np.savez(folder / name / "base.npz", ids=ids, logits=logits, gen=generated)


def answers(model: Any, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute logits, and 16 greedy tokens after the first 12 of the first row."""
    with torch.no_grad():
        logits = model(torch.tensor(ids)).logits.float().numpy()
        # Not generate(), which stops at the ids of generation_config.json.
        row = torch.tensor(ids[:1, :PROMPT])
        for _ in range(NEW):
            newest = model(row).logits[:, -1].argmax(-1, keepdim=True)
            row = torch.cat([row, newest], dim=1)
    return logits, row[0].numpy()


def verify(folder: Path) -> int:
    """Compare the folders that tuneloop has written; returns the number of failures."""
    failures = 0
    for name in configs():
        for kind in ("full", "merged", "adapter"):
            place = folder / name / kind
            expected = np.load(folder / name / f"{kind}.npz")
            read = folder / name / "base" if kind == "adapter" else place
            model = transformers.AutoModelForCausalLM.from_pretrained(
                read, dtype=torch.float32, attn_implementation="eager"
            )
            if kind == "adapter":
                model = peft.PeftModel.from_pretrained(model, place)
            logits, generated = answers(model.eval(), expected["ids"])
            difference = float(np.abs(logits - expected["logits"]).max())
            equal = int((generated == expected["gen"])[PROMPT:].sum())
            passed = difference <= TOLERANCE and equal == NEW
            if kind != "adapter":
                passed &= same_chat(place, expected["chat_ids"])
            failures += not passed
            row = {"model": name, "folder": kind, "max_difference": difference}
            row |= {"greedy_equal": equal, "of": NEW, "passed": passed}
            print(json.dumps(row), flush=True)  # noqa: T201
    return failures


def same_chat(place: Path, chat_ids: np.ndarray) -> bool:
    """Whether AutoTokenizer and the template in the folder give the ids that tuneloop has."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    messages = [{"role": "user", "content": "Say é 12\n a"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return list(ids) == chat_ids.tolist()


if __name__ == "__main__":
    verb, target = sys.argv[1:]
    sys.exit({"make": make, "verify": verify}[verb](Path(target)))
