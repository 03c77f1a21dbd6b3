"""Ask the models of an evaluation: which model gets which questions, with which prompts.

A pass is one model asked all items of one set. Its prompts are cut into batches, and the processes
that share the stage divide the batches of all passes among themselves.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.answering.question import Question, Shots
from tuneloop.stages.answering.remote import (
    RemoteModel,
    plan_remote,
    server_prompt,
    server_question,
)
from tuneloop.stages.answering.saved import SavedBatches
from tuneloop.stages.lifecycle.pace import Pace
from tuneloop.stages.models.evaluated import EvaluatedModel
from tuneloop.training.generation.batches import BatchPlan, plan_part, rows_of_part
from tuneloop.training.generation.decoding import GREEDY, Sampling
from tuneloop.training.generation.devices import rounds_alike
from tuneloop.training.generation.generator import Draw, Generator, NewTokens, plan_prompts
from tuneloop.training.text.chat_format import ChatFormat

ModelName = str
"""Name of one of the models that an evaluation asks."""


@dataclass(frozen=True)
class Pass:
    """One model asked all items of one set."""

    name: str
    """Name in file names: `before`, `before_with_examples`, `after`, `guard_before`, ..."""
    model: ModelName
    questions: tuple[Question, ...]
    max_new_tokens: int
    samples: int = 1
    """Answers to each question. They are numbered `question * samples + sample`, both from 0."""
    sampling: Sampling = GREEDY
    """How tokens are chosen; each sample of each question has random numbers of its own."""
    batch_size: int | None = None
    """Rows of a batch at most; None takes that of the evaluation."""
    chunk: tuple[int, ...] | None = None
    """Numbers of the questions that are asked now; None asks all. The batches have the lengths of
    the whole pass."""
    first_chunk: int = 0
    """Questions of the smallest chunk, which gives the rows of the batches of all chunks."""


@dataclass(frozen=True)
class _Group:
    """The questions of a pass that have the same examples, and their batches."""

    asked: Pass
    numbers: tuple[int, ...]
    """Numbers of the answers in their pass."""
    prompts: tuple[Any, ...]
    """Question of each answer: token ids, or the messages for a server."""
    draws: tuple[Draw, ...]
    """What gives each answer its random numbers."""
    plan: BatchPlan


@dataclass(frozen=True)
class _Task:
    """One batch."""

    group: _Group
    batch: int
    """Number of the batch in its group."""

    @property
    def numbers(self) -> list[int]:
        """Numbers of its answers in their pass."""
        return [self.group.numbers[at] for at in self.group.plan.batches[self.batch].indexes]

    def among(self, known: Mapping[int, Generation]) -> dict[int, Generation] | None:
        """Return its answers if all of them are known."""
        numbers = self.numbers
        return {n: known[n] for n in numbers} if all(n in known for n in numbers) else None

    @property
    def tokens(self) -> int:
        """Tokens for which the batch has room, a measure of its duration."""
        plan = self.group.plan
        width = plan.batches[self.batch].padded_tokens + self.group.asked.max_new_tokens
        return plan.rows * width

    @property
    def key(self) -> str:
        """Digest of what the answers depend on, besides the model and the code."""
        asked, plan = self.group.asked, self.group.plan
        indexes = plan.batches[self.batch].indexes
        rows = [(self.group.prompts[at], self.group.draws[at]) for at in indexes]
        value = (asked.name, asked.model, asked.max_new_tokens, astuple(asked.sampling), rows)
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@dataclass
class Asker:
    """Generates the answers of all passes, one model after the other."""

    models: Mapping[ModelName, EvaluatedModel]
    system_instruction: str | None
    batch_size: int
    check_stop: Callable[[], None]
    """Called before each batch; may raise to stop early."""
    progress: Callable[[int, int, float | None], None]
    """Called with the numbers of finished batches and of all batches, and the estimated seconds of
    the batches that are left; None while too little is known."""
    remote: Mapping[ModelName, RemoteModel] = field(default_factory=dict)
    """Models that a server answers for."""
    saved: SavedBatches | None = None
    """Batches that an earlier attempt has finished; None keeps none."""
    stays: frozenset[ModelName] = frozenset()
    """Models that stay in memory from one call of `ask` to the next; of the others, one at a time
    is there."""
    _loaded: dict[ModelName, Any] = field(default_factory=dict)
    """Those of them that are in memory."""
    _generators: dict[Any, Generator] = field(default_factory=dict)
    _whole: dict[str, tuple[_Group, ...]] = field(default_factory=dict)
    """Name of a pass that is asked in chunks -> its groups."""

    def ask(
        self,
        passes: Sequence[Pass],
        share: Callable[[int], range],
        known: Mapping[str, Mapping[int, Generation]] | None = None,
    ) -> dict[str, dict[int, Generation]]:
        """Generate this process's share of all passes.

        Args:
            passes: what to ask; those of the base model first.
            share: returns this process's share of a number of batches, as consecutive numbers.
            known: name of the pass -> number of the answer -> an answer that need not be generated.

        Returns:
            Name of the pass -> number of the answer -> the answer.
        """
        groups = [group for asked in passes for group in self._groups(asked)]
        tasks = [_Task(group, n) for group in groups for n in range(len(group.plan.batches))]
        mine = [tasks[number] for number in share(len(tasks))]
        found: dict[str, dict[int, Generation]] = {asked.name: {} for asked in passes}
        left = []
        for task in mine:
            # Processes agree on the tasks, whichever answers they know.
            answers: Mapping[int, Generation] | None
            answers = task.among((known or {}).get(task.group.asked.name, {}))
            if answers is None and self.saved is not None:
                answers = self.saved.find(task.key, task.numbers)
            if answers is None:
                left.append(task)
            else:
                found[task.group.asked.name] |= answers
        try:
            self._ask_left(left, len(mine), found)
        finally:
            if self.saved is not None:
                self.saved.flush()
        return found

    def forget_models(self) -> None:
        """Drop the models that stayed in memory; the next call of `ask` loads them again."""
        self._loaded.clear()

    def depends_on_batches(self, name: ModelName) -> bool:
        """Whether an answer of a model may depend on the batch that it is generated in."""
        return name in self.remote or not rounds_alike()

    def _groups(self, asked: Pass) -> Iterator[_Group]:
        """Return the groups of a pass, or of a chunk of it."""
        if asked.chunk is None:
            yield from self._all_groups(asked)
            return
        if asked.name not in self._whole:
            self._whole[asked.name] = tuple(self._all_groups(replace(asked, chunk=None)))
        wanted = set(asked.chunk)
        for group in self._whole[asked.name]:
            numbers = enumerate(group.numbers)
            chosen = [at for at, number in numbers if number // asked.samples in wanted]
            if chosen and asked.model in self.remote:
                yield replace(group, plan=plan_remote(chosen))
            elif chosen:
                rows = rows_of_part(group.plan, asked.first_chunk * asked.samples)
                yield replace(group, plan=plan_part(group.plan, group.prompts, chosen, rows))

    def _all_groups(self, asked: Pass) -> Iterator[_Group]:
        """Group the questions by their examples, so that each group can share a prefix."""
        if asked.model in self.remote:
            yield self._remote_group(asked)
            return
        model = self.models[asked.model]
        by_shots: dict[Shots, list[int]] = defaultdict(list)
        for number, question in enumerate(asked.questions):
            by_shots[question.shots].append(number)
        for numbers in by_shots.values():
            rows = [
                (number * asked.samples + sample, prompt, (question.draw_number, sample))
                for number in numbers
                for question in (asked.questions[number],)
                for prompt in (question.encode(model.chat_format, self.system_instruction),)
                for sample in range(asked.samples)
            ]
            answers, prompts, draws = zip(*rows, strict=True)
            plan = plan_prompts(
                prompts,
                model.architecture,
                asked.batch_size or self.batch_size,
                asked.max_new_tokens,
            )
            yield _Group(asked, answers, prompts, draws, plan)

    def _remote_group(self, asked: Pass) -> _Group:
        rows = [
            (server_prompt(each, self.system_instruction), (each.draw_number, sample))
            for each in asked.questions
            for sample in range(asked.samples)
        ]
        conversations, draws = zip(*rows, strict=True)
        numbers = tuple(range(len(rows)))
        return _Group(asked, numbers, conversations, draws, plan_remote(numbers))

    def _ask_left(
        self, tasks: Sequence[_Task], total: int, found: dict[str, dict[int, Generation]]
    ) -> None:
        """Generate batches, one model after the other."""
        done, tokens, tokens_left = total - len(tasks), 0, sum(task.tokens for task in tasks)
        pace = Pace()
        self.progress(done, total, None)
        pace.report(tokens, time.monotonic())
        for name in self.models:
            wanted = [task for task in tasks if task.group.asked.model == name]
            ask = self._ask_remote if name in self.remote else self._ask_one
            for task, answers in ask(name, wanted) if wanted else ():
                found[task.group.asked.name] |= answers
                if self.saved is not None:
                    self.saved.add(task.key, answers)
                done, tokens, tokens_left = (
                    done + 1,
                    tokens + task.tokens,
                    tokens_left - task.tokens,
                )
                pace.report(tokens, time.monotonic())
                rate = pace.rate(time.monotonic())
                self.progress(done, total, tokens_left / rate if rate else None)

    def _ask_remote(
        self, name: ModelName, tasks: Sequence[_Task]
    ) -> Iterator[tuple[_Task, dict[int, Generation]]]:
        """Ask the server of one model, for several batches at once."""
        remote = self.remote[name]
        questions = (
            server_question(
                task.group.prompts[at],
                task.group.asked.max_new_tokens,
                task.group.asked.sampling.temperature,
                (task.group.asked.sampling.seed, *task.group.draws[at]),
            )
            for task in tasks
            for at in task.group.plan.batches[task.batch].indexes
        )
        with closing(remote.backend.ask(remote.name, questions)) as answers:
            for task in tasks:
                self.check_stop()
                yield task, {n: remote.generation(next(answers)) for n in task.numbers}

    def _ask_one(
        self, name: ModelName, tasks: Sequence[_Task]
    ) -> Iterator[tuple[_Task, dict[int, Generation]]]:
        """Generate the batches of one model."""
        source = self.models[name]
        model = self._load(name)
        used: dict[int, Generator] = {}
        for task in tasks:
            self.check_stop()
            group, limit = task.group, task.group.asked.max_new_tokens
            if limit not in used:
                used[limit] = self._generator(source, model, limit)
            new = used[limit].generate(
                group.prompts,
                group.plan,
                batches=range(task.batch, task.batch + 1),
                sampling=group.asked.sampling,
                draws=group.draws,
            )
            yield (
                task,
                {
                    group.numbers[at]: decode(source.chat_format, answer)
                    for at, answer in new.items()
                },
            )
        for generator in used.values():
            generator.release()

    def _load(self, name: ModelName) -> Any:
        if name in self._loaded:
            return self._loaded[name]
        model = self.models[name].load()
        if name in self.stays:
            self._loaded[name] = model
        return model

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


def longest_prompt(
    passes: Sequence[Pass], models: Mapping[ModelName, EvaluatedModel], system: str | None
) -> int:
    """Return the tokens of the longest prompt of all passes."""
    return max(
        len(one.encode(models[each.model].chat_format, system))
        for each in passes
        for one in each.questions
    )


def decode(chat_format: ChatFormat, answer: NewTokens) -> Generation:
    """Decode generated ids.

    A model may have more rows than its tokenizer has pieces; such ids have no text.
    """
    ids = [each for each in answer.ids if each < chat_format.tokenizer.vocab_size]
    return Generation(chat_format.decode_response(ids), len(answer.ids), hit_limit=answer.hit_limit)
