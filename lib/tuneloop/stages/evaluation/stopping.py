"""Ask the required sets in chunks of a random order, until a test has decided about each of them.

The test may be looked at any time, so stopping when it has decided does not make it wrong. The
order follows from the digest of a set, and the chunks from the order. So every attempt of a stage
asks the same chunks, and uses what an earlier one has finished.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuneloop.artifacts.evaluation.eval_samples import Stopping
from tuneloop.evaluation.gates.ledger import alpha_of
from tuneloop.evaluation.statistics.arrays import groups_of
from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.sequential import largest_group, look, order_of_set
from tuneloop.specs.stages import EvalStage
from tuneloop.stages.answering.generation import Generation
from tuneloop.stages.eval_passes import Asker, Pass
from tuneloop.stages.evaluation import kept
from tuneloop.stages.evaluation.models import BASE, TUNED, Asked
from tuneloop.stages.evaluation.samples import Judge
from tuneloop.stages.evaluation.sets import EarlyStop, LoadedSet
from tuneloop.stages.lifecycle.context import Stage

log = logging.getLogger("tuneloop.stage")

FIRST_ITEMS = 64
"""Items of the first chunk at least. A chunk has half as many as were asked before it, because each
chunk loads the models again that do not fit into memory together."""

Found = dict[str, dict[int, Generation]]


@dataclass(frozen=True)
class Questioned:
    """What was asked in the end, and all answers."""

    asked: list[Asked]
    """The sets are without the items that were not asked."""
    passes: list[Pass]
    """Only with the questions that were asked."""
    found: Found


@dataclass
class _OpenSet:
    """A required set while it is asked."""

    set: LoadedSet
    groups: Groups
    order: Groups
    """Numbers of all items in random order."""
    chunks: list[tuple[int, ...]]
    pairs: list[tuple[Asked, Pass]]
    """Each model that is asked the set, with all its questions."""
    asked: int = 0
    """Items that were asked."""
    is_decided: bool = False

    @property
    def numbers(self) -> list[int]:
        """Numbers of the asked items, in the order of the file."""
        return sorted(self.order[: self.asked].tolist())


def chunks_of(order: Groups, groups: Groups, first: int = FIRST_ITEMS) -> list[tuple[int, ...]]:
    """Cut a random order into growing chunks; a group is never divided.

    Args:
        order: numbers of the items in random order, groups together.
        groups: (items,), group of each item.
        first: items of the first chunk at least.
    """
    ends = np.flatnonzero(np.append(np.diff(groups[order]) != 0, True)) + 1
    chunks, start = [], 0
    while start < len(order):
        wanted = min(len(order), start + max(first, start // 2))
        end = int(ends[np.searchsorted(ends, wanted)])
        chunks.append(tuple(order[start:end].tolist()))
        start = end
    return chunks


def ask_until_decided(
    spec: EvalStage,
    stage: Stage,
    asked: Sequence[Asked],
    passes: Sequence[Pass],
    asker: Asker,
    judge: Judge,
) -> Questioned:
    """Ask the required sets until they are decided, and the other sets completely.

    Args:
        spec: spec of the stage.
        stage: the stage; one process runs it.
        asked: which model is asked which set.
        passes: the questions of each of them.
        asker: generates answers.
        judge: scores answers.
    """
    pairs = list(zip(asked, passes, strict=True))
    whole = [pair for pair in pairs if pair[0].set.options.weight != "required"]
    opened = _open([pair for pair in pairs if pair[0].set.options.weight == "required"])
    known = {one.file: kept.find_answers(spec, stage, one, each) or {} for one, each in pairs}
    complete = {file for file, answers in known.items() if answers}
    found: Found = {one.file: {} for one in asked}
    report = _Progress(asker.progress)
    asker = replace(asker, progress=report)
    error = alpha_of(spec.options.stop_candidate)
    for part in range(max(len(each.chunks) for each in opened)):
        asking = [each for each in opened if not each.is_decided and part < len(each.chunks)]
        if not asking:
            break
        chunks = [_Chunk(*pair, each.chunks[part], part) for each in asking for pair in each.pairs]
        for chunk in chunks:
            known[chunk.asked.file] = known[chunk.asked.file] or chunk.find(spec, stage)
        wanted = [each for _, each in whole] if not part else []
        wanted += [
            chunk.asking(len(each.chunks[0]))
            for each in asking
            for chunk in chunks
            if chunk.asked.set is each.set
        ]
        for name, answers in asker.ask(wanted, stage.block, known).items():
            found[name] |= answers
        report.advance()
        for chunk in chunks:
            if chunk.asked.file not in complete:
                known[chunk.asked.file] = {}
                chunk.keep(spec, stage, found[chunk.asked.file])
        for each in asking:
            each.asked += len(each.chunks[part])
            each.is_decided = _is_decided(each, found, judge, error)
    for one, each_pass in pairs:
        if one.file in complete or one.set.options.weight != "required":
            kept.keep_answers(spec, stage, one, each_pass, known[one.file] or found[one.file])
    return _questioned(spec, pairs, opened, found)


@dataclass(frozen=True)
class _Chunk:
    """A part of the questions of one model and one set."""

    asked: Asked
    all: Pass
    """All questions."""
    numbers: tuple[int, ...]
    """Numbers of the questions of this part."""
    part: int

    def asking(self, first: int) -> Pass:
        """Return the pass that asks it; the smallest chunk of the set has `first` questions."""
        return replace(self.all, chunk=self.numbers, first_chunk=first)

    def _alone(self) -> Pass:
        return restricted(self.all, self.numbers)

    def find(self, spec: EvalStage, stage: Stage) -> dict[int, Generation]:
        """Return the answers that an earlier evaluation has kept, if there are any."""
        answers = kept.find_answers(spec, stage, self.asked, self._alone()) or {}
        places = _places(self.all, self.numbers)
        return {places[number]: answer for number, answer in answers.items()}

    def keep(self, spec: EvalStage, stage: Stage, found: Mapping[int, Generation]) -> None:
        """Keep its answers for other evaluations that stop early."""
        own = {n: found[at] for n, at in enumerate(_places(self.all, self.numbers))}
        label = f", part {self.part + 1}"
        kept.keep_answers(spec, stage, self.asked, self._alone(), own, label=label)


def restricted(one: Pass, numbers: Sequence[int]) -> Pass:
    """Return a pass with some of the questions only."""
    return replace(one, questions=tuple(one.questions[number] for number in numbers))


def _places(one: Pass, numbers: Sequence[int]) -> list[int]:
    """Return the numbers of the answers to some questions."""
    return [number * one.samples + sample for number in numbers for sample in range(one.samples)]


class _Progress:
    """Progress over all chunks; how many are still to come is not known."""

    def __init__(self, report: Callable[[int, int, float | None], None]) -> None:
        self._report, self._before, self._done = report, 0, 0

    def __call__(self, done: int, total: int, seconds_left: float | None) -> None:
        self._done = self._before + done
        self._report(self._done, self._before + total, seconds_left)

    def advance(self) -> None:
        """Begin the next chunk."""
        self._before = self._done


def _open(pairs: Sequence[tuple[Asked, Pass]]) -> list[_OpenSet]:
    found = []
    for each in dict.fromkeys(one.set.name for one, _ in pairs):
        own = [pair for pair in pairs if pair[0].set.name == each]
        eval_set = own[0][0].set
        groups = groups_of([item.to_item(each) for item in eval_set.items])
        order = order_of_set(groups, eval_set.ref.sha256)
        found.append(_OpenSet(eval_set, groups, order, chunks_of(order, groups), own))
    return found


def _is_decided(opened: _OpenSet, found: Found, judge: Judge, error: float) -> bool:
    """Decide whether the tuned model is better or worse than the base, with every prompt of it.

    The report compares with the prompt with which the base scores best, and nobody knows yet which
    that is.
    """
    order = opened.order[: opened.asked]
    scores = {
        one.model.name: (one.model.source, _values(one, order, found[one.file], judge))
        for one, _ in opened.pairs
    }
    ((_, tuned),) = [each for each in scores.values() if each[0] == TUNED]
    largest = largest_group(opened.groups)
    looks = [
        look(tuned - values, opened.groups[order], error, largest=largest)
        for source, values in scores.values()
        if source == BASE
    ]
    decided = all(each.decision != "undecided" for each in looks)
    log.info(
        "%s: %s after %d of %d questions",
        *(opened.set.name, " and ".join(each.decision for each in looks)),
        *(opened.asked, len(opened.order)),
    )
    return decided


def _values(one: Asked, order: Groups, found: Mapping[int, Generation], judge: Judge) -> Floats:
    """Return the scores of one model, in random order."""
    samples = one.set.options.samples
    return np.array(
        [
            sum(
                judge(one.set, one.set.items[number], found[number * samples + sample])[0].value
                for sample in range(samples)
            )
            / samples
            for number in order
        ]
    )


def _questioned(
    spec: EvalStage,
    pairs: Sequence[tuple[Asked, Pass]],
    opened: Sequence[_OpenSet],
    found: Found,
) -> Questioned:
    """Return sets and passes without the questions that were not asked."""
    candidate = spec.options.stop_candidate
    stopped = {
        each.set.name: replace(
            each.set,
            items=tuple(each.set.items[number] for number in each.numbers),
            early_stop=EarlyStop(
                each.set.items,
                {each.set.items[at].id: place for place, at in enumerate(each.order.tolist())},
                Stopping(asked=each.asked, candidate=candidate, error=alpha_of(candidate)),
            ),
        )
        for each in opened
    }
    numbers = {each.set.name: each.numbers for each in opened}
    asked, passes, answers = [], [], {}
    for one, each_pass in pairs:
        own = numbers.get(one.set.name, range(len(one.set.items)))
        asked.append(replace(one, set=stopped.get(one.set.name, one.set)))
        passes.append(restricted(each_pass, own))
        places = _places(each_pass, own)
        answers[one.file] = {n: found[one.file][at] for n, at in enumerate(places)}
    return Questioned(asked, passes, answers)
