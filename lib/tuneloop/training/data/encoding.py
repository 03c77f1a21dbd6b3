"""Encode examples as token ids, in this process or in several."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import metadata
from itertools import islice, pairwise

import numpy as np

from tuneloop import jsonl
from tuneloop.errors import DataError, OutOfMemory
from tuneloop.import_closure import import_closure
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.text.rows import encode_rows
from tuneloop.training.text.turns.encoder import EncodedRow

EncodeExample = Callable[[TrainingExample], Sequence[EncodedRow]]
"""Encodes an example as rows of ids with the ranges that the loss covers."""
PlacedExample = tuple[str, TrainingExample]
"""An example and the location of its line, for error messages."""

BLOCK_EXAMPLES = 512
"""Examples that are encoded together; a process gets one block at a time."""
EXAMPLES_PER_PROCESS = 10_000
"""One more process is started for each of these. Starting one and loading a large tokenizer takes
as long as encoding them."""
MAX_PROCESSES = 16
"""The process that reads the examples keeps about this many busy."""
_TOKENIZERS = ("jinja2", "sentencepiece", "tokenizers")


@dataclass(frozen=True)
class ChatEncoder:
    """Encodes examples with a chat format; it can be sent to other processes."""

    chat_format: ChatFormat
    system_instruction: str | None

    def __call__(self, example: TrainingExample) -> Sequence[EncodedRow]:
        """Return the rows of an example: one, or several of a conversation."""
        return encode_rows(example, self.chat_format, self.system_instruction)

    @property
    def digest(self) -> str:
        """sha256 of everything that determines ids: format, instruction, code, and packages."""
        # Read here, because the code of an image has no other name than the image's digest.
        modules = import_closure(__name__)
        identity = {
            "chat_format": self.chat_format.digest,
            "system_instruction": self.system_instruction,
            "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in modules.values()],
            "packages": [metadata.version(name) for name in _TOKENIZERS],
        }
        return hashlib.sha256(jsonl.dump_line(identity)).hexdigest()


@dataclass(frozen=True)
class Block:
    """Encoded examples, in reading order; some conversations count as several examples here."""

    ids: np.ndarray
    """int32 (tokens,): the token ids of all examples, concatenated."""
    lengths: np.ndarray
    """int64 (examples,): the number of ids of each example."""
    prompt_lengths: np.ndarray
    """int32 (examples,): the number of ids at the start of each that the loss does not cover."""
    example_ids: tuple[str, ...]
    gaps: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    """int32 (gaps, 3): later ids that the loss does not cover, as (number of the example in the
    block, first position in the example, position after the last one), in order."""

    @property
    def trained_tokens(self) -> int:
        """Count the ids that the loss covers."""
        gaps = int((self.gaps[:, 2] - self.gaps[:, 1]).sum())
        return int(self.lengths.sum()) - int(self.prompt_lengths.sum()) - gaps

    @property
    def longest_response(self) -> int:
        """Return the most ids in a row that the loss covers."""
        starts, longest = self.prompt_lengths.copy(), 0
        for number, first, after in self.gaps.tolist():
            longest = max(longest, first - int(starts[number]))
            starts[number] = after
        return max(longest, int((self.lengths - starts).max()))


def encode_block(
    examples: Iterable[PlacedExample], encode: EncodeExample, *, max_length_tokens: int
) -> Block:
    """Encode some examples, at least one.

    Args:
        examples: the examples, with their places.
        encode: encodes one example, system instruction and control tokens included.
        max_length_tokens: length limit of an example, `<bos>` and turn marks included.

    Raises:
        DataError: an example is over the limit. The export drops or shortens long examples, where
            a response can still be cut between its steps.
    """
    rows: list[np.ndarray] = []
    prompt_lengths: list[int] = []
    example_ids: list[str] = []
    gaps: list[tuple[int, int, int]] = []
    for place, example in examples:
        for ids, trained in encode(example):
            if len(ids) > max_length_tokens:
                raise DataError(
                    f"{place}: example {example.id} has {len(ids)} tokens, expected at most"
                    f" {max_length_tokens}; raise train.max_length_tokens, or set"
                    " export.over_length to drop or truncate_steps with"
                    " export.max_length_characters or export.max_length_tokens"
                )
            gaps += [(len(rows), before[1], after[0]) for before, after in pairwise(trained)]
            rows.append(np.array(ids, np.int32))
            prompt_lengths.append(trained[0][0])
            example_ids.append(example.id)
    lengths = np.array([len(row) for row in rows], np.int64)
    return Block(
        np.concatenate(rows),
        lengths,
        np.array(prompt_lengths, np.int32),
        tuple(example_ids),
        np.array(gaps, np.int32).reshape(-1, 3),
    )


def count_processes(examples: int) -> int:
    """Return the number of processes for this many examples: at most one per core."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, MAX_PROCESSES, examples // EXAMPLES_PER_PROCESS))


def encode_blocks(
    examples: Iterable[PlacedExample],
    encode: EncodeExample,
    *,
    max_length_tokens: int,
    processes: int = 1,
) -> Iterator[Block]:
    """Encode examples block by block; the result does not depend on the number of processes.

    Args:
        examples: the examples, with their places.
        encode: encodes one example; with several processes it is pickled.
        max_length_tokens: length limit of an example.
        processes: number of processes; 1 encodes in this one.

    Raises:
        DataError: as `encode_block`, for the first example in reading order.
        OutOfMemory: the system has killed one of the processes.
    """
    slim = ((place, _without_metadata(example)) for place, example in examples)
    pieces = iter(lambda: tuple(islice(slim, BLOCK_EXAMPLES)), ())
    if processes == 1:
        for piece in pieces:
            yield encode_block(piece, encode, max_length_tokens=max_length_tokens)
        return
    # Not forked: JAX has threads by now, and a fork copies the locks that they hold.
    with ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_process,
        initargs=(encode, max_length_tokens),
    ) as pool:
        try:
            yield from _results(pieces, pool, ahead=2 * processes)
        except BrokenProcessPool as e:
            raise OutOfMemory(
                "training examples: a process that encodes them was killed, most likely because"
                " memory ran out; raise the memory of the stage"
            ) from e
        finally:
            pool.shutdown(cancel_futures=True)


def _results(
    pieces: Iterator[tuple[PlacedExample, ...]], pool: ProcessPoolExecutor, *, ahead: int
) -> Iterator[Block]:
    """Yield blocks in order, while some more are encoded; memory holds no more than these."""
    waiting: deque[Future[Block]] = deque()
    for piece in pieces:
        waiting.append(pool.submit(_encode_in_process, piece))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _without_metadata(example: TrainingExample) -> TrainingExample:
    return TrainingExample(
        id=example.id,
        prompt=example.prompt,
        response=example.response,
        conversation=example.conversation,
    )


_assigned: tuple[EncodeExample, int]
"""What a process of the pool encodes with, and the length limit."""


def _start_process(encode: EncodeExample, max_length_tokens: int) -> None:
    """Prepare a process of the pool."""
    global _assigned
    _assigned = encode, max_length_tokens
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent does; a killed parent cannot end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode_in_process(piece: tuple[PlacedExample, ...]) -> Block:
    encode, max_length_tokens = _assigned
    return encode_block(piece, encode, max_length_tokens=max_length_tokens)
