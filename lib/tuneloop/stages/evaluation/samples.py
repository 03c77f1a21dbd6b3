"""Score the answers of all models, and put them together as `samples.jsonl`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec import UNSET

from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, Judgement, Sample
from tuneloop.evaluation.scorers.scoring import score_text
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.parsing import parse_answer
from tuneloop.stages.evaluation.models import Asked, AskedModel
from tuneloop.stages.evaluation.sets import LoadedSet
from tuneloop.traces.response_text import ParsedResponse
from tuneloop.training.prompt_templates import Recipe

FILE = "samples.jsonl"
"""Name of the output."""


@dataclass(frozen=True)
class Answer:
    """One scored answer of one model to one item."""

    item: EvalItem
    sample: int
    generation: Generation
    parsed: ParsedResponse
    judgement: Judgement
    """The strict one."""
    lenient: Judgement


@dataclass(frozen=True)
class Answered:
    """The scored answers of one model to one set."""

    asked: Asked
    answers: tuple[Answer, ...]
    """In the order of the items, then of the samples."""


class Judge:
    """Scores answers; equal answers to an item are scored once."""

    def __init__(self, recipe: Recipe) -> None:
        """Start without scores.

        Args:
            recipe: prompt template of the dataset, which knows the form of a response.
        """
        self.recipe = recipe
        self._known: dict[tuple[str, str, Generation], tuple[Judgement, Judgement]] = {}

    def __call__(
        self, asked: LoadedSet, item: EvalItem, generation: Generation
    ) -> tuple[Judgement, Judgement]:
        """Score one answer to an item of a set; return the strict and the lenient score."""
        key = asked.name, item.id, generation
        if key not in self._known:
            self._known[key] = score_text(
                generation.text,
                item.to_item(asked.name),
                asked.scorer,
                parse=lambda text: self.recipe.parse_response(text).answer,
                is_chat=self.recipe.is_chat,
                hit_limit=generation.hit_limit,
            )
        return self._known[key]


def score_answers(
    asked: Sequence[Asked], found: Mapping[str, Mapping[int, Generation]], judge: Judge
) -> list[Answered]:
    """Score all answers.

    Args:
        asked: which model was asked which set.
        found: file of an `Asked` -> number of the answer -> the answer.
        judge: scores answers.
    """
    return [Answered(one, tuple(_answers(one, found[one.file], judge))) for one in asked]


def _answers(asked: Asked, found: Mapping[int, Generation], judge: Judge) -> Iterator[Answer]:
    options = asked.set.options
    for number, item in enumerate(asked.set.items):
        for sample in range(options.samples):
            generation = found[number * options.samples + sample]
            judgements = judge(asked.set, item, generation)
            parsed = parse_answer(
                generation.text,
                item.to_item(asked.set.name),
                judge.recipe,
                hit_limit=generation.hit_limit,
            )
            yield Answer(item, sample, generation, parsed, *judgements)


def build_samples(
    sets: Sequence[LoadedSet], models: Sequence[AskedModel], answered: Sequence[Answered]
) -> EvalSamples:
    """Put all answers together; equal arguments give equal samples."""
    return EvalSamples(
        {each.name: each.row for each in sets},
        {each.name: each.row for each in models},
        {(row.set, row.id): row for each in sets for row in each.item_rows},
        tuple(_samples(sets, models, answered)),
    )


def _samples(
    sets: Sequence[LoadedSet], models: Sequence[AskedModel], answered: Sequence[Answered]
) -> Iterator[Sample]:
    for each in sets:
        for model in models:
            for one in answered:
                if (one.asked.set.name, one.asked.model.name) == (each.name, model.name):
                    yield from (_sample(one.asked, answer) for answer in one.answers)


def _sample(asked: Asked, answer: Answer) -> Sample:
    return Sample(
        set=asked.set.name,
        item=answer.item.id,
        model=asked.model.name,
        sample=answer.sample,
        text=answer.generation.text,
        tokens=answer.generation.tokens,
        hit_limit=answer.generation.hit_limit,
        score=answer.judgement,
        lenient=UNSET if answer.lenient == answer.judgement else answer.lenient,
    )
