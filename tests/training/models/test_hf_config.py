from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from tests.training.models.checkpoints import CONFIGS, tiny_config
from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Rope
from tuneloop.training.models.hf_config import dump_config, parse_config
from tuneloop.training.models.hf_defaults import DEFAULTS

HF_TINY = Path(__file__).parents[2] / "data" / "hf_tiny"
FOLDERS = sorted(each.name for each in HF_TINY.iterdir() if each.is_dir())
LLAMA3_ROPE = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def theirs(config: dict[str, Any]) -> Any:
    """Read a config as transformers does."""
    kind = {key: value for key, value in config.items() if key != "model_type"}
    read = AutoConfig.for_model(config["model_type"], **kind)
    return getattr(read, "text_config", read)


def rope_of(parameters: dict[str, Any], kind: str | None = None) -> Rope:
    given = parameters[kind] if kind else parameters
    names = {"rope_theta": "theta", "rope_type": "kind"}
    names["original_max_position_embeddings"] = "original_max_positions"
    return Rope(**{names.get(key, key): value for key, value in given.items() if key != "type"})


def check_against_transformers(config: dict[str, Any]) -> None:
    ours, read = parse_config(config, "config.json"), theirs(config)
    expected = {
        "num_layers": read.num_hidden_layers,
        "embed_dim": read.hidden_size,
        "hidden_dim": read.intermediate_size,
        "num_heads": read.num_attention_heads,
        "num_kv_heads": read.num_key_value_heads,
        "head_dim": getattr(read, "head_dim", None) or read.hidden_size // read.num_attention_heads,
        "vocab_size": read.vocab_size,
        "norm_eps": read.rms_norm_eps,
        "tied_embeddings": read.tie_word_embeddings,
        "max_positions": read.max_position_embeddings,
    }
    if ours.family.startswith("gemma"):
        expected["sliding_window_tokens"] = read.sliding_window
        expected["query_scalar"] = read.query_pre_attn_scalar
        expected["attention_softcap"] = read.attn_logit_softcapping
        expected["final_softcap"] = read.final_logit_softcapping
        kinds = [each.removesuffix("_attention") for each in read.layer_types]
        expected["layer_types"] = tuple(kinds)
    if ours.family == "gemma3":
        expected["rope"] = rope_of(read.rope_parameters, "full_attention")
        expected["local_rope"] = rope_of(read.rope_parameters, "sliding_attention")
    else:
        expected["rope"] = rope_of(read.rope_parameters)
    assert {name: getattr(ours, name) for name in expected} == expected


@pytest.mark.parametrize("folder", FOLDERS)
def test_reference_folders_are_read_as_transformers_reads_them(folder: str) -> None:
    check_against_transformers(json.loads((HF_TINY / folder / "config.json").read_text()))


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rms_norm_eps": 1e-5, "tie_word_embeddings": True},
        {"rope_theta": 5e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": None},
        {"rope_theta": 500000, "rope_scaling": {"rope_type": "llama3", **LLAMA3_ROPE}},
        {"num_hidden_layers": 7, "torch_dtype": "bfloat16"},
    ],
    ids=["plain", "eps", "linear", "null-scaling", "llama3", "layers"],
)
def test_odd_settings_are_read_as_transformers_reads_them(
    model_type: str, changes: dict[str, Any]
) -> None:
    config = tiny_config(model_type, **changes)
    if model_type == "gemma3_text" and "type" in (config.get("rope_scaling") or {}):
        # transformers 5 overlooks the old key `type` for this family alone; version 4 read it.
        config["rope_scaling"] = {"rope_type": "linear", "factor": 4.0}
        assert parse_config(tiny_config(model_type, **changes), "") == parse_config(config, "")
    check_against_transformers(config)


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_missing_keys_have_the_defaults_of_transformers(model_type: str) -> None:
    check_against_transformers({"model_type": model_type})


def test_a_published_multimodal_file_leaves_most_keys_out() -> None:
    """As released with Gemma 3 4B."""
    config = {
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"model_type": "siglip_vision_model"},
    }
    check_against_transformers(config)
    architecture = parse_config(config, "config.json")
    assert architecture.vocab_size == 262208
    assert architecture.rope == Rope(theta=1e6, kind="linear", factor=8.0)


@pytest.mark.parametrize(
    ("model_type", "changes", "family_value"),
    [
        ("qwen2", {"sliding_window": 16, "max_window_layers": 1}, ()),
        ("qwen3", {"use_sliding_window": False, "layer_types": ["full_attention"] * 2}, ()),
        ("qwen2", {"use_sliding_window": True}, ()),  # from layer 28 on, of 2
        ("qwen3", {"head_dim": ...}, ()),
        ("llama", {"head_dim": None, "num_key_value_heads": None}, ()),
        ("gemma3_text", {"sliding_window_pattern": 3}, ("sliding", "sliding", "full") * 2),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6}, ("full",) * 6),
        ("gemma2", {"final_logit_softcapping": None}, ("sliding", "full")),
    ],
)
def test_layers_and_widths(
    model_type: str, changes: dict[str, Any], family_value: tuple[str, ...]
) -> None:
    config = tiny_config(model_type, **changes)
    check_against_transformers(config)
    assert parse_config(config, "config.json").layer_types == family_value


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("llama", {"model_type": "mistral"}, "model_type is 'mistral', expected one of gemma2, "),
        ("llama", {"model_type": "gemma4_text"}, "does not support Gemma 4, whose layers share"),
        ("llama", {"model_type": ...}, "model_type is None, expected one of"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2}}, "rope_type is 'yarn'"),
        (
            "qwen2",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2}},
            "rope_type is 'dynamic'",
        ),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "no high_freq_factor"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "RoPE of type linear has no factor"),
        ("llama", {"rope_scaling": 4}, "rope_scaling is 4, expected an object"),
        ("llama", {"rope_theta": -1}, "RoPE: theta is -1, expected"),
        ("llama", {"attention_bias": True}, "attention_bias is True, which tuneloop does not"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', .* expected silu"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        (
            "qwen2",
            {"use_sliding_window": True, "max_window_layers": 1},
            "layers from 1 on have a sliding window, which",
        ),
        ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "expected full_attention alone"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1.0}}, "expected full_attention and"),
        ("gemma3_text", {"layer_types": ["chunked"] * 6}, "layer_types is"),
        ("gemma3_text", {"layer_types": ["full_attention"]}, "layer_types has 1 entries, expected"),
        ("gemma2", {"sliding_window": None}, "sliding_window is null, but"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads is 3, expected a divisor of"),
        ("llama", {"head_dim": 15}, "head_dim is 15, expected an even number"),
        ("llama", {"vocab_size": "many"}, "vocab_size is 'many', expected a valid integer"),
        ("llama", {"num_attention_heads": 0, "head_dim": None}, "expected two positive integers"),
    ],
)
def test_what_is_not_supported_is_one_sentence(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"^hub/config.json: .*{message}"):
        parse_config(tiny_config(model_type, **changes), "hub/config.json")


def test_a_multimodal_file_without_a_text_model_is_refused() -> None:
    with pytest.raises(DataError, match="text_config is missing"):
        parse_config({"model_type": "gemma3"}, "config.json")


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 2.0}, LLAMA3_ROPE])
def test_a_written_file_is_read_back_in_each_dialect(
    model_type: str, scaling: dict[str, Any] | None
) -> None:
    if scaling is LLAMA3_ROPE:
        scaling = {"rope_type": "llama3", **LLAMA3_ROPE}
    original = tiny_config(model_type, rope_scaling=scaling, my_key=[1])
    architecture = parse_config(original, "config.json")
    for source in (None, original):
        written = dump_config(architecture, "bfloat16", source, {"eos_token_id": [1, 107]})
        json.dumps(written)
        check_against_transformers(written)
        assert written["dtype"] == written["torch_dtype"] == "bfloat16"
        assert written["eos_token_id"] == [1, 107]
        assert written.get("my_key") == (source and [1])
        v4 = {key: value for key, value in written.items() if key != "rope_parameters"}
        v5 = {key: value for key, value in written.items() if not key.startswith("rope_")}
        v5["rope_parameters"] = written["rope_parameters"]
        for dialect in (written, v4, v5):
            assert parse_config(dialect, "config.json") == architecture


def test_a_multimodal_file_keeps_its_vision_model() -> None:
    original = json.loads((HF_TINY / "gemma3_mm" / "config.json").read_text())
    written = dump_config(parse_config(original, "config.json"), "float32", original)
    assert written["vision_config"] == original["vision_config"]
    assert parse_config(written, "config.json") == parse_config(original, "config.json")
