"""Answers of base models, kept below the artifacts prefix for the evaluations of other runs.

An object holds one model's answers to one set. Its name is a digest of everything that the answers
depend on, so equal names hold equal answers. Objects are written once, and every line carries a
seal. A damaged object is not used: the questions are asked again, and it is replaced.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

from msgspec import UNSET

from tuneloop import jsonl, provenance
from tuneloop.artifacts import layout
from tuneloop.artifacts.records import KEPT_INPUT
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.eval_passes import Pass
from tuneloop.stages.evaluation.models import TUNED, Asked
from tuneloop.stages.lifecycle.context import Stage
from tuneloop.storage import files
from tuneloop.storage.sealed import read_sealed_lines, seal_lines

log = logging.getLogger("tuneloop.stage")

Answers = dict[int, Generation]
"""Number of the answer in its pass -> the answer."""


@functools.cache
def _code() -> str:
    """Return the identity of the code that generates answers."""
    return provenance.code_identity("tuneloop.stages.eval_passes", "requirements/train.txt")


def _is_kept(spec: EvalStage, asked: Asked) -> bool:
    """Whether other runs can have the same answers; nobody knows which weights a server has."""
    backend, source = spec.options.backend, asked.model.source
    is_trained = source == TUNED or asked.model.row.step is not UNSET
    return not is_trained and (backend is None or source not in backend.models)


def answers_key(spec: EvalStage, asked: Asked, one: Pass) -> str:
    """Return the digest of all that the answers of a pass depend on.

    The questions hold what the set, the prompt template, the instruction and the examples make of
    the items. Answers of another kind of device are other answers.
    """
    import jax  # here, so that planning does not need it

    identity = {
        "code": _code(),
        "device": jax.devices()[0].device_kind,
        "model": asked.model.row.digest,
        "thinking": spec.thinking,
        "system_instruction": spec.system_instruction,
        "questions": [asdict(question) for question in one.questions],
        "max_new_tokens": one.max_new_tokens,
        "batch_size": spec.options.batch_size,
        "samples": one.samples,
        "sampling": astuple(one.sampling),
    }
    return hashlib.sha256(jsonl.dump_line(identity)).hexdigest()


def find_answers(spec: EvalStage, stage: Stage, asked: Asked, one: Pass) -> Answers | None:
    """Return the kept answers of a pass; None if there are none, or for the tuned model."""
    if not _is_kept(spec, asked):
        return None
    url = layout.eval_answers_url(stage.artifacts, answers_key(spec, asked, one))
    try:
        data = files.read(url)
    except FileNotFoundError:
        return None
    found = _parse(data, len(one.questions) * one.samples)
    if found is None:
        log.warning("%s: is damaged and not used; the questions are asked again", url)
        return None
    log.info(
        "the %d answers of %s to the set %s are those that run %s has kept in %s",
        *(len(found[1]), asked.model.name, asked.set.name, found[0].get("run_id"), url),
    )
    return found[1]


def keep_answers(
    spec: EvalStage,
    stage: Stage,
    asked: Asked,
    one: Pass,
    answers: Mapping[int, Generation],
    *,
    label: str = "",
) -> None:
    """Keep the complete answers of a pass, unless they are kept already.

    The record names the object, so that it can be verified and is not deleted before the run.

    Args:
        spec: spec of the stage.
        stage: the stage.
        asked: the model and the set.
        one: the pass.
        answers: number of the answer -> the answer.
        label: ending of the name in the record, for a part of a set.
    """
    if not _is_kept(spec, asked):
        return
    key = answers_key(spec, asked, one)
    stage.inputs[f"{KEPT_INPUT}{asked.model.name}, {asked.set.name}{label}"] = key
    url = layout.eval_answers_url(stage.artifacts, key)
    header = {
        "key": key,
        "run_id": spec.run_id,
        "model": asked.model.row.digest,
        "set": asked.set.name,
        "set_sha256": asked.set.ref.sha256,
    }
    rows = ({"item": number, **asdict(answers[number])} for number in sorted(answers))
    data = b"".join(map(jsonl.dump_line, seal_lines([header, *rows])))
    if not files.publish(url, data) and _parse(files.read(url), len(answers)) is None:
        files.write(url, data)


def _parse(data: bytes, expected: int) -> tuple[dict[str, Any], Answers] | None:
    """Return the header and all answers of an object; None if it is damaged or not complete."""
    lines, damaged = read_sealed_lines(data)
    if damaged is not None or len(lines) != expected + 1:
        return None
    header, *rows = lines
    try:
        found = {row.pop("item"): Generation(**row) for row in rows}
    except (TypeError, KeyError):
        return None
    return (header, found) if found.keys() == set(range(expected)) else None
