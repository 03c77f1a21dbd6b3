"""The prompts that a sample stage asks, from any of the sources of its spec."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tuneloop import resources
from tuneloop.artifacts.evaluation.eval_samples import Item
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
from tuneloop.traces.schema import prompt_key
from tuneloop.training.chat_drafts import split_turn
from tuneloop.training.prompt_templates import Recipe

log = logging.getLogger("tuneloop.stage")

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
    not_renderable: int = 0
    over_limit: int = 0


class ApartPrompts:
    """The prompts of eval sets, which are not asked.

    A system text makes no difference. A prompt of a set without earlier turns is apart wherever it
    is the last message of the user, as in the export's contamination check.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        """Remember the prompts of these items."""
        self._keys = {prompt_key(item.prompt, None, _messages_of(item)) for item in items}

    def __contains__(self, item: Item) -> bool:
        """Return whether a prompt is one of an eval set."""
        keys = {prompt_key(item.prompt), prompt_key(item.prompt, None, _messages_of(item))}
        return not self._keys.isdisjoint(keys)


def _messages_of(item: Item) -> Sequence[Any]:
    return () if item.messages is UNSET else item.messages


@dataclass(frozen=True)
class Rules:
    """What decides which prompts are asked."""

    recipe: Recipe
    """Prompt template of the run."""
    scorer: ScorerName
    """Scorer of prompts that name none."""
    apart: ApartPrompts
    not_renderable: Callable[[Item], str | None]
    """Returns why the model cannot be asked an item; None if it can."""


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
    rules: Rules,
    *,
    dataset: DatasetRef | None,
    datasets: str,
    sha256: str | None,
) -> Prompts:
    """Read the prompts of a planned run.

    Args:
        source: where they come from.
        rules: which of them are asked.
        dataset: the dataset, if they come from one.
        datasets: URL of the prefix or the trace store that holds it.
        sha256: digest of other prompts at planning time.

    Raises:
        DataError: the prompts were changed after the run was planned, or none is left to ask.
        InputMissing: the file of the prompts is gone.
    """
    counts: Counter[str] = Counter()
    if isinstance(source, DatasetPrompts):
        if dataset is None:
            raise DataError("sample.prompts: the dataset is not known; plan the run again")
        found = _of_dataset(source, dataset, datasets, rules, counts)
    else:
        stated = read_stated(source)
        if stated.sha256 != sha256:
            raise DataError(
                f"{_place(source)}: its prompts changed after the run was planned; plan the run"
                " again"
            )
        asked = _usable((item.to_item(UNNAMED) for item in stated.items), rules, counts)
        found = Prompts(tuple(asked), **counts)
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
        "are answered with calls of tools or in several messages": found.conversation,
        "cannot be written by the model's chat template": found.not_renderable,
    }
    said = [f"{count} {reason}" for reason, count in reasons.items() if count]
    return ", ".join(said) or "the dataset has no traces"


def _of_dataset(
    source: DatasetPrompts,
    dataset: DatasetRef,
    datasets: str,
    rules: Rules,
    counts: Counter[str],
) -> Prompts:
    """Collect the different prompts of a dataset, in the order of their first traces."""
    first: dict[str, Item] = {}
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
                if split_turn(row)[0]:
                    conversation += 1
                    continue
                key = _key_of(row)
                if key in first:
                    repeated += 1
                else:
                    first[key] = item_of_row(row, rules.recipe)
                answers.setdefault(key, set()).add(row.final_answer)
    ambiguous = {key for key, found in answers.items() if len(found) > 1}
    asked = _usable(first.values(), rules, counts, {first[key].id for key in ambiguous})
    items = tuple(islice(asked, source.limit))
    over_limit = len(first) - len(items) - counts.total()
    return Prompts(
        items, repeated=repeated, conversation=conversation, over_limit=over_limit, **counts
    )


def _usable(
    items: Iterable[Item],
    rules: Rules,
    counts: Counter[str],
    ambiguous: Container[str] = frozenset(),
) -> Iterator[Item]:
    """Yield the items that can be asked, and count the others by reason."""
    for item in items:
        if item in rules.apart:
            counts["apart"] += 1
        elif item.id in ambiguous:
            counts["ambiguous"] += 1
        elif item.scorer is None and item_problem(item, rules.scorer) is not None:
            counts["unscorable"] += 1
        elif (problem := rules.not_renderable(item)) is not None:
            if not counts["not_renderable"]:
                log.warning("prompts that the model cannot be asked are counted: %s", problem)
            counts["not_renderable"] += 1
        else:
            yield item


def _key_of(row: TraceRow) -> str:
    """Return what all traces of one prompt share."""
    system = None if row.system is UNSET else row.system
    return prompt_key(row.prompt, system, _json(row.messages))


def item_of_row(row: TraceRow, recipe: Recipe) -> Item:
    """Return the question of a trace; the expected answer is the trace's final answer."""
    category = _json((row.meta or {}).get(CATEGORY, UNSET))
    return Item(
        set=UNNAMED,
        id=row.id,
        prompt=row.prompt,
        system=row.system,
        messages=UNSET if row.messages is UNSET else tuple(_json(row.messages)),
        tools=UNSET if row.tools is UNSET else tuple(_json(row.tools)),
        bare_answer=True if recipe.is_bare(row) else UNSET,
        expected_answer=row.final_answer,
        category=category if isinstance(category, str) and category else UNNAMED,
    )


def _json(raw: msgspec.Raw | UnsetType) -> Any:
    """Decode a field of a row; None if it is not set."""
    return None if raw is UNSET else json.loads(bytes(raw))
