"""Tokens per second and memory of training and generation on one GPU; compared with Hugging Face.

    python bench/gpu.py [CASE ...] [--torch-python PYTHON]

Each side of a case runs in a process of its own, ours first, on random weights and random tokens
that are all targets. Training is `run_sft` as the train stage calls it; the figure is the median
step after the first three. "Host gap" is the share of that time that the same compiled step does
not take in a bare loop. The rival is transformers, or PEFT, with PyTorch's fused AdamW in bfloat16;
it needs `torch`, `transformers` and `peft` in PYTHON (default: this interpreter). All cases but
the last take about two minutes each on an H100.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figure import SMOKE, print_figure, sized

os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")

STEPS = sized(20, 4)
WARM_UP = sized(3, 1)
"""Steps that are not counted; the first one compiles."""
NEW_TOKENS = sized(128, 4)
RANK = 16
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RAM_DISK = Path("/dev/shm")
"""Folder for the checkpoint of the last step; a disk would take longer than the training."""

GEMMA: dict[str, Any] = {
    **{"model_type": "gemma3_text", "vocab_size": sized(262_144, 512), "head_dim": sized(256, 16)},
    **{"num_attention_heads": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": sized(256, 16)},
    **{"sliding_window": 512, "rope_theta": 1e6, "max_position_embeddings": 32_768},
    "tie_word_embeddings": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "270m": {
        **GEMMA,
        **{"hidden_size": sized(640, 64), "intermediate_size": sized(2048, 128)},
        "num_hidden_layers": sized(18, 2),
    },
    "1b": {
        **GEMMA,
        **{"hidden_size": sized(1152, 64), "intermediate_size": sized(6912, 128)},
        "num_hidden_layers": sized(26, 2),
    },
    "8b": {
        **{"model_type": "llama", "vocab_size": sized(128_256, 512)},
        **{"hidden_size": sized(4096, 64), "intermediate_size": sized(14_336, 128)},
        **{"num_hidden_layers": sized(32, 2), "num_attention_heads": sized(32, 4)},
        **{"num_key_value_heads": sized(8, 2), "head_dim": sized(128, 16)},
        **{"rope_theta": 5e5, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5},
        "tie_word_embeddings": False,
    },
}
"""`config.json` of each model."""
CASES: dict[str, dict[str, Any]] = {
    "270m": {"model": "270m", "rows": 8, "length": 1024},
    "1b": {"model": "1b", "rows": 8, "length": 1024},
    "1b-long": {"model": "1b", "rows": 16, "length": 2048, "remat": "decoder"},
    "1b-lora": {"model": "1b", "rows": 8, "length": 1024, "rank": RANK},
    "generate": {"model": "270m", "rows": 64, "length": 128, "new_tokens": NEW_TOKENS},
    "8b-lora": {"model": "8b", "rows": 2, "length": 4096, "rank": RANK, "remat": "decoder"},
}
"""The last case shows the figure of which NVIDIA publishes a rival: 12,473 tokens/s on an H100."""


def case_named(name: str) -> dict[str, Any]:
    """Return a case as both sides read it."""
    case = {"remat": "none", "rank": None, "new_tokens": None, **CASES[name]}
    case |= {"name": name, "config": MODELS[case["model"]], "steps": STEPS, "warm_up": WARM_UP}
    case |= {"targets": TARGETS, "rows": sized(case["rows"], 2)}
    return case | {"length": sized(case["length"], 32)}


def random_model(architecture: Any, dtype: str) -> Any:
    """Draw a model's weights where they will be used; on the host, 8 billion would take minutes."""
    import jax

    from tuneloop.training.models.parameters import param_items
    from tuneloop.training.models.registry import family_named

    model = family_named(architecture.family).module().abstract_model(architecture, dtype)
    draw = jax.jit(jax.random.normal, static_argnums=(1, 2))
    for number, (_, variable) in enumerate(param_items(model)):
        values = draw(jax.random.key(number), variable.shape, variable.get_value().dtype)
        variable.set_value(0.02 * values)
    return model


def train(case: dict[str, Any]) -> dict[str, Any]:
    """Train with `run_sft`, then measure the same step without what is around it."""
    from tuneloop.specs.training.method import LoraMethod
    from tuneloop.specs.training.train import TrainSpec
    from tuneloop.training.models.hf_config import parse_config
    from tuneloop.training.models.lora.apply import apply_lora
    from tuneloop.training.sft import distributed, loop
    from tuneloop.training.sft.callbacks import SftOptions
    from tuneloop.training.sft.trainer import NEVER

    architecture = parse_config(case["config"], "config.json")
    spec = TrainSpec(
        steps=case["steps"],
        batch_size=case["rows"],
        max_length_tokens=case["length"],
        dtype="bfloat16",
        remat=case["remat"],
    )
    model = random_model(architecture, "bfloat16" if case["rank"] else "float32")
    if case["rank"]:
        method = LoraMethod(kind="lora", rank=case["rank"], alpha=16.0)
        model = apply_lora(model, architecture, method, seed=0)
    place = RAM_DISK if RAM_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tuneloop-gpu-", dir=place) as folder:
        options = SftOptions(
            spec,
            seed=0,
            resume_prefix=folder,
            checkpoint_every_steps=NEVER,
            process_group=distributed.join(spec.mesh),
        )
        metrics = loop.run_sft(model, random_table(case), options).metrics
    seconds = statistics.median(row.step_seconds for row in metrics[case["warm_up"] :])
    bare = bare_step_seconds(model, spec, case)
    return {
        "tokens_per_second": case["rows"] * case["length"] / seconds,
        "peak_gib": (metrics[-1].device_memory_bytes or 0) / 2**30,
        "host_gap": 1 - bare / seconds,
        "first_step_seconds": metrics[0].step_seconds,
        "first_loss": metrics[0].loss,
    }


def random_table(case: dict[str, Any]) -> Any:
    """Make examples of random tokens, of which all but the first are targets."""
    import numpy as np

    from tuneloop.training.data.table import TokenTable

    rows, length = case["steps"] * case["rows"], case["length"]
    ids = np.random.default_rng(0).integers(
        4, case["config"]["vocab_size"], rows * length, dtype=np.int32
    )
    starts = np.arange(rows + 1, dtype=np.int64) * length
    prompts = np.ones(rows, np.int32)
    return TokenTable(ids, starts, prompts, tuple(map(str, range(rows))), pad_id=0)


def bare_step_seconds(model: Any, spec: Any, case: dict[str, Any]) -> float:
    """Return the mean time of a step when nothing waits between the steps."""
    import jax
    from flax import nnx

    from tuneloop.training.data.batches import Rows
    from tuneloop.training.step.optimizers import build_optimizer
    from tuneloop.training.step.update import StepOptions, update

    kind = nnx.LoRAParam if case["rank"] else nnx.Param
    optimizer = nnx.Optimizer(model, build_optimizer(spec.optimizer, spec.steps), wrt=kind)
    function = functools.partial(update, options=StepOptions.from_spec(spec, 0, None))
    step: Any = nnx.jit(function, donate_argnames=("model", "optimizer"))
    step = nnx.cached_partial(step, model, optimizer)
    batch = Rows(random_table(case), spec, batch_size=spec.batch_size).batch_at(0, seed=0)
    arrays = jax.device_put(batch.arrays(1))
    float(step(arrays)[0])
    since = time.perf_counter()
    for _ in range(spec.steps):
        found = step(arrays)
    float(found[0])  # waits for all of them
    steps: int = spec.steps
    return (time.perf_counter() - since) / steps


def generate(case: dict[str, Any]) -> dict[str, Any]:
    """Answer random prompts greedily, as the eval stage does; the first round compiles."""
    import jax
    import numpy as np

    from tuneloop.training.generation.generator import Generator
    from tuneloop.training.models.hf_config import parse_config

    architecture = parse_config(case["config"], "config.json")
    model = random_model(architecture, "bfloat16")
    rows, new_tokens = case["rows"], case["new_tokens"]
    generator = Generator(
        model, architecture, stop_ids=(), batch_size=rows, max_new_tokens=new_tokens
    )
    draw = np.random.default_rng(0)
    prompts = draw.integers(4, case["config"]["vocab_size"], (rows, case["length"])).tolist()
    times = []
    for _ in range(3):
        since = time.perf_counter()
        found = generator.generate(prompts, generator.plan(prompts))
        assert all(len(answer.ids) == new_tokens for answer in found.values())
        times.append(time.perf_counter() - since)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "tokens_per_second": rows * new_tokens / min(times[1:]),
        "peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "first_round_seconds": times[0],
    }


def measure(command: list[str], case: dict[str, Any]) -> dict[str, Any]:
    """Run one side of a case in a process of its own; returns what it printed."""
    done = subprocess.run(
        [*command, json.dumps(case)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{case['name']}: {' '.join(command)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure both sides of the named cases, or ours alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *CASES], help="default: all cases")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--ours", metavar="CASE", help="print what we measure for this JSON")
    parser.add_argument("--describe", choices=CASES, help="print a case as JSON")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    options = parser.parse_args()
    if options.describe:
        print(json.dumps(case_named(options.describe)))
        return
    if options.ours:
        case = json.loads(options.ours)
        print(json.dumps(generate(case) if case["new_tokens"] else train(case)))
        return
    smoke = ["--smoke"] if SMOKE else []
    ours = [sys.executable, __file__, *smoke, "--ours"]
    rival = [options.torch_python, str(Path(__file__).with_name("gpu_torch.py"))]
    for name in options.names or CASES:
        case = case_named(name)
        sides = [measure(command, case) for command in (ours, rival)]
        for side, found in zip(("tuneloop", "huggingface"), sides, strict=True):
            rounded = {key: round(value, 4) for key, value in found.items()}
            print(f"{name} {side}:", json.dumps(rounded), flush=True)
        speeds = [side["tokens_per_second"] for side in sides]
        if not speeds[1]:
            print(f"{name}: the rival ran out of memory")
            continue
        print_figure(f"gpu_{name}", "tokens/s", [(speeds[0], speeds[1])])


if __name__ == "__main__":
    main()
