"""Ask the models of an evaluation: which model gets which questions, with which prompts.

A pass is one model asked all items of one set. Its prompts are cut into batches, and the processes
that share the stage divide the batches of all passes among themselves.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from tuneloop.errors import DataError
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.stages.models.evaluated import EvaluatedModel
from tuneloop.training.generation.batches import BatchPlan
from tuneloop.training.generation.generator import Generator, NewTokens, plan_prompts
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.chat_format import ChatFormat

SCANNED_EXAMPLES = 5000
"""Training examples, from the start of the export, among which those for prompts are chosen."""

Shots = tuple[tuple[str, str], ...]
"""Earlier turns of a conversation as (user text, response)."""
ModelName = Literal["base", "tuned"]


@dataclass(frozen=True)
class Generation:
    """The text that a model generated for one item."""

    text: str
    """Generated text, without the stop token."""
    tokens: int
    """Generated tokens, without the stop token."""
    hit_limit: bool
    """Whether generation reached its maximum number of tokens before a stop token."""


@dataclass(frozen=True)
class Question:
    """One item as a model is asked it."""

    text: str
    """User text."""
    shots: Shots = ()
    """Examples before it."""


@dataclass(frozen=True)
class Pass:
    """One model asked all items of one set."""

    name: str
    """Name in file names: `before`, `before_with_examples`, `after`, `guard_before`, ..."""
    model: ModelName
    questions: tuple[Question, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class _Group:
    """The questions of a pass that have the same examples, and their batches."""

    asked: Pass
    numbers: tuple[int, ...]
    """Numbers of the questions in their pass."""
    prompts: tuple[list[int], ...]
    """Their token ids."""
    plan: BatchPlan


@dataclass
class Asker:
    """Generates the answers of all passes with two models, of which one at a time is in memory."""

    models: Mapping[ModelName, EvaluatedModel]
    system_instruction: str | None
    batch_size: int
    check_stop: Callable[[], None]
    """Called before each batch; may raise to stop early."""
    progress: Callable[[int, int], None]
    """Called with the numbers of finished batches and of all batches."""
    _generators: dict[Any, Generator] = field(default_factory=dict)
    _done: int = 0

    def ask(
        self, passes: Sequence[Pass], share: Callable[[int], range]
    ) -> dict[str, dict[int, Generation]]:
        """Generate this process's share of all passes.

        Args:
            passes: what to ask; those of the base model first.
            share: returns this process's share of a number of batches, as consecutive numbers.

        Returns:
            Name of the pass -> number of the question -> its answer.
        """
        groups = [group for asked in passes for group in self._groups(asked)]
        tasks = [(group, batch) for group in groups for batch in range(len(group.plan.batches))]
        mine = [tasks[number] for number in share(len(tasks))]
        self._done = 0
        self.progress(0, len(mine))
        found: dict[str, dict[int, Generation]] = {asked.name: {} for asked in passes}
        for name in self.models:
            wanted = [(group, batch) for group, batch in mine if group.asked.model == name]
            if wanted:
                self._ask_one(name, wanted, len(mine), found)
        return found

    def _groups(self, asked: Pass) -> Iterator[_Group]:
        """Group the questions by their examples, so that each group can share a prefix."""
        model = self.models[asked.model]
        by_shots: dict[Shots, list[int]] = defaultdict(list)
        for number, question in enumerate(asked.questions):
            by_shots[question.shots].append(number)
        for numbers in by_shots.values():
            prompts = tuple(
                model.chat_format.encode_prompt(
                    asked.questions[number].text,
                    self.system_instruction,
                    asked.questions[number].shots,
                )
                for number in numbers
            )
            plan = plan_prompts(prompts, model.architecture, self.batch_size, asked.max_new_tokens)
            yield _Group(asked, tuple(numbers), prompts, plan)

    def _ask_one(
        self,
        name: ModelName,
        tasks: Sequence[tuple[_Group, int]],
        total: int,
        found: dict[str, dict[int, Generation]],
    ) -> None:
        source = self.models[name]
        model = source.load()
        used: dict[int, Generator] = {}
        for group, batch in tasks:
            self.check_stop()
            limit = group.asked.max_new_tokens
            if limit not in used:
                used[limit] = self._generator(source, model, limit)
            new = used[limit].generate(group.prompts, group.plan, batches=range(batch, batch + 1))
            for at, answer in new.items():
                found[group.asked.name][group.numbers[at]] = decode(source.chat_format, answer)
            self._done += 1
            self.progress(self._done, total)
        for generator in used.values():
            generator.release()

    def _generator(self, source: EvaluatedModel, model: Any, max_new_tokens: int) -> Generator:
        """Return a generator with this model, which shares what others have compiled."""
        key = (source.architecture, source.chat_format.stop_ids, max_new_tokens)
        if key not in self._generators:
            self._generators[key] = Generator(
                model,
                source.architecture,
                stop_ids=source.chat_format.stop_ids,
                batch_size=self.batch_size,
                max_new_tokens=max_new_tokens,
            )
        self._generators[key].use(model)
        return self._generators[key]


def decode(chat_format: ChatFormat, answer: NewTokens) -> Generation:
    """Decode generated ids.

    A model may have more rows than its tokenizer has pieces; such ids have no text.
    """
    ids = [each for each in answer.ids if each < chat_format.tokenizer.vocab_size]
    return Generation(chat_format.decode_response(ids), len(answer.ids), hit_limit=answer.hit_limit)


def choose_shots(
    examples: Iterable[TrainingExample], items: Sequence[EvalItem], prompts: set[str], count: int
) -> dict[str, Shots]:
    """Choose examples for the base model's prompts: the first of each category in the export.

    Args:
        examples: training examples in the order of the export.
        items: items of the eval set.
        prompts: user texts of the items; examples with one of them are not used.
        count: examples per prompt.

    Returns:
        Category -> its examples. Categories without enough examples of their own, which the key
        `category` in a trace's meta names, get the first examples of the export.

    Raises:
        DataError: there are not enough examples.
    """
    asked = {_folded(prompt) for prompt in prompts}
    by_category: dict[str | None, list[tuple[str, str]]] = defaultdict(list)
    for example in islice(examples, SCANNED_EXAMPLES):
        if _folded(example.prompt) in asked:
            continue
        for key in {None, _category(example)}:
            if len(by_category[key]) < count:
                by_category[key].append((example.prompt, example.response))
    if len(by_category[None]) < count:
        raise DataError(
            f"eval.base_examples: is {count}, but the export has {len(by_category[None])} examples"
            " that are not in the eval set; lower it, or build a larger dataset"
        )
    found = {}
    for category in {item.category for item in items}:
        own = by_category.get(category, [])
        found[category] = tuple(own if len(own) == count else by_category[None])
    return found


def _category(example: TrainingExample) -> str | None:
    raw = example.metadata.get("category")
    value = None if raw is None else json.loads(bytes(raw))
    return value if isinstance(value, str) else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
