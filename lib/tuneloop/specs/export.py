"""Options of the export stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tuneloop.specs.base import Spec


class ExportSpec(Spec):
    """Traces to training examples."""

    shard_examples: int = Field(default=50_000, ge=1)
    """Traces that one output file is made of; the last one is made of the rest."""
    compression: Literal["none", "zstd"] = "none"
    """Of the files of examples; zstd's can be read from the middle as well."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest example, prompt and response together, in characters, or in tokens as they are
    trained on where `tokenizer` is given; null: any."""
    tokenizer: str | None = None
    """URL of a SentencePiece model to count tokens with; its content is part of the identity."""
    over_length: Literal["fail", "drop", "truncate_steps"] = "fail"
    """What happens to a longer one: stop with its id, leave it out, or leave out middle steps."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Examples that read the same but for case and white space; the first in the dataset stays."""
    near_duplicates: Literal["drop", "keep"] = "keep"
    """Examples that share most of their runs of five words (MinHash); the first one stays."""
    contamination: Literal["fail", "drop", "report", "off"] = "drop"
    """Traces that overlap the eval set: stop, leave out, mark and count, or do not look."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the groups whose examples go to validation files."""
    group_by: str | None = Field(default=None, min_length=1)
    """Key of a trace's meta whose value names its group; null, or absent there: the prompt."""

    @model_validator(mode="after")
    def _limit_has_a_value(self) -> ExportSpec:
        if self.over_length != "fail" and self.max_length is None:
            raise ValueError(f"over_length is {self.over_length}, but max_length is not given")
        return self
