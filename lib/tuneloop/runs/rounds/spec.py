"""The key `rounds` of a run spec: how a model is improved with its own samples, round by round.

The class is not in `specs`, because it contains the rules of a selection.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tuneloop.datasets.selection.spec import SelectionSpec
from tuneloop.specs.base import Seed, Spec
from tuneloop.specs.sampling import DrawSpec
from tuneloop.specs.sweep import FieldPath

KEY = "rounds"
"""Key at the top of a spec file, by which rounds are recognised."""
Arm = Literal["selected", "random", "sft"]
ARMS: tuple[Arm, ...] = ("selected", "random", "sft")
"""`selected` trains on the selected samples. `random` trains on as many samples, drawn from all of
them. `sft` trains on the seed dataset for as many steps."""
MAX_NAME = 20
"""Maximum characters of the run's name, because the members' names add to it."""
_SET_BY_ROUNDS = ("name", "dataset", "seed", "train.model", "import", "execution", "eval")

_SECTIONS = ("train", "export")
"""Sections of a run spec that would be replaced as a whole, with all that the spec sets there."""


class RoundGateSpec(Spec):
    """What the selected arm has to show before the next round starts from it.

    It is judged against the base model of its round, as `tuneloop gate` judges a run. Null sets no
    condition.
    """

    fail_if: Literal["regressed", "not-improved"] | None = "regressed"
    """`regressed`: a required or guarded set has got worse. `not-improved`: the same, or a required
    set is not shown to be better."""
    min_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Minimum accuracy, 0 to 1."""
    min_gain: float | None = Field(default=None, ge=-1, le=1)
    """Minimum accuracy gain over the base of the round, -1 to 1."""
    min_gain_low: float | None = Field(default=None, ge=-1, le=1)
    """Minimum lower end of the gain's 95 % interval, -1 to 1."""
    max_regressions: int | None = Field(default=None, ge=0)
    """Maximum number of items that only the base model answers correctly."""
    min_guard_kept: float | None = Field(default=None, ge=0, le=1)
    """Minimum share, 0 to 1, of the base model's correct guarded answers that are kept."""
    max_set_loss: float | None = Field(default=None, ge=0, le=1)
    """Maximum loss of accuracy on a required set, 0 to 1."""
    max_errors: int | None = Field(default=None, ge=0)
    """Maximum number of answers that are missing or could not be scored."""


class RoundsSpec(Spec):
    """Rounds of sampling, selection and training, with matched controls."""

    count: int = Field(ge=1, le=100)
    """Number of rounds."""
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1, max_length=100)
    """Seeds, each of which repeats all rounds; with two or more, the report also judges luck of the
    seed. Null takes the seed of the run or, without it, that of the dataset."""
    start: Literal["sft", "model"] = "sft"
    """Base model of the first round. `sft`: a run of this spec trains it on the seed dataset.
    `model`: it is `train.model`, which must then be a pretrained one."""
    sample: DrawSpec
    """Sampling from the base model of each round."""
    select: SelectionSpec = SelectionSpec.model_validate({"where": {"reward": {"min": 1.0}}})
    """Rules that select samples for training, as in a build of a dataset; by default, those with
    the full reward."""
    max_examples: int | None = Field(default=None, ge=1)
    """Maximum number of samples that are selected; null sets no limit."""
    arms: tuple[Arm, ...] = ARMS
    """Arms of each round; `selected` is required. Without a control, the report cannot say what the
    selection was worth."""
    train: dict[FieldPath, Any] = Field(default={})
    """Path of a field of the run spec, such as `train.steps` -> its value in the arms of all
    rounds; other fields are those of the run spec. `train.steps` must be set in one of them."""
    gate: RoundGateSpec = RoundGateSpec()
    """What the selected arm has to show before the next round starts from it; if it does not, the
    next round starts from the same base again, with other samples."""

    @field_validator("arms")
    @classmethod
    def _has_selected(cls, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if "selected" not in arms:
            raise ValueError("expected the arm `selected`, which the others are compared with")
        return tuple(arm for arm in ARMS if arm in arms)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise ValueError("has a seed twice, expected different seeds; remove one")
        return seeds

    @field_validator("train")
    @classmethod
    def _leaves_what_rounds_set(cls, values: dict[str, Any]) -> dict[str, Any]:
        for path, value in values.items():
            if isinstance(value, dict) and path in _SECTIONS:
                inner = next(iter(value), "steps")
                raise ValueError(
                    f"{path} is a section, expected the path of a field, such as"
                    f" `{path}.{inner}: ...`; write one line for each field"
                )
            taken = next((t for t in _SET_BY_ROUNDS if f"{path}.".startswith(f"{t}.")), None)
            if taken is not None:
                raise ValueError(
                    f"sets {path}, expected other fields, because the arms have to agree in"
                    f" {taken}; remove it"
                )
        return values

    @model_validator(mode="after")
    def _selects_from_samples(self) -> RoundsSpec:
        if self.select.datasets:
            raise ValueError(
                "select.datasets names datasets, expected none, because the samples of the round"
                " are selected from; remove it"
            )
        return self
