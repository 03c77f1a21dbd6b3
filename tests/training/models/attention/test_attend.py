"""The kernels equal the reference, in value and gradient, where positions have a meaning."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from tuneloop.training.models.attention.attend import attend
from tuneloop.training.models.attention.cudnn import cudnn_attention, fits_cudnn
from tuneloop.training.models.attention.options import AttentionOptions
from tuneloop.training.models.attention.scores import scores_attention, visible
from tuneloop.training.models.attention.splash import splash_attention

ROWS, SCALE = 2, 0.11
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest difference, as a share of the largest value of the reference."""

CASES = {
    # heads, key heads, width, length, window, softcap, packed
    "one head per key": (2, 2, 32, 256, None, None, False),
    "grouped": (4, 2, 32, 256, None, None, True),
    "one key head": (4, 1, 64, 128, None, None, True),
    "window": (4, 2, 32, 384, 100, None, False),
    "window and segments": (2, 1, 32, 384, 100, None, True),
    "no multiple of 128": (2, 1, 32, 200, 64, None, True),
}
CAPPED = {"softcap": (4, 2, 32, 128, 50, 20.0, True)}


def arrays(case: tuple[Any, ...], dtype: str) -> tuple[list[jax.Array], jax.Array]:
    """Return queries, keys and values, and segment ids whose last tenth is padding."""
    heads, key_heads, width, length, *_, packed = case
    draw = np.random.default_rng(0)
    shapes = [(ROWS, length, count, width) for count in (heads, key_heads, key_heads)]
    found = [jnp.asarray(draw.normal(size=shape) * 2, dtype) for shape in shapes]
    segments = np.ones((ROWS, length), np.int32)
    if packed:
        segments[0, length // 3 :] = 2
        segments[1, length // 7 :] = 2
        segments[1, length // 2 :] = 3
    segments[:, -(length // 10) :] = 0
    return found, jnp.asarray(segments)


def value_and_gradients(attention: Any, inputs: list[jax.Array], segments: jax.Array) -> Any:
    """Return the outputs that have a meaning, and the gradients of a weighted sum of them."""
    draw = np.random.default_rng(1)
    is_real = (segments > 0)[..., None, None]
    weights = jnp.asarray(draw.normal(size=inputs[0].shape), jnp.float32) * is_real

    def weighted(inputs: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        found = attention(*inputs).astype(jnp.float32) * is_real
        return (found * weights).sum(), found

    (_, found), gradients = jax.jit(jax.value_and_grad(weighted, has_aux=True))(inputs)
    return [found, *gradients]


def assert_close(found: list[Any], expected: list[Any], dtype: str) -> None:
    for one, other in zip(found, expected, strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        assert np.abs(one - other).max() <= TOLERANCE[dtype] * np.abs(other).max()


IN_FLOAT32 = [(name, "float32") for name in CASES]
IN_BFLOAT16 = [(name, "bfloat16") for name in ("grouped", "window and segments")]


@pytest.mark.parametrize(("name", "dtype"), [*IN_FLOAT32, *IN_BFLOAT16, ("softcap", "float32")])
def test_splash_equals_the_reference(name: str, dtype: str) -> None:
    case = (CASES | CAPPED)[name]
    *_, window, softcap, packed = case
    inputs, segments = arrays(case, dtype)
    found = value_and_gradients(
        lambda q, k, v: splash_attention(
            q,
            k,
            v,
            segments if packed else None,
            scale=SCALE,
            window=window,
            softcap=softcap,
            mesh=None,
            interpret=True,
        ),
        inputs,
        segments,
    )
    assert_close(found, _reference(inputs, segments, window, softcap), dtype)


@pytest.mark.parametrize(("name", "dtype"), [*IN_FLOAT32, *IN_BFLOAT16])
def test_the_call_of_cudnn_equals_the_reference(name: str, dtype: str) -> None:
    case = CASES[name]
    *_, window, softcap, packed = case
    inputs, segments = arrays(case, dtype)
    found = value_and_gradients(
        lambda q, k, v: cudnn_attention(
            q,
            k,
            v,
            segments if packed else None,
            scale=SCALE,
            window=window,
            implementation="xla",
        ),
        inputs,
        segments,
    )
    assert_close(found, _reference(inputs, segments, window, softcap), dtype)


def _reference(
    inputs: list[jax.Array], segments: jax.Array, window: int | None, softcap: float | None
) -> Any:
    # In float32, from the same values.
    return value_and_gradients(
        lambda q, k, v: scores_attention(
            q, k, v, segments, scale=SCALE, window=window, softcap=softcap
        ),
        [array.astype(jnp.float32) for array in inputs],
        segments,
    )


def test_a_query_sees_earlier_keys_of_its_segment_within_the_window() -> None:
    segments = jnp.array([[1, 1, 2, 0, 0]])
    assert visible(segments, None)[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert visible(segments, 1)[0].astype(int).tolist() == np.eye(5, dtype=int).tolist()


@pytest.mark.parametrize(
    ("shape", "dtype", "softcap", "capability", "fits"),
    [
        ((2, 64, 4, 256), "bfloat16", None, 9.0, True),
        ((2, 64, 4, 256), "bfloat16", None, 8.0, False),
        ((2, 64, 4, 128), "bfloat16", None, 8.0, True),
        ((2, 64, 4, 64), "float32", None, 9.0, False),
        ((2, 64, 4, 64), "bfloat16", 50.0, 9.0, False),
        ((2, 63, 4, 64), "bfloat16", None, 9.0, False),
        ((2, 64, 4, 36), "bfloat16", None, 9.0, False),
    ],
)
def test_cudnn_has_no_kernel_for_every_attention(
    shape: tuple[int, ...], dtype: str, softcap: float | None, capability: float, fits: bool
) -> None:
    query: Any = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    assert fits_cudnn(query, softcap=softcap, compute_capability=capability) == fits


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_gpu_runs_cudnn_in_both_directions(
    is_packed: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX lowers for a GPU without one, if it is told which cuDNN and which GPU there would be."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_501)
    for name in ("check_compute_capability", "is_cuda_compute_capability_equal"):
        monkeypatch.setattr(fused_attention_stablehlo, name, lambda version: version == "9.0")
    options = AttentionOptions("gpu", None, is_packed, compute_capability=9.0)

    def summed(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> Any:
        found = attend(query, key, value, segments, scale=SCALE, options=options, window=window)
        return found.astype(jnp.float32).sum()

    def array(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)

    shapes = (array(1, 64, 4, 256), array(1, 64, 1, 256), array(1, 64, 1, 256))
    segments = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    traced = jax.jit(jax.grad(summed, (0, 1, 2))).trace(*shapes, segments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
    kind = "ScaleBias" if is_packed else ""
    calls = {f"__cudnn$fmha{kind}Softmax", f"__cudnn$fmha{kind}SoftmaxBackward"}
    assert set(re.findall(r"__cudnn\$\w+", text)) == calls
    assert set(re.findall(r'"mask_type": "(\w+)"', text)) == {"CAUSAL"}
    assert set(re.findall(r'"sliding_window_length": (\d+)', text)) == {str(window or 0)}
