"""`delta_report.json`: base against tuned model on one eval set; its classes, writer and reader."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneloop.errors import DataError
from tuneloop.validation import first_error

Outcome = Literal["correct", "wrong", "no_answer"]
"""How an answer was judged. `no_answer`: no answer could be extracted from the text."""


class _Part(BaseModel):
    """Base class. Unknown keys are ignored, so older versions read newer files."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Accuracy(_Part):
    """Correct answers over all items; items without an answer count as not correct."""

    correct: int
    wrong: int
    no_answer: int
    low: float
    """Lower end of the Wilson interval at 95 %, as a share."""
    high: float
    """Upper end of that interval."""

    @property
    def total(self) -> int:
        """Number of items."""
        return self.correct + self.wrong + self.no_answer

    @property
    def share(self) -> float:
        """Correct over total."""
        return self.correct / self.total


class Paired(_Part):
    """Items that the two models answered differently."""

    improved: int
    """Items that only the tuned model answered correctly."""
    regressed: int
    """Items that only the base model answered correctly."""
    p_value: float
    """Exact McNemar test: two-sided binomial test of improved against regressed at 1/2."""
    gain_low: float | None = None
    """Lower end of the 95 % interval of the gain, -1 to 1; null in reports of older versions."""
    gain_high: float | None = None
    """Upper end of that interval."""


class Group(_Part):
    """Both models on one group of items."""

    name: str
    """Category of the items, or `all`."""
    base: Accuracy
    tuned: Accuracy
    paired: Paired

    @property
    def gain(self) -> float:
        """Accuracy won by tuning, -1 to 1; from counts, so that 3 of 10 is exactly 0.3."""
        return (self.tuned.correct - self.base.correct) / self.tuned.total


class Answer(_Part):
    """One model's answer to one item."""

    outcome: Outcome
    answer: str | None
    """The extracted answer as the model wrote it."""
    matched: str | None = None
    """The accepted spelling that the answer equals; null unless correct."""


class Item(_Part):
    """One item of the eval set."""

    id: str
    category: str
    base: Answer
    tuned: Answer

    @property
    def has_regressed(self) -> bool:
        """Whether only the base model answered it correctly."""
        return self.base.outcome == "correct" != self.tuned.outcome

    @property
    def is_still_wrong(self) -> bool:
        """Whether neither model answered it correctly."""
        return "correct" not in (self.base.outcome, self.tuned.outcome)


class BasePrompt(_Part):
    """The base model asked with one kind of prompt, compared with the tuned model."""

    examples: int
    """Training examples in the prompt, as earlier turns; the tuned model is asked with none."""
    base: Accuracy
    paired: Paired

    def gain(self, tuned: Accuracy) -> float:
        """Accuracy won by tuning, -1 to 1."""
        return (tuned.correct - self.base.correct) / tuned.total


class LostItem(_Part):
    """A guarded question that only the base model answered correctly."""

    id: str
    prompt: str
    base_text: str
    tuned_text: str


class Guard(_Part):
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


class DeltaReport(_Part):
    """What the tuned model gained and lost against its base."""

    header: dict[str, str] = {}
    """What was evaluated, and with which scorer: names to values, in order of display."""
    verdict: str
    """`improved`, `regressed` or `no detectable difference`."""
    overall: Group
    categories: tuple[Group, ...]
    items: tuple[Item, ...]
    base_prompts: tuple[BasePrompt, ...] = ()
    """The prompts that the base model was asked with, if there are several."""
    base_examples: int = 0
    """Training examples in the base model's prompt to which verdict, groups and items refer: the
    prompt with which the base scores best."""
    guard: Guard | None = None
    """Result on the guard set; null if there is none."""
    random_weights: bool = False
    """Whether the base model has random weights, which know nothing before training."""

    @property
    def regressions(self) -> list[Item]:
        """Items that only the base model answered correctly."""
        return [item for item in self.items if item.has_regressed]

    @property
    def still_wrong(self) -> list[Item]:
        """Items that neither model answered correctly."""
        return [item for item in self.items if item.is_still_wrong]


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
