from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.evaluation.scorers import cases
from tests.evaluation.scorers.cases import Case
from tests.evaluation.scorers.test_scoring import item, parse
from tuneloop.evaluation.scorers.scoring import item_problem, score_text

FAST = (
    *cases.EXACT,
    *cases.NUMERIC,
    *cases.CHOICE,
    *cases.CONTAINS,
    *cases.PATTERNS,
    *cases.SCHEMAS,
)


def scored(case: Case) -> Iterator[tuple[str, str, str]]:
    """Yield each answer of a case with its state and the state that is right."""
    asked = item(
        case.expected, *case.accepted, scorer=case.scorer, **{"prompt": case.prompt, **case.keys}
    )
    for right, answers in (("correct", case.right), ("wrong", case.wrong)):
        for answer in answers:
            strict, _ = score_text(f"Answer: {answer}", asked, "exact", parse=parse)
            found = strict.state
            if right == "wrong" and not answer.strip():
                found = "wrong" if found == "no_answer" else found
            yield answer, found, right


def name(case: Case) -> str:
    kind = case.scorer if isinstance(case.scorer, str) else case.scorer["kind"]
    return f"{kind}-{case.expected}".encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("case", [*FAST, *cases.MATH], ids=name)
def test_answers_are_judged_as_by_hand(case: Case) -> None:
    mistakes = [
        f"{answer!r} is {found}, {right} by hand"
        for answer, found, right in scored(case)
        if found != right
    ]
    assert not mistakes, "\n".join(mistakes)


@pytest.mark.parametrize("case", FAST, ids=name)
def test_the_items_of_all_cases_can_be_scored(case: Case) -> None:
    asked = item(case.expected, *case.accepted, scorer=case.scorer, prompt=case.prompt)
    assert item_problem(asked, "exact") is None


def test_there_are_at_least_300_cases_decided_by_hand() -> None:
    assert sum(len(case.right) + len(case.wrong) for case in (*FAST, *cases.MATH)) >= 600
