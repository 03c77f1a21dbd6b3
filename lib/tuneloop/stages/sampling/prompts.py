"""The prompts that a sample stage asks, from any of the sources of its spec."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET

from tuneloop import resources
from tuneloop.artifacts.eval_samples import Item
from tuneloop.datasets.schema import TraceRow
from tuneloop.datasets.source import DatasetSource
from tuneloop.errors import DataError, InputMissing
from tuneloop.evaluation.scorers.scoring import ScorerName, item_problem
from tuneloop.evaluation.sets.generated import problem_to_item
from tuneloop.evaluation.sets.schema import EvalItem, dump_eval_set, read_eval_set
from tuneloop.specs.sampling import DatasetPrompts, FilePrompts, GymPrompts, PromptSource
from tuneloop.specs.stages import DatasetRef
from tuneloop.storage import files
from tuneloop.traces.gym import problems_of_seeds

UNNAMED = "prompts"
"""Category of prompts of a dataset whose trace names none, and name of the set of all prompts."""
CATEGORY = "category"
"""Key in a trace's meta that names its category."""


@dataclass(frozen=True)
class Prompts:
    """What is asked, and how many other prompts are not."""

    items: tuple[Item, ...]
    """Prompts with their expected answers, in the order of the source; at least one."""
    repeated: int = 0
    ambiguous: int = 0
    apart: int = 0
    unscorable: int = 0
    conversation: int = 0
    over_limit: int = 0


@dataclass(frozen=True)
class StatedPrompts:
    """Prompts that are known when a run is planned: those that are in no dataset."""

    items: tuple[EvalItem, ...]
    sha256: str
    """Digest of the prompts, which a stage compares."""


def read_stated(source: FilePrompts | GymPrompts) -> StatedPrompts:
    """Read or generate the prompts of a source that is no dataset.

    Raises:
        InputMissing: there is no such file.
        DataError: the file has problems, or a problem of the task cannot be used.
        UsageError: reasoning-gym is not installed, or has no such task.
    """
    if isinstance(source, FilePrompts):
        return _read_file(source)
    problems = problems_of_seeds(source.task, source.first_seed, source.seeds)
    items = tuple(problem_to_item(each, f"{source.task}-{each.seed}") for each in problems)
    return StatedPrompts(items, hashlib.sha256(dump_eval_set(items)).hexdigest())


def _read_file(source: FilePrompts) -> StatedPrompts:
    try:
        data = files.read(resources.input_url(source.url))
    except FileNotFoundError as e:
        raise InputMissing(
            f"{source.url}: missing, expected prompts in the form of an eval set; put it there, or"
            " change sample.prompts.url"
        ) from e
    items = read_eval_set(data, source.url).items[: source.limit]
    # Of the items that are asked, so that a limit beyond the end changes nothing.
    return StatedPrompts(items, hashlib.sha256(dump_eval_set(items)).hexdigest())


def check_scorable(items: Iterable[EvalItem], scorer: ScorerName, place: str) -> None:
    """Refuse items that their scorer cannot judge.

    Raises:
        DataError: an expected answer does not fit the scorer.
    """
    for item in items:
        problem = item_problem(item.to_item(UNNAMED), scorer) if item.scorer is None else None
        if problem is not None:
            raise DataError(f"{place}: item {item.id}: {problem}; correct it, or sample.scorer")


def load_prompts(
    source: PromptSource,
    *,
    dataset: DatasetRef | None,
    datasets: str,
    sha256: str | None,
    scorer: ScorerName,
    apart: frozenset[str],
) -> Prompts:
    """Read the prompts of a planned run.

    Args:
        source: where they come from.
        dataset: the dataset, if they come from one.
        datasets: URL of the prefix or the trace store that holds it.
        sha256: digest of other prompts at planning time.
        scorer: scorer of prompts that name none.
        apart: prompts of eval sets, which are not asked.

    Raises:
        DataError: the prompts were changed after the run was planned, or none is left to ask.
        InputMissing: the file of the prompts is gone.
    """
    if isinstance(source, DatasetPrompts):
        if dataset is None:
            raise DataError("sample.prompts: the dataset is not known; plan the run again")
        found = _of_dataset(source, dataset, datasets, scorer, apart)
    else:
        stated = read_stated(source)
        if stated.sha256 != sha256:
            raise DataError(
                f"{_place(source)}: its prompts changed after the run was planned; plan the run"
                " again"
            )
        items = [item.to_item(UNNAMED) for item in stated.items]
        kept = tuple(item for item in items if item.prompt not in apart)
        found = Prompts(kept, apart=len(items) - len(kept))
    if not found.items:
        raise DataError(
            f"{_place(source)}: found no prompt to ask, expected at least one; {_counts(found)}"
        )
    return found


def _place(source: PromptSource) -> str:
    places: dict[type[Any], Callable[[Any], str]] = {
        DatasetPrompts: lambda each: f"dataset {each.dataset}",
        FilePrompts: lambda each: str(each.url),
        GymPrompts: lambda each: f"task {each.task}",
    }
    return places[type(source)](source)


def _counts(found: Prompts) -> str:
    reasons = {
        "are in an eval set": found.apart,
        "have different answers": found.ambiguous,
        "cannot be scored": found.unscorable,
        "belong to a conversation with earlier turns": found.conversation,
    }
    said = [f"{count} {reason}" for reason, count in reasons.items() if count]
    return ", ".join(said) or "the dataset has no traces"


def _of_dataset(
    source: DatasetPrompts,
    dataset: DatasetRef,
    datasets: str,
    scorer: ScorerName,
    apart: frozenset[str],
) -> Prompts:
    """Collect the different prompts of a dataset, in the order of their first traces."""
    first: dict[str, TraceRow] = {}
    answers: dict[str, set[str]] = {}
    repeated = conversation = 0
    with DatasetSource(datasets) as opened:
        manifest = opened.load_manifest(dataset.key)
        if manifest.build_id != dataset.build_id:
            raise DataError(
                f"dataset {dataset.key}: build_id is {manifest.build_id}, expected"
                f" {dataset.build_id} as planned; plan the run again"
            )
        for block in opened.iter_row_range(manifest, 0, manifest.trace_count):
            for row in block.rows:
                if _is_conversation(row):
                    conversation += 1
                    continue
                repeated += row.prompt in first
                first.setdefault(row.prompt, row)
                answers.setdefault(row.prompt, set()).add(row.final_answer)
    counts: Counter[str] = Counter()
    asked = _usable(first.values(), answers, scorer, apart, counts)
    items = tuple(islice(asked, source.limit))
    over_limit = len(first) - len(items) - counts.total()
    return Prompts(
        items, repeated=repeated, conversation=conversation, over_limit=over_limit, **counts
    )


def _is_conversation(row: TraceRow) -> bool:
    """Return whether the prompt of a trace means something only with what is before it."""
    return any(each is not UNSET for each in (row.system, row.messages, row.tools))


def _usable(
    rows: Iterable[TraceRow],
    answers: dict[str, set[str]],
    scorer: ScorerName,
    apart: frozenset[str],
    counts: Counter[str],
) -> Iterator[Item]:
    """Yield the items of the rows that can be asked, and count the others by reason."""
    for row in rows:
        item = _item_of(row)
        if row.prompt in apart:
            counts["apart"] += 1
        elif len(answers[row.prompt]) > 1:
            counts["ambiguous"] += 1
        elif item_problem(item, scorer) is not None:
            counts["unscorable"] += 1
        else:
            yield item


def _item_of(row: TraceRow) -> Item:
    raw = (row.meta or {}).get(CATEGORY)
    category = None if raw is None else msgspec.json.decode(raw)
    return Item(
        set=UNNAMED,
        id=row.id,
        prompt=row.prompt,
        expected_answer=row.final_answer,
        category=category if isinstance(category, str) and category else UNNAMED,
    )
