"""Options of the export stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tuneloop.specs.base import Spec


class ExportSpec(Spec):
    """How traces become training examples."""

    shard_examples: int = Field(default=50_000, ge=1)
    """Traces per output file; the last file may hold fewer."""
    compression: Literal["none", "zstd"] = "none"
    """Compression of example files; zstd output supports random access."""
    max_length_characters: int | None = Field(default=None, ge=8)
    """Maximum characters of an example, prompt and response together; null sets no limit."""
    max_length_tokens: int | None = Field(default=None, ge=8)
    """Maximum tokens of an example as it is trained on, chat template included. A pretrained model
    counts with its own tokenizer, and null means `train.max_length_tokens`. With random weights it
    needs `tokenizer`, and null sets no limit."""
    tokenizer: str | None = None
    """URL of a tokenizer.model or tokenizer.json that counts tokens; only for random weights, whose
    own tokenizer is trained later. Null counts characters only. The content enters the fingerprint,
    the location does not."""
    loss: Literal["final", "all_assistant"] = "final"
    """Messages of a conversation that the loss covers: the last message of the assistant, or every
    one of them except those with `train: false`. Results of tools, user messages and system texts
    are never covered. An example of a single prompt and response is trained on in the same way with
    both."""
    over_length: Literal["fail", "drop", "truncate_steps"] = "fail"
    """What to do with an example over a limit: fail with its id, drop it, or remove middle steps
    until it fits (`truncate_steps`)."""
    duplicates: Literal["drop", "keep"] = "drop"
    """What to do with examples that differ only in case and white space; `drop` keeps the first."""
    near_duplicates: Literal["drop", "keep"] = "keep"
    """What to do with examples that share most of their 5-word sequences (MinHash); `drop` keeps
    the first."""
    contamination: Literal["fail", "drop", "report", "off"] = "drop"
    """What to do with traces that overlap the eval set: fail, drop them, mark and count them
    (`report`), or skip the check (`off`)."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the groups, 0 to 1, whose examples go to validation files instead of training
    files."""
    group_by: str | None = Field(default=None, min_length=1)
    """Key of a trace's meta that names its group; one group never spans training and validation.
    Null, or a trace without the key, groups by prompt."""
