"""Convert between Hugging Face's `config.json` and `Architecture`.

Both dialects are read and written: transformers 5 writes `rope_parameters` and `dtype`,
transformers 4 writes `rope_theta`, `rope_scaling` and `torch_dtype`. mlx-lm reads only the latter.
A key that is missing from a file has the default that transformers gives it. A setting that would
change the model's output and is not supported is an error; it is never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture, Rope
from tuneloop.training.models.hf_defaults import DEFAULTS, FAMILY_OF_MODEL_TYPE, REFUSED
from tuneloop.training.models.registry import family_named
from tuneloop.validation import first_error, shorten

CONFIG = "config.json"

_LAYER_TYPES = {"sliding_attention": "sliding", "full_attention": "full"}
_LAYER_TYPES_OUT = {ours: theirs for theirs, ours in _LAYER_TYPES.items()}
_SHAPE_KEYS = {
    "num_layers": "num_hidden_layers",
    "embed_dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
    "max_positions": "max_position_embeddings",
}
"""Field of `Architecture` -> key of `config.json`, for the keys that all families have."""


def parse_config(config: Mapping[str, Any], place: str) -> Architecture:
    """Read the architecture from a `config.json`.

    Args:
        config: the parsed file; a multimodal Gemma 3 file is read for its text model alone.
        place: URL of the file, for error messages.

    Raises:
        DataError: the family or a setting is not supported, or a value is missing or malformed.
    """
    text = text_config(config, place)
    model_type = text["model_type"]
    family = FAMILY_OF_MODEL_TYPE[model_type]
    _refuse_unsupported(text, family, place)
    values = {**DEFAULTS[model_type], **text}
    _derive_shape(values, place)
    is_gemma = family.startswith("gemma")
    layer_types = _layer_types(values, family, place) if is_gemma else _only_full(values, place)
    rope, local_rope = _ropes(values, family, place)
    try:
        architecture = Architecture(
            family=family,
            **{ours: values[theirs] for ours, theirs in _SHAPE_KEYS.items()},
            rope=rope,
            local_rope=local_rope,
            layer_types=layer_types,
            sliding_window_tokens=values["sliding_window"] if is_gemma else None,
            query_scalar=values["query_pre_attn_scalar"] if is_gemma else None,
            attention_softcap=values.get("attn_logit_softcapping"),
            final_softcap=values.get("final_logit_softcapping"),
        )
    except ValidationError as e:
        raise DataError(f"{place}: {first_error(e)}; correct the file") from e
    _check_shape(architecture, place)
    return architecture


def dump_config(
    architecture: Architecture,
    dtype: str,
    original: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the `config.json` of a model, in both dialects.

    Args:
        architecture: family and shape.
        dtype: dtype of the stored weights, such as `bfloat16`.
        original: the parsed `config.json` that the model was loaded with. Its keys are kept, also
            unknown ones; a multimodal file keeps its vision model.
        extra: further keys of the text model, such as `eos_token_id`; they replace the original's.

    Returns:
        The content of the file; `json.dumps(..., indent=2, sort_keys=True)` is its usual form.
    """
    dtypes = {"dtype": dtype, "torch_dtype": dtype}
    both = {**_rope_keys(architecture), **dtypes, **(extra or {})}
    if original is None:
        return {**_all_keys(architecture), **both}
    if original.get("model_type") == "gemma3":
        text = {**_all_keys(architecture), **original["text_config"], **both}
        # mlx-lm reads the vocabulary of a multimodal model from the outer object alone.
        return {**original, **dtypes, "vocab_size": architecture.vocab_size, "text_config": text}
    return {**_all_keys(architecture), **original, **both}


def _all_keys(architecture: Architecture) -> dict[str, Any]:
    """Build the keys that every reader needs, without those of RoPE and dtype."""
    values = architecture.model_dump()
    keys = {theirs: values[ours] for ours, theirs in _SHAPE_KEYS.items()}
    family = family_named(architecture.family)
    keys |= {"model_type": family.model_type, "architectures": [family.hf_class]}
    keys |= {"attention_bias": architecture.family == "qwen2", "attention_dropout": 0.0}
    if not architecture.family.startswith("gemma"):
        return {**keys, "hidden_act": "silu"}
    scalar = architecture.query_scalar
    keys |= {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": architecture.head_dim if scalar is None else _plain(scalar),
        "sliding_window": architecture.sliding_window_tokens,
        "layer_types": [_LAYER_TYPES_OUT[each] for each in architecture.layer_types],
        "attn_logit_softcapping": architecture.attention_softcap,
        "final_logit_softcapping": architecture.final_softcap,
    }
    pattern = _window_pattern(architecture.layer_types)
    if architecture.family == "gemma3" and pattern is not None:
        keys |= {"sliding_window_pattern": pattern}
    return keys


def _window_pattern(layer_types: tuple[str, ...]) -> int | None:
    """Return n if every n-th layer alone uses full attention; Gemma 3's usual 6 comes first."""
    candidates: list[int] = [6, *range(1, len(layer_types) + 1)]
    for pattern in candidates:
        if all((each == "full") == ((i + 1) % pattern == 0) for i, each in enumerate(layer_types)):
            return pattern
    return None


def _rope_keys(architecture: Architecture) -> dict[str, Any]:
    wide, local = _rope_settings(architecture.rope), architecture.local_rope
    scaling = {key: value for key, value in wide.items() if key != "rope_theta"}
    keys: dict[str, Any] = {
        "rope_parameters": wide,
        "rope_theta": architecture.rope.theta,
        "rope_scaling": None if architecture.rope.kind == "default" else scaling,
    }
    if local is not None:
        keys["rope_parameters"] = {
            "full_attention": wide,
            "sliding_attention": _rope_settings(local),
        }
        keys["rope_local_base_freq"] = local.theta
    return keys


def _rope_settings(rope: Rope) -> dict[str, Any]:
    settings: dict[str, Any] = {"rope_theta": rope.theta, "rope_type": rope.kind}
    if rope.kind != "default":
        settings["factor"] = rope.factor
    if rope.kind == "llama3":
        settings["low_freq_factor"] = rope.low_freq_factor
        settings["high_freq_factor"] = rope.high_freq_factor
        settings["original_max_position_embeddings"] = rope.original_max_positions
    return settings


def _plain(number: float) -> int | float:
    """Return a whole number as an int, which is how transformers declares these keys."""
    return int(number) if number == int(number) else number


def text_config(config: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return the part of a `config.json` that describes the text model.

    Raises:
        DataError: it names no model type, or one of a family that is not supported.
    """
    model_type = config.get("model_type")
    if model_type == "gemma3":
        nested = config.get("text_config")
        if not isinstance(nested, Mapping):
            raise DataError(
                f"{place}: text_config is missing, expected an object in a file of model_type"
                " gemma3; take the file from the model's source again"
            )
        # The text model's own type may be missing, and the embedding may be tied further out.
        outer = {"tie_word_embeddings": config.get("tie_word_embeddings")}
        given = {key: value for key, value in outer.items() if value is not None}
        return {"model_type": "gemma3_text", **given, **nested}
    if model_type not in FAMILY_OF_MODEL_TYPE:
        known = ", ".join(sorted({*FAMILY_OF_MODEL_TYPE, "gemma3"}))
        if str(model_type).startswith("gemma4"):
            raise DataError(
                f"{place}: model_type is {model_type}, but tuneloop does not support Gemma 4, whose"
                " layers share keys and values or have heads of two widths, expected one of"
                f" {known}; choose a model of one of these families"
            )
        raise DataError(
            f"{place}: model_type is {shorten(model_type)}, expected one of {known}; choose a model"
            " of one of these families"
        )
    return config


def _refuse_unsupported(values: Mapping[str, Any], family: str, place: str) -> None:
    for key, allowed in REFUSED[family].items():
        if key in values and values[key] not in allowed:
            accepted = " or ".join(
                "null" if each is None else str(each).lower() for each in allowed
            )
            raise DataError(
                f"{place}: {key} is {shorten(values[key])}, which tuneloop does not support for"
                f" {family} models, expected {accepted}; choose another checkpoint"
            )


def _derive_shape(values: dict[str, Any], place: str) -> None:
    """Fill in the two widths that a file may leave out."""
    heads, width = values["num_attention_heads"], values["hidden_size"]
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = heads
    if values["head_dim"] is None:
        if not (isinstance(heads, int) and isinstance(width, int) and heads > 0):
            raise DataError(
                f"{place}: num_attention_heads is {shorten(heads)} and hidden_size is"
                f" {shorten(width)}, expected two positive integers; correct the file"
            )
        values["head_dim"] = width // heads


def _check_shape(architecture: Architecture, place: str) -> None:
    if architecture.num_heads % architecture.num_kv_heads:
        raise DataError(
            f"{place}: num_key_value_heads is {architecture.num_kv_heads}, expected a divisor of"
            f" num_attention_heads ({architecture.num_heads}); correct the file"
        )
    if architecture.head_dim % 2:
        raise DataError(
            f"{place}: head_dim is {architecture.head_dim}, expected an even number, because RoPE"
            " rotates pairs; correct the file"
        )
    if "sliding" in architecture.layer_types and architecture.sliding_window_tokens is None:
        raise DataError(
            f"{place}: sliding_window is null, but layer_types has sliding layers; correct the file"
        )


def _layer_types(values: Mapping[str, Any], family: str, place: str) -> tuple[str, ...]:
    count, given = values["num_hidden_layers"], values.get("layer_types")
    if given is None:
        pattern = 2 if family == "gemma2" else values.get("sliding_window_pattern") or 6
        if not isinstance(count, int) or not isinstance(pattern, int) or pattern < 1:
            raise DataError(
                f"{place}: num_hidden_layers is {shorten(count)} and sliding_window_pattern is"
                f" {shorten(pattern)}, expected two positive integers; correct the file"
            )
        return tuple("sliding" if (i + 1) % pattern else "full" for i in range(count))
    if not isinstance(given, list) or set(map(str, given)) - set(_LAYER_TYPES):
        raise DataError(
            f"{place}: layer_types is {shorten(given)}, expected a list of sliding_attention and"
            " full_attention; choose another checkpoint"
        )
    if len(given) != count:
        raise DataError(
            f"{place}: layer_types has {len(given)} entries, expected num_hidden_layers"
            f" ({shorten(count)}); correct the file"
        )
    return tuple(_LAYER_TYPES[each] for each in given)


def _only_full(values: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Refuse sliding windows, which Tunix has in its Gemmas alone."""
    given = values.get("layer_types")
    if given is None and values.get("use_sliding_window") and values["sliding_window"] is not None:
        first = values["max_window_layers"]
        if not isinstance(first, int) or first < values["num_hidden_layers"]:
            raise DataError(
                f"{place}: use_sliding_window is true, and layers from {shorten(first)} on have a"
                f" sliding window, which tuneloop does not support for {values['model_type']}"
                " models; choose another checkpoint"
            )
    if given is not None and set(given) != {"full_attention"}:
        raise DataError(
            f"{place}: layer_types is {shorten(given)}, which tuneloop does not support for"
            f" {values['model_type']} models, expected full_attention alone; choose another"
            " checkpoint"
        )
    return ()


def _ropes(values: Mapping[str, Any], family: str, place: str) -> tuple[Rope, Rope | None]:
    """Read RoPE of the global and, for Gemma 3, of the sliding-window layers."""
    given, scaling = values.get("rope_parameters"), values.get("rope_scaling")
    for key, each in (("rope_parameters", given), ("rope_scaling", scaling)):
        if each is not None and not isinstance(each, Mapping):
            raise DataError(
                f"{place}: {key} is {shorten(each)}, expected an object; correct the file"
            )
    positions = values["max_position_embeddings"]
    if family != "gemma3":
        # transformers prefers rope_scaling where a file has both.
        settings = {"rope_theta": values.get("rope_theta", 10_000.0), **(scaling or given or {})}
        return _rope(settings, positions, place), None
    nested = given or {}
    if nested.keys() - {"full_attention", "sliding_attention"}:
        raise DataError(
            f"{place}: rope_parameters has the keys {shorten(sorted(nested))}, expected"
            " full_attention and sliding_attention; correct the file"
        )
    wide = {
        "rope_theta": values.get("rope_theta", 1_000_000.0),
        **(nested.get("full_attention") or {}),
        **(scaling or {}),
    }
    local = {
        "rope_theta": values.get("rope_local_base_freq", 10_000.0),
        **(nested.get("sliding_attention") or {}),
    }
    return _rope(wide, positions, place), _rope(local, positions, place)


def _rope(settings: Mapping[str, Any], max_positions: object, place: str) -> Rope:
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise DataError(
            f"{place}: rope_type is {shorten(kind)}, which tuneloop does not support, expected"
            " default, linear or llama3; choose another checkpoint"
        )
    if settings.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise DataError(
            f"{place}: partial_rotary_factor is {shorten(settings['partial_rotary_factor'])}, which"
            " tuneloop does not support, expected 1; choose another checkpoint"
        )
    wanted = {"factor"} if kind == "linear" else set()
    if kind == "llama3":
        wanted = {"factor", "low_freq_factor", "high_freq_factor"}
    if missing := sorted(wanted - settings.keys()):
        raise DataError(
            f"{place}: RoPE of type {kind} has no {missing[0]}, expected all of"
            f" {', '.join(sorted(wanted))}; correct the file"
        )
    fields = {key: settings[key] for key in sorted(wanted)}
    if kind == "llama3":
        original = settings.get("original_max_position_embeddings")
        fields["original_max_positions"] = max_positions if original is None else original
    try:
        return Rope(theta=settings["rope_theta"], kind=kind, **fields)
    except ValidationError as e:
        raise DataError(f"{place}: RoPE: {first_error(e)}; correct the file") from e
