"""The rival of `gpu.py`: the same case with transformers and PEFT.

Its argument is the case as JSON. It runs in an interpreter that has PyTorch, which need not have
tuneloop.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GENERATIONS = 2
"""The first one is not counted."""


def build(case: dict[str, Any]) -> Any:
    """Build the model with random weights in bfloat16, on the device."""
    config = AutoConfig.for_model(**case["config"])
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model: Any = AutoModelForCausalLM
        return model.from_config(config, dtype=torch.bfloat16)


def tokens(case: dict[str, Any]) -> Any:
    """Draw the tokens of one batch."""
    shape = (case["rows"], case["length"])
    return torch.randint(4, case["config"]["vocab_size"], shape, device=DEVICE)


def seconds_since(since: float) -> float:
    """Return the time since then, when the device has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - since


def train(case: dict[str, Any]) -> dict[str, Any]:
    """Train all weights, or adapters if the case has a rank."""
    model = build(case)
    if case["rank"]:
        from peft import LoraConfig, get_peft_model

        options = LoraConfig(r=case["rank"], lora_alpha=16, target_modules=case["targets"])
        model = get_peft_model(model, options)
    if case["remat"] != "none":
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=DEVICE == "cuda")
    ids = tokens(case)
    times, losses = [], []
    for _ in range(case["steps"]):
        since = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        times.append(seconds_since(since))
    seconds = statistics.median(times[case["warm_up"] :])
    return {
        "tokens_per_second": case["rows"] * case["length"] / seconds,
        "first_loss": losses[0],
    }


def generate(case: dict[str, Any]) -> dict[str, Any]:
    """Answer random prompts greedily."""
    model, ids, count = build(case).eval(), tokens(case), case["new_tokens"]
    with torch.inference_mode():
        for _ in range(GENERATIONS):
            since = time.perf_counter()
            found = model.generate(
                ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
            )
            seconds = seconds_since(since)
    assert found.shape[1] == case["length"] + count
    return {"tokens_per_second": case["rows"] * count / seconds}


def main() -> None:
    """Measure the case, and print the figures as JSON."""
    case = json.loads(sys.argv[1])
    try:
        found = generate(case) if case["new_tokens"] else train(case)
    except torch.OutOfMemoryError:
        found = {"tokens_per_second": 0.0}
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
    print(json.dumps({**found, "peak_gib": peak / 2**30}))


if __name__ == "__main__":
    main()
