"""The scoring spec: the final answers of a dataset's traces, judged by a scorer of evaluations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.import_traces import ImportSpec
from tuneloop.specs.run import ExecutionSpec

KEY = "score"
"""Key at the top of a spec file, by which it is recognised."""


class ScoreSpec(Spec):
    """Which traces are scored, and how."""

    dataset: str = Field(min_length=1, max_length=200)
    """Key of the dataset, its folder under `<artifacts>/datasets/`."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of traces, taken from the start of the dataset; null takes all."""
    scorer: str | dict[str, Any] = "exact_match"
    """Scorer of traces and items that name none: a name, an object with `kind` and its options, or
    the URL of a Python file; the content of the file enters the fingerprint."""
    criteria: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the scores, which selections call `scores.NAME`; null takes the name of the
    scorer."""
    expected: str | None = None
    """URL of an eval set with the expected answers, joined by `meta.prompt_id`, `meta.eval_id`,
    `meta.id` or the prompt; null uses `meta.expected_answer` of the traces alone."""
    reading: Literal["strict", "lenient"] = "strict"
    """`strict` scores the final answer as it is; `lenient` looks for an answer in its text."""


class ScoreRunSpec(Spec):
    """A scoring run: scores of the traces of a dataset, for the trace store and as a file."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,30}[a-z0-9])?$")
    """First part of the run id: lower-case letters, digits and dashes, starting with a letter."""
    score: ScoreSpec
    """Options of the score stage."""
    seed: Seed = 0
    """Seed of the run; scores do not depend on it."""
    import_: ImportSpec | None = Field(default=None, alias="import")
    """Options of the import stage, which posts the scores to the trace store; null plans no such
    stage, and `{}` plans it with the defaults."""
    execution: ExecutionSpec = ExecutionSpec()
    """Execution settings: storage and cluster; never part of the fingerprint."""
