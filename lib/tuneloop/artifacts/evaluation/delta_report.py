"""`delta_report.json`: base against tuned model on eval sets; its classes, writer and reader.

Reports of schema version 1 know one eval set and three states of an answer. They are read with the
defaults of the newer fields.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, ValidationError

from tuneloop.artifacts.evaluation.accuracy import Accuracy, BasePrompt, Group, ReportPart
from tuneloop.artifacts.evaluation.eval_samples import State
from tuneloop.artifacts.evaluation.set_result import SetResult
from tuneloop.artifacts.results import LengthSummary, NoiseFloor
from tuneloop.errors import DataError
from tuneloop.validation import first_error

SCHEMA_VERSION = "2"
Outcome = State
"""How an answer was judged."""
ContaminationState = Literal["clean", "kept", "unchecked"]
"""Whether the training data was checked for the eval sets; `kept`: some overlap was kept."""


class Answer(ReportPart):
    """One model's answer to one item."""

    outcome: Outcome
    """With several samples, the most frequent state."""
    answer: str | None
    """The extracted answer as the model wrote it; with several samples, the first one's."""
    matched: str | None = None
    """The accepted spelling that the answer equals; null unless correct."""
    value: float | None = None
    """Mean credit of the samples, 0 to 1; null if it is 1 for a correct answer and 0 otherwise."""

    @property
    def credit(self) -> float:
        """Mean credit, 0 to 1."""
        return float(self.outcome == "correct") if self.value is None else self.value


class Item(ReportPart):
    """One item of an eval set."""

    id: str
    set: str = ""
    """Name of its set; empty in reports of version 1."""
    category: str
    base: Answer
    tuned: Answer

    @property
    def has_improved(self) -> bool:
        """Whether the tuned model got more credit."""
        return self.tuned.credit > self.base.credit

    @property
    def has_regressed(self) -> bool:
        """Whether the base model got more credit."""
        return self.base.credit > self.tuned.credit

    @property
    def is_still_wrong(self) -> bool:
        """Whether neither model answered it correctly, and tuning changed nothing."""
        return self.base.credit == self.tuned.credit < 1


class LostItem(ReportPart):
    """A guarded question that only the base model answered correctly."""

    id: str
    prompt: str
    base_text: str
    tuned_text: str


class Guard(ReportPart):
    """Both models on general questions, which tuning should not make worse."""

    name: str
    """File name of the guard set."""
    scorer: str
    """Name of the scorer."""
    base: Accuracy
    tuned: Accuracy
    kept: int
    """Questions that both models answered correctly."""
    kept_low: float
    """Lower end of the 95 % interval of `kept_share`."""
    kept_high: float
    """Upper end of that interval."""
    lost: tuple[LostItem, ...]

    @property
    def kept_share(self) -> float:
        """Share kept of the questions that the base answered correctly; 1 if there are none."""
        return self.kept / self.base.correct if self.base.correct else 1.0


class ReportModel(ReportPart):
    """One evaluated model."""

    name: str
    """Name in this evaluation, such as `base`, `tuned`, or the name of a baseline."""
    digest: str
    run: str | None = None
    """Run that trained it."""
    examples: int = 0
    """Training examples in its prompt."""
    step: int | None = None
    """Step of the training, for a checkpoint of the tuned model."""


class Warned(ReportPart):
    """A warning of the report."""

    kind: str
    """Short stable name, such as `token_limit`."""
    text: str
    severe: bool = False
    """Whether the verdict cannot be trusted before this is resolved."""


class Training(ReportPart):
    """Losses of the training that made the tuned model."""

    losses: tuple[tuple[int, float], ...] = ()
    """(step, training loss); at most some hundred steps, evenly chosen."""
    validations: tuple[tuple[int, float], ...] = ()
    """(finished steps, validation loss)."""
    kept_step: int | None = None
    """Step of the tuned model's weights."""
    stopped_early: bool = False


class ExportAccounts(ReportPart):
    """What the export kept of the dataset, and what it dropped."""

    traces: int
    examples: int
    validation_examples: int = 0
    excluded: dict[str, int] = Field(default={})
    """Reason -> traces that gave no example; only reasons that occurred."""
    truncated: int = 0
    """Examples that lost steps because they were too long."""
    lengths: dict[str, LengthSummary] = Field(default={})
    """Measure, such as `prompt_characters` -> summary of all examples."""


class Context(ReportPart):
    """What a report needs in addition to the samples."""

    header: dict[str, str] = Field(default={})
    """What was evaluated, and with which scorer: names to values, in order of display."""
    random_weights: bool = False
    """Whether the base model has random weights, which know nothing before training."""
    contamination: ContaminationState | None = None
    """Null: not known."""
    training: Training | None = None
    export: ExportAccounts | None = None
    noise: NoiseFloor | None = None
    """Noise floor of the answers; null where no answer depends on its batch, as on a CPU."""


class DeltaReport(Context):
    """What the tuned model gained and lost against its base."""

    schema_version: str = "1"
    verdict: str
    """`improved`, `regressed` or `no detectable difference`."""
    sentence: str = ""
    """The verdict as a sentence; empty in reports of version 1."""
    warnings: tuple[Warned, ...] = ()
    """The most important one first."""
    models: tuple[ReportModel, ...] = ()
    sets: tuple[SetResult, ...] = ()
    """Results by set; empty in reports of version 1."""
    overall: Group
    """The required sets together."""
    categories: tuple[Group, ...]
    items: tuple[Item, ...]
    """Items of all sets."""
    base_prompts: tuple[BasePrompt, ...] = ()
    """The prompts that the base model was asked with, if there are several."""
    base_examples: int = 0
    """Training examples in the base model's prompt to which verdict, groups and items refer: the
    prompt with which the base scores best."""
    guard: Guard | None = None
    """Result on the first guarded set; null if there is none."""

    @property
    def judged(self) -> frozenset[str]:
        """Names of the sets that `overall` puts together: the required ones, if there are any."""
        required = frozenset(each.name for each in self.sets if each.weight == "required")
        return required or frozenset(each.name for each in self.sets[:1])

    @property
    def judged_items(self) -> list[Item]:
        """Items of these sets; all items in reports of version 1."""
        judged = self.judged
        return [item for item in self.items if not judged or item.set in judged]

    @property
    def not_asked(self) -> int:
        """Number of items that were not asked, because the result was decided."""
        return sum(each.stopping.not_asked for each in self.sets if each.stopping)

    @property
    def regressions(self) -> list[Item]:
        """Items of `overall` for which the base model got more credit."""
        return [item for item in self.judged_items if item.has_regressed]

    @property
    def improvements(self) -> list[Item]:
        """Items of `overall` for which the tuned model got more credit."""
        return [item for item in self.judged_items if item.has_improved]

    @property
    def still_wrong(self) -> list[Item]:
        """Items of `overall` that neither model answered correctly."""
        return [item for item in self.judged_items if item.is_still_wrong]

    def context(self) -> Context:
        """Return what the report was built from in addition to the samples."""
        return Context(**{name: getattr(self, name) for name in Context.model_fields})


def dump_report(report: DeltaReport) -> bytes:
    """Serialize a report."""
    text = json.dumps(
        report.model_dump(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def load_report(data: bytes, place: str) -> DeltaReport:
    """Read and validate a report.

    Args:
        data: content of the file.
        place: the file, as an error should name it.

    Raises:
        DataError: it is not a report.
    """
    try:
        return DeltaReport.model_validate_json(data)
    except ValidationError as e:
        raise DataError(
            f"{place}: not a report: {first_error(e)}; was it made by another version of tuneloop?"
            " run the eval stage again"
        ) from e
