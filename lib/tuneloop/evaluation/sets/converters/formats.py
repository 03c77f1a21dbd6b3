"""The converters: one row for each kind of dataset.

To add one, write a function that makes a draft of a row, and add it to the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneloop.evaluation.sets.converters.schema import (
    Converter,
    Draft,
    Dropped,
    Options,
    conversation_text,
    text_of,
)

_COLUMNS = (
    *("id", "prompt", "expected_answer", "accepted_answers", "choices"),
    *("category", "difficulty", "group"),
)


def inspect_draft(row: dict[str, Any], options: Options) -> Draft:
    """Make a draft of a sample of inspect_ai: input, target, choices, id, metadata."""
    rest = dict(row)
    question, target = rest.pop("input", None), rest.pop("target", None)
    choices, name = rest.pop("choices", None), rest.pop("id", None)
    metadata = rest.pop("metadata", None) or {}
    if isinstance(question, list):
        question = conversation_text(question, options.system, "input")
    answers = target if isinstance(target, list) else [target]
    if choices and len(answers) > 1:
        raise Dropped("target names several choices, expected one")
    joined = isinstance(metadata, dict) and not metadata.keys() & rest.keys()
    meta = {**metadata, **rest} if joined else {"metadata": metadata, **rest}
    return Draft(question, answers, name, choices or None, meta=meta)


def openai_draft(row: dict[str, Any], options: Options) -> Draft:
    """Make a draft of a sample of OpenAI evals: input, ideal."""
    rest = dict(row)
    question, ideal = rest.pop("input", None), rest.pop("ideal", None)
    name = rest.pop("id", None)
    if isinstance(question, list):
        question = conversation_text(question, options.system, "input")
    return Draft(question, ideal if isinstance(ideal, list) else [ideal], name, meta=rest)


def lm_eval_draft(row: dict[str, Any], options: Options) -> Draft:
    """Make a draft of a line of lm-eval's `--log_samples`: doc, target, arguments.

    Without a column for the prompt, it is the text that lm-eval gave to the model. Choices are in
    the key `choices` of the document: a list, or lists `text` and `label`.
    """
    doc = row.get("doc")
    if not isinstance(doc, dict):
        raise Dropped("doc is missing, expected the document of the sample")
    columns = options.columns
    prompt = doc.get(columns["prompt"]) if "prompt" in columns else _context(row)
    choices = doc.get(columns.get("choices", "choices"))
    target = row.get("target")
    if "expected_answer" in columns:
        target = doc.get(columns["expected_answer"])
    if isinstance(choices, dict):
        labels, choices = choices.get("label"), choices.get("text")
        if isinstance(labels, list) and target in labels:
            target = labels.index(target)
    if choices and isinstance(target, str) and target.isdecimal():
        target = int(target)  # the log has the number of the choice as text
    answers = target if isinstance(target, list) else [target]
    kept = {
        key: value
        for key, value in row.items()
        if key in ("doc", "doc_id") or key.endswith("_hash")
    }
    values = {key: doc.get(columns[key]) for key in ("category", "group") if key in columns}
    name = doc.get(columns["id"]) if "id" in columns else row.get("doc_id")
    return Draft(prompt, answers, name, choices or None, values, kept)


def _context(row: Mapping[str, Any]) -> object:
    """Return the text of the first request: `arguments` is a list, or an object in newer logs."""
    arguments = row.get("arguments")
    if isinstance(arguments, dict):
        first = arguments.get("gen_args_0")
        return first.get("arg_0") if isinstance(first, dict) else None
    if isinstance(arguments, list) and arguments and isinstance(arguments[0], list):
        return arguments[0][0] if arguments[0] else None
    return None


def table_draft(row: dict[str, Any], options: Options) -> Draft:
    """Make a draft of a row of a table with named columns."""
    rest = dict(row)
    found = {key: rest.pop(column, None) for key, column in options.columns.items()}
    accepted = found.pop("accepted_answers", None) or []
    if not isinstance(accepted, list):
        accepted = [text_of(accepted, "accepted_answers")]
    choices = found.pop("choices", None)
    return Draft(
        found.pop("prompt"),
        [found.pop("expected_answer"), *accepted],
        found.pop("id", None),
        choices or None,
        found,
        rest,
    )


CONVERTERS: dict[str, Converter] = {
    "inspect": Converter(inspect_draft, "samples of inspect_ai, one JSON object per line"),
    "lm-eval": Converter(
        lm_eval_draft,
        "lines of lm-eval's --log_samples",
        ("id", "prompt", "expected_answer", "choices", "category", "group"),
    ),
    "openai-evals": Converter(openai_draft, "samples of OpenAI evals, one JSON object per line"),
    "datasets": Converter(
        table_draft,
        "a Parquet file of datasets",
        _COLUMNS,
        ("prompt", "expected_answer"),
        "parquet",
    ),
}
"""Kind of dataset -> its converter."""
