"""Options of the eval stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tuneloop.specs.answer_backend import BackendSpec
from tuneloop.specs.base import Spec

SHORT_FORM = ("eval_set", "scorer", "guard_set", "guard_scorer", "guard_max_new_tokens")
"""Keys that describe one set and one guard set, in place of `sets`."""


class EvalSetSpec(Spec):
    """One eval set of a run: where it is, how it is asked and scored, and what it means."""

    url: str = Field(min_length=1)
    """URL of the JSONL eval set; the content enters the fingerprint, the location does not."""
    name: str | None = Field(default=None, pattern=r"^[^\x00-\x1f/]{1,64}$")
    """Name of the set in reports, unique in the run; null takes the name that the file states, or
    the file's name without its ending."""
    scorer: str | dict[str, Any] = "exact_match"
    """Scorer of items that name none: a name, an object with `kind` and its options, or the URL of
    a Python file; the content of the file enters the fingerprint."""
    weight: Literal["required", "guarded", "informative"] = "required"
    """What the set means for the verdict. `required`: the tuned model must be better on it.
    `guarded`: it must not be worse. `informative`: the set is shown, without effect."""
    samples: int = Field(default=1, ge=1, le=1000)
    """Answers of each model to each question; more than one needs a temperature above 0."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """0 takes the most probable token each time; a higher value draws tokens with random numbers
    that follow from the run's seed, the item and the number of the sample."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens generated per answer; null takes `eval.max_new_tokens`."""
    instruction: bool = True
    """Whether the dataset's instruction is added to the questions and the base model is also asked
    with examples. False asks the questions as they are, such as general ones."""

    @model_validator(mode="after")
    def _samples_differ(self) -> EvalSetSpec:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples}, expected a temperature above 0 with it, because all"
                " answers at temperature 0 are the same"
            )
        return self


class EvalSpec(Spec):
    """Generation with base and tuned model on static eval sets, scored and compared.

    `sets` lists any number of sets. The keys `eval_set` and `guard_set` with their scorers are a
    short form of one required and one guarded set.
    """

    eval_set: str | None = None
    """URL of the JSONL eval set, a short form of one required set in `sets`; the content enters the
    fingerprint, the location does not."""
    scorer: str = "exact_match"
    """Name of the scorer of `eval_set`."""
    sets: tuple[EvalSetSpec, ...] = Field(default=(), max_length=100)
    """Eval sets, in the order of the report; at least one is required."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64
    """Maximum prompts per generation batch; a larger batch is faster and needs more device memory.
    `auto` chooses it from the memory of the device and the shape of the models."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens generated per answer; null means 4 more than the longest training response."""
    base_examples: int = Field(default=0, ge=0, le=16)
    """Training examples in the prompt of the base model, as earlier turns of the conversation. With
    more than 0 the base model is asked with and without them, and the verdict compares the tuned
    model with the better of the two. The examples have the item's category where they name one."""
    guard_set: str | None = None
    """URL of a JSONL eval set of general questions, which shows what tuning makes worse; null asks
    none. A short form of one guarded set in `sets`, without the dataset's instruction."""
    guard_scorer: str = "contains_answer"
    """Name of the scorer of `guard_set`."""
    guard_max_new_tokens: int = Field(default=64, ge=1)
    """Maximum tokens generated per answer to a question of `guard_set`; a lower value is faster and
    counts long answers as wrong."""
    baselines: tuple[str, ...] = Field(default=(), max_length=20)
    """Stored models, aliases, or runs with their tuned models, that are asked all questions as
    well. The content of a model enters the fingerprint with its name."""
    checkpoints: Literal["all"] | tuple[Annotated[int, Field(ge=1)], ...] = Field(default=())
    """Steps of `train.keep_checkpoints` whose weights are asked all questions as well, or `all` of
    them; the report shows the accuracy by step."""
    stop_early: bool = False
    """Stop asking a required set as soon as an anytime-valid test has decided whether the tuned
    model is better or worse. Its questions are asked in a random order, in growing chunks. Each
    chunk loads the models again that do not fit into memory together. Intervals are wider than
    without it, and one process runs the stage."""
    stop_candidate: int = Field(default=1, ge=1, le=10_000)
    """Candidate number in the ledger of `tuneloop gate` for which the evidence has to be enough
    before `stop_early` stops; a higher value asks more questions."""
    backend: BackendSpec | None = None
    """Server that answers for some of the models; null generates all answers in the eval stage."""
    allow_unchecked: bool = False
    """Evaluate even if the export did not search the training set for eval prompts; the report then
    carries a warning."""

    @model_validator(mode="after")
    def _stops_for_a_candidate(self) -> EvalSpec:
        if self.stop_candidate != 1 and not self.stop_early:
            raise ValueError(
                f"stop_candidate is {self.stop_candidate}, expected stop_early: true with it;"
                " without it all questions are asked"
            )
        return self

    @model_validator(mode="after")
    def _one_form(self) -> EvalSpec:
        if not self.sets:
            if self.eval_set is None:
                raise ValueError("expected one of the two keys `eval_set` and `sets`")
            return self
        fields = type(self).model_fields
        changed = [key for key in SHORT_FORM if getattr(self, key) != fields[key].default]
        if changed:
            raise ValueError(
                f"expected either `sets` or `{changed[0]}`; write that set as an entry of `sets`"
            )
        if all(each.weight != "required" for each in self.sets):
            raise ValueError("sets: expected at least one set with the weight `required`")
        return self

    @property
    def all_sets(self) -> tuple[EvalSetSpec, ...]:
        """The sets in the order of the report, whichever form the spec has."""
        if self.eval_set is None:
            return self.sets
        found = [EvalSetSpec(url=self.eval_set, scorer=self.scorer)]
        if self.guard_set is not None:
            guard = EvalSetSpec(
                url=self.guard_set,
                scorer=self.guard_scorer,
                weight="guarded",
                max_new_tokens=self.guard_max_new_tokens,
                instruction=False,
            )
            found.append(guard)
        return tuple(found)

    def option_of(self, number: int, key: str) -> str:
        """Return the path in the run spec of a key of one of `all_sets`, for messages."""
        if self.eval_set is None:
            return f"eval.sets.{number}.{key}"
        if number:
            return f"eval.{'guard_set' if key == 'url' else f'guard_{key}'}"
        return f"eval.{'eval_set' if key == 'url' else key}"
