"""Token ids in, token ids out: prefill and decoding of one batch, compiled by JAX.

Any model is called as `model(tokens, positions, cache, attention_mask)`, as Tunix's models are.
Tunix's own Sampler is not used: it takes a token for padding if it has the tokenizer's pad id, it
decodes one step too many, and it computes the logits of all prompt positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tuneloop.specs.training.architecture import Architecture

ROWS = "rows"
"""Axis of devices that divide the rows of a batch among themselves."""

Cache = dict[str, dict[str, jax.Array]]
"""Layer -> its keys and values, (rows, tokens, kv heads, head width), and tokens so far (rows,)."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 takes the most probable token; a higher value makes rare tokens more probable."""
    top_p: float = 1.0
    """Draw only from the most probable tokens that together have this probability."""
    seed: int = 0
    """Seed of the draws; equal seeds give equal tokens."""

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0


GREEDY = Sampling()


class _LastPosition(nnx.Module):  # type: ignore[misc]  # flax is untyped
    """The final norm for the last position alone, so that no other logits are computed.

    The logits of 32 prompts of 128 tokens take 0.8 GB for a vocabulary of 49,152.
    """

    def __init__(self, norm: nnx.Module) -> None:
        self.norm = norm

    def __call__(self, x: jax.Array) -> jax.Array:
        last: jax.Array = self.norm(x[:, -1:])
        return last


class Decoder:
    """The compiled functions of one architecture; models of equal shapes share them."""

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        *,
        stop_ids: tuple[int, ...],
        max_new_tokens: int,
    ) -> None:
        """Prepare the functions; nothing is compiled before the first call.

        Args:
            model: the first model.
            architecture: its architecture.
            stop_ids: ids after which a row is finished.
            max_new_tokens: tokens generated per row at most.
        """
        self._graph, state = nnx.split(model)
        leaves, self._structure = jax.tree.flatten(state)
        self._devices = _row_devices()
        self._leaves = self._everywhere(leaves)
        self._architecture, self._stop_ids = architecture, stop_ids
        self._max_new_tokens = max_new_tokens
        self._compiled_prefix = jax.jit(self._prefix)
        self._compiled_prefill = jax.jit(self._prefill, static_argnames="cache_tokens")
        self._compiled_decode = jax.jit(
            self._decode, donate_argnames="cache", static_argnames=("greedy", "cuts")
        )

    def use(self, model: Any) -> None:
        """Use another model of the same architecture from now on."""
        leaves, structure = jax.tree.flatten(nnx.state(model))
        if structure != self._structure:  # type: ignore[operator]  # PyTreeDef has no stubs
            raise ValueError("the model has other parameters than the first model")
        self._leaves = self._everywhere(leaves)

    def release(self) -> None:
        """Drop the weights; `use` must be called before the next batch."""
        self._leaves = []

    def share_prefix(self, ids: np.ndarray) -> Cache:
        """Compute the keys and values of tokens that all rows start with.

        Args:
            ids: int32 (tokens,).
        """
        cache: Cache = self._compiled_prefix(self._leaves, ids[None])
        return cache

    def run(
        self,
        tokens: np.ndarray,
        lengths: np.ndarray,
        draws: np.ndarray,
        *,
        cache_tokens: int,
        prefix: Cache | None = None,
        sampling: Sampling = GREEDY,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Generate one batch.

        Args:
            tokens: int32 (rows, padded tokens), aligned at the right end, without the prefix.
            lengths: int32 (rows,), tokens of each row that are not padding.
            draws: uint32 (rows, 2), two numbers that give each row its random numbers; the place of
                the row in the batch does not matter.
            cache_tokens: room for prefix, padded prompt and new tokens. Batches with equal room
                share the compiled decoding.
            prefix: keys and values of the tokens before `tokens`, if all rows share some.
            sampling: how tokens are chosen.

        Returns:
            new tokens: int32 (rows, max_new_tokens); what follows a row's count is undefined.
            counts: int32 (rows,), new tokens of each row before its stop id.
            stopped: bool (rows,), whether the row reached a stop id.
        """
        tokens, lengths, draws = map(self._by_rows, (tokens, lengths, draws))
        first, cache = self._compiled_prefill(
            self._leaves, prefix, tokens, lengths, cache_tokens=cache_tokens
        )
        keys = _row_keys(jax.random.key(sampling.seed), draws)
        prefix_tokens = 0 if prefix is None else _tokens_in(prefix)
        *found, _ = self._compiled_decode(
            self._leaves,
            cache=cache,
            logits=first,
            padding=tokens.shape[1] - lengths,
            prefix_tokens=jnp.int32(prefix_tokens),
            start=jnp.int32(prefix_tokens + tokens.shape[1]),
            keys=keys,
            temperature=jnp.float32(sampling.temperature),
            top_p=jnp.float32(sampling.top_p),
            greedy=sampling.is_greedy,
            cuts=sampling.top_p < 1,
        )
        buffer, counts, stopped = map(np.asarray, found)
        return buffer, counts, stopped

    def _everywhere(self, leaves: list[jax.Array]) -> list[jax.Array]:
        """Copy weights to all devices, each of which answers some rows."""
        if self._devices is None:
            return leaves
        whole = NamedSharding(self._devices, PartitionSpec())  # type: ignore[no-untyped-call]
        return [jax.device_put(leaf, whole) for leaf in leaves]

    def _by_rows(self, array: Any) -> Any:
        """Divide the rows of a batch among the devices; those of an odd batch are on each."""
        if self._devices is None or len(array) % self._devices.size:
            return array
        by_rows = PartitionSpec(ROWS)  # type: ignore[no-untyped-call]
        return jax.device_put(array, NamedSharding(self._devices, by_rows))

    def _model(self, leaves: list[jax.Array]) -> Any:
        return nnx.merge(self._graph, jax.tree.unflatten(self._structure, leaves))

    def _prefix(self, leaves: list[jax.Array], tokens: jax.Array) -> Cache:
        model, length = self._model(leaves), tokens.shape[1]
        positions = jnp.arange(length)[None]
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        model.final_norm = _LastPosition(model.final_norm)
        _, cache = model(tokens, positions, self._empty_cache(model, 1, length), mask)
        return dict(cache)

    def _prefill(
        self,
        leaves: list[jax.Array],
        prefix: Cache | None,
        tokens: jax.Array,
        lengths: jax.Array,
        *,
        cache_tokens: int,
    ) -> tuple[jax.Array, Cache]:
        """Return the logits of the last position, (rows, vocabulary), and the cache."""
        model, (rows, width) = self._model(leaves), tokens.shape
        before = 0 if prefix is None else _tokens_in(prefix)
        padding = width - lengths
        columns = jnp.arange(before + width)
        mask = _seen(columns, before, padding)[:, None] & (
            columns <= before + jnp.arange(width)[:, None]
        )
        positions = self._positions(jnp.arange(width), before, padding, cache_tokens)
        if prefix is None:
            cache = self._empty_cache(model, rows, width)
        else:
            cache = _repeated(_with_room(prefix, before + width), rows)
        model.final_norm = _LastPosition(model.final_norm)
        logits, cache = model(tokens, positions, cache, mask)
        return logits[:, -1], _with_room(cache, cache_tokens)

    def _decode(
        self,
        leaves: list[jax.Array],
        cache: Cache,
        logits: jax.Array,
        padding: jax.Array,
        prefix_tokens: jax.Array,
        start: jax.Array,
        keys: jax.Array,
        temperature: jax.Array,
        top_p: jax.Array,
        *,
        greedy: bool,
        cuts: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array, Cache]:
        """Decode until all rows have stopped, or `max_new_tokens` steps.

        The cache is returned because only then can the caller's cache be changed in place.
        """
        model, rows = self._model(leaves), logits.shape[0]
        cache_tokens = _tokens_in(cache)
        columns = jnp.arange(cache_tokens)
        seen = _seen(columns, prefix_tokens, padding)
        stops = jnp.array(self._stop_ids, jnp.int32)

        def add(step: Any, logits: jax.Array, state: Any) -> Any:
            buffer, counts, done, cache = state
            logits = logits.astype(jnp.float32)
            if greedy:
                token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            else:
                token = _draw(logits / temperature, top_p if cuts else None, keys, step)
            buffer = buffer.at[:, step].set(token)
            done = done | jnp.isin(token, stops)
            return step + 1, (buffer, counts + ~done, done, cache)

        def unfinished(carry: Any) -> jax.Array:
            step, (_, _, done, _) = carry
            going: jax.Array = (step < self._max_new_tokens) & ~done.all()
            return going

        def decode(carry: Any) -> Any:
            step, (buffer, counts, done, cache) = carry
            index = start + step - 1
            column = (index - prefix_tokens)[None]
            positions = self._positions(column, prefix_tokens, padding, cache_tokens)
            mask = (seen & (columns <= index))[:, None]
            logits, cache = model(buffer[:, step - 1][:, None], positions, cache, mask)
            return add(step, logits[:, -1], (buffer, counts, done, cache))

        buffer = jnp.zeros((rows, self._max_new_tokens), jnp.int32)
        empty = (buffer, jnp.zeros((rows,), jnp.int32), jnp.zeros((rows,), bool), cache)
        _, (buffer, counts, done, cache) = jax.lax.while_loop(
            unfinished, decode, add(jnp.int32(0), logits, empty)
        )
        return buffer, counts, done, cache

    def _positions(
        self, columns: jax.Array, before: jax.Array | int, padding: jax.Array, cache_tokens: int
    ) -> jax.Array:
        """Return the positions of columns after the prefix.

        Args:
            columns: int32 (columns,), counted from the end of the prefix.
            before: tokens of the prefix.
            padding: int32 (rows,), columns of each row that are padding.
            cache_tokens: columns of the cache.

        Returns:
            int32 (rows, columns).
        """
        if is_windowed(self._architecture, cache_tokens):
            # Gemma 2 compares positions with column numbers, so the positions must not restart.
            # Only the distance between two positions matters.
            return jnp.broadcast_to(columns, (padding.shape[0], columns.shape[0]))
        return before + jnp.maximum(columns - padding[:, None], 0)

    def _empty_cache(self, model: Any, rows: int, tokens: int) -> Cache:
        dtype = model.embedder.input_embedding.get_value().dtype
        if hasattr(model, "init_cache"):
            return dict(model.init_cache(rows, tokens, dtype))
        shape = (rows, tokens, self._architecture.num_kv_heads, self._architecture.head_dim)
        return {
            f"layer_{layer}": {
                "k": jnp.zeros(shape, dtype),
                "v": jnp.zeros(shape, dtype),
                "end_index": jnp.zeros((rows,), jnp.int32),
            }
            for layer in range(self._architecture.num_layers)
        }


def _row_devices() -> Mesh | None:
    """Return the devices of this process as one axis; None if there is only one."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), (ROWS,)) if len(devices) > 1 else None


def is_windowed(architecture: Architecture, cache_tokens: int) -> bool:
    """Whether some layer does not see the whole cache.

    Tunix's sliding windows count columns and not positions. So rows must not have a gap, and
    `share_prefix` must not be used: padding lies between the prefix and the rest of a row.
    """
    window = architecture.sliding_window_tokens
    return window is not None and window < cache_tokens


def can_share_prefix(architecture: Architecture, cache_tokens: int) -> bool:
    """Whether prefill can continue after a prefix that was computed before.

    Gemma 4's prefill attends only to the tokens of the same call.
    """
    return architecture.family != "gemma4" and not is_windowed(architecture, cache_tokens)


def _seen(columns: jax.Array, prefix_tokens: jax.Array | int, padding: jax.Array) -> jax.Array:
    """Return which columns of each row are not padding, bool (rows, columns)."""
    return (columns < prefix_tokens) | (columns >= prefix_tokens + padding[:, None])


@jax.jit
def _row_keys(key: jax.Array, draws: jax.Array) -> jax.Array:
    """Return one random key for each row of `draws`, uint32 (rows, 2)."""
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(draws)


def _draw(
    logits: jax.Array, top_p: jax.Array | None, keys: jax.Array, step: jax.Array
) -> jax.Array:
    """Draw a token for each row from the most probable ones that together have `top_p`.

    Every token has its own random number, which its rank does not change: rounding may exchange
    the ranks of two tokens that are almost equally probable.

    Args:
        logits: float32 (rows, vocabulary).
        top_p: float32 scalar; None draws from all tokens.
        keys: one key per row; the step is folded in.
        step: int32 scalar.

    Returns:
        int32 (rows,).
    """
    if top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token is kept if those before it have less than top_p; the first one always is.
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = (before < top_p).at[:, 0].set(True)
        least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
    return jax.vmap(jax.random.categorical)(step_keys, logits).astype(jnp.int32)


def _tokens_in(cache: Cache) -> int:
    return int(next(iter(cache.values()))["k"].shape[1])


def _with_room(cache: Cache, tokens: int) -> Cache:
    """Pad keys and values at the end to a number of tokens."""

    def padded(values: jax.Array) -> jax.Array:
        return jnp.pad(values, ((0, 0), (0, tokens - values.shape[1]), (0, 0), (0, 0)))

    return {
        name: {"k": padded(layer["k"]), "v": padded(layer["v"]), "end_index": layer["end_index"]}
        for name, layer in cache.items()
    }


def _repeated(cache: Cache, rows: int) -> Cache:
    """Repeat a cache of one row."""
    repeated: Cache = jax.tree.map(lambda values: jnp.repeat(values, rows, axis=0), cache)
    return repeated
