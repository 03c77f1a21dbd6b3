"""The model card, `README.md`: where a tuned model comes from and how good it is.

The same facts give the same bytes. The train stage writes the card without evaluation, which comes
after it; `with_evaluation` adds the figures later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tuneloop import templating

NAME = "README.md"
TEMPLATE = "training/models/publish/model_card.md.j2"
UNKNOWN_LICENCE = "unknown"
"""Hugging Face's word for a model whose licence is not stated."""
_SECTION = re.compile("<!-- evaluation -->.*?<!-- /evaluation -->\n", re.DOTALL)


@dataclass(frozen=True)
class ModelCard:
    """The facts of a model card."""

    name: str
    """Name of the model, usually the run's id."""
    family: str
    parameters: int
    dtype: str
    base: str | None
    """Name or hub id of the model that was tuned; None for random weights."""
    licence: str | None
    """Licence of the base, as its source states it; None if it states none."""
    random_weights: bool
    """Whether training started from random weights, now or in an earlier run."""
    lineage: Mapping[str, str | int]
    """What the model was made from, in the order of the card: dataset, run, seed, code."""
    data: Mapping[str, int]
    """Counts of the export and of training: examples, tokens, and what was excluded and why."""
    training: Mapping[str, str | int | float]
    """Method, hyperparameters and losses, in the order of the card."""
    adapter_only: bool = False
    """Whether the folder holds an adapter and no model."""


@dataclass(frozen=True)
class EvaluationFigure:
    """One line of the card's table of evaluations."""

    name: str
    """Name of the eval set, or of a part of it."""
    items: int
    base: float
    """Accuracy of the base model, 0 to 1."""
    tuned: float
    """Accuracy of the tuned model, 0 to 1."""


def render_card(card: ModelCard) -> bytes:
    """Render the card of a model that has not been evaluated."""
    environment = templating.environment(cell=_cell, yaml=_yaml, figure=_figure)
    text = environment.get_template(TEMPLATE).render(
        card=card,
        licence=_licence_id(card.licence),
        excluded={key: count for key, count in card.data.items() if _is_exclusion(key) and count},
        kept={key: count for key, count in card.data.items() if not _is_exclusion(key)},
    )
    return text.encode()


def with_evaluation(card: bytes, figures: list[EvaluationFigure], words: str) -> bytes:
    """Replace the card's section on evaluation.

    Args:
        card: a card from `render_card`, or one that already has figures.
        figures: rows of the table.
        words: one sentence above the table, such as how answers are compared.
    """
    rows = [
        f"| {_cell(each.name)} | {each.items} | {each.base:.1%} | {each.tuned:.1%} |"
        for each in figures
    ]
    table = ["| eval set | items | base | tuned |", "|---|--:|--:|--:|", *rows]
    section = ["<!-- evaluation -->", words, "", *table, "<!-- /evaluation -->", ""]
    return _SECTION.sub(lambda _: "\n".join(section), card.decode(), count=1).encode()


def _is_exclusion(key: str) -> bool:
    return key.startswith(("excluded", "dropped", "truncated"))


def _licence_id(licence: str | None) -> str:
    """Write a licence as the hub does: in lower case, without spaces."""
    return re.sub(r"\s+", "-", licence.strip().lower()) if licence else UNKNOWN_LICENCE


def _yaml(value: object) -> str:
    """Write a value for the front matter; JSON strings are YAML strings."""
    return json.dumps(value, ensure_ascii=False)


def _cell(value: object) -> str:
    """Write a value into a Markdown table: on one line, as plain text."""
    text = " ".join(_figure(value).split())
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def _figure(value: object) -> str:
    """Write whole numbers with commas and others with four digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
