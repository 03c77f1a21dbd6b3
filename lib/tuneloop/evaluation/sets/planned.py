"""Find the eval sets of a run when it is planned: their names, digests and sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from tuneloop import resources
from tuneloop.errors import DataError, InputMissing, SpecError
from tuneloop.evaluation.scorers.scoring import ScorerName, item_problem, scorer_of
from tuneloop.evaluation.scorers.user_file import UserScorer, is_user_file, load_user_scorer
from tuneloop.evaluation.sets.schema import EvalSetFile, prompts_sha256, read_eval_set
from tuneloop.specs.evaluation import EvalSetSpec, EvalSpec
from tuneloop.specs.stages import EvalSetRef
from tuneloop.storage import files


def read_sets(options: EvalSpec) -> tuple[EvalSetRef, ...]:
    """Read and validate all eval sets of a run, before training and not after it.

    Raises:
        InputMissing: a file is missing.
        DataError: a file has problems.
        SpecError: a scorer is unknown, or two sets have one name.
    """
    found = [_read(each, number, options) for number, each in enumerate(options.all_sets)]
    _check_names(found, options)
    return tuple(found)


def read_kept_apart(urls: Sequence[str], option: str) -> list[tuple[EvalSetRef, EvalSetFile]]:
    """Read and validate eval sets with which other prompts are compared.

    Args:
        urls: URLs of the sets.
        option: the option that names them, for messages.

    Raises:
        InputMissing: a file is missing.
        DataError: a file has problems.
    """
    found = []
    for url in urls:
        try:
            data = files.read(resources.input_url(url))
        except FileNotFoundError as e:
            raise InputMissing(
                f"{url}: missing, expected an eval set; put it there, or change {option}"
            ) from e
        file = read_eval_set(data, url)
        found.append((_ref(file.header.name if file.header else stem(url), url, data, file), file))
    return found


def _ref(
    name: str, url: str, data: bytes, file: EvalSetFile, scorer_sha256: str | None = None
) -> EvalSetRef:
    return EvalSetRef(
        name=name,
        stated=file.header.name if file.header else None,
        version=file.header.version if file.header else None,
        url=url,
        sha256=hashlib.sha256(data).hexdigest(),
        prompts_sha256=prompts_sha256(file.items),
        scorer_sha256=scorer_sha256,
        items=len(file.items),
    )


def _read(each: EvalSetSpec, number: int, options: EvalSpec) -> EvalSetRef:
    scorer = load_scorer(each.scorer, options.option_of(number, "scorer"))
    option = options.option_of(number, "url")
    what = option.removeprefix("eval.").replace("_", " ") if options.eval_set else "an eval set"
    try:
        data = files.read(resources.input_url(each.url))
    except FileNotFoundError as e:
        article = "" if what.startswith("an ") else "the "
        raise InputMissing(
            f"{each.url}: missing, expected {article}{what}; put it there, or change {option}"
        ) from e
    file = read_eval_set(data, each.url)
    for item in file.items:
        problem = item_problem(item.to_item(""), scorer) if item.scorer is None else None
        if problem is not None:
            raise DataError(f"{each.url}: item {item.id}: {problem}; correct it, or its scorer")
    sha256 = scorer.sha256 if isinstance(scorer, UserScorer) else None
    return _ref(set_name(each, file), each.url, data, file, sha256)


def load_scorer(scorer: str | dict[str, Any], option: str) -> ScorerName:
    """Check the scorer of a set; load it if it is a Python file.

    Args:
        scorer: its name, an object with `kind` and options, or the place of a file.
        option: the option that names it, for messages.

    Raises:
        InputMissing: there is no such file.
        SpecError: the scorer is unknown, an option is not valid, or the file has no scorer.
    """
    if not isinstance(scorer, str) or not is_user_file(scorer):
        scorer_of(scorer, option)
        return scorer
    try:
        data = files.read(resources.input_url(scorer))
    except FileNotFoundError as e:
        raise InputMissing(
            f"{scorer}: missing, expected a scorer; put it there, or change {option}"
        ) from e
    return load_user_scorer(data, scorer)


def set_name(each: EvalSetSpec, file: EvalSetFile) -> str:
    """Return the name of a set in a run: the spec's, the file's own, or that of the file."""
    if each.name is not None:
        return each.name
    return file.header.name if file.header else stem(each.url)


def stem(url: str) -> str:
    """Return the name of a file without its ending."""
    name = url.rsplit("/", 1)[-1]
    return name.removesuffix(".jsonl") or name


def _check_names(found: Sequence[EvalSetRef], options: EvalSpec) -> None:
    numbers: dict[str, int] = {}
    for number, each in enumerate(found):
        first = numbers.setdefault(each.name, number)
        if first != number:
            places = " and ".join(options.option_of(n, "url") for n in (first, number))
            raise SpecError(
                f"{places}: both sets have the name {each.name!r}, expected unique names; write the"
                " sets as entries of eval.sets, and give one of them another `name`"
            )
