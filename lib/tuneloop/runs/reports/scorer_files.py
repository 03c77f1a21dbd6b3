"""The scorers that users wrote for a run, which its evaluation keeps among its outputs."""

from __future__ import annotations

import hashlib

from msgspec import UNSET

from tuneloop.artifacts import records
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, EvalSet, scorer_file
from tuneloop.artifacts.records import Record
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.scorers.scoring import ScorerName
from tuneloop.evaluation.scorers.user_file import is_user_file, load_user_scorer
from tuneloop.settings.environment import read_settings, variable

ALLOWED = "file"
"""Name in TUNELOOP_ALLOW_SCORERS that allows the Python file of a finished run to run."""


def scorers_of(found: EvalSamples, record: Record, artifacts: str) -> dict[str, ScorerName]:
    """Return the scorer of each set; Python files are loaded from the outputs of the evaluation.

    Args:
        found: samples of the run.
        record: record of its eval stage.
        artifacts: URL of the artifacts.

    Raises:
        SpecError: a scorer is a Python file, and nobody has allowed it to run here.
        InputMissing: the evaluation has not kept the file, because it is older.
        DataError: the file is not the one that scored the run.
    """
    return {
        name: _load(each, record, artifacts) if is_user_file(each.scorer) else each.scorer
        for name, each in found.sets.items()
    }


def _load(each: EvalSet, record: Record, artifacts: str) -> ScorerName:
    if each.scorer_sha256 is UNSET or not record.outputs_like(scorer_file(each.scorer_sha256)):
        raise InputMissing(
            f"set {each.name}: its scorer {each.scorer} is not among the outputs of the evaluation,"
            " which an older version of tuneloop wrote; evaluate the run again"
        )
    if ALLOWED not in read_settings().allow_scorers.replace(" ", "").split(","):
        raise SpecError(
            f"set {each.name}: its scorer {each.scorer} is a Python file of the run, which is not"
            f" allowed to run here; read it, then set {variable('allow_scorers')}={ALLOWED}"
        )
    file = record.output(scorer_file(each.scorer_sha256))
    data = records.read_output(file, artifacts)
    if hashlib.sha256(data).hexdigest() != each.scorer_sha256:
        raise DataError(
            f"{file.path}: is not the scorer of the set {each.name}, expected the digest"
            f" {each.scorer_sha256}; evaluate the run again"
        )
    return load_user_scorer(data, str(each.scorer))
