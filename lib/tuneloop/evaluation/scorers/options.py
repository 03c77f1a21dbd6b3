"""Options of scorers, as an item or a spec names them: a kind alone, or an object with options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tuneloop.settings.reading import DESCRIBE_FIELDS


class Options(BaseModel):
    """Base class of the options of one kind of scorer."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=DESCRIBE_FIELDS, defer_build=True
    )
