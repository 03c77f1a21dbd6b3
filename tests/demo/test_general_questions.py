from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tuneloop.demo.general_questions import (
    GUARDED_KINDS,
    OPEN_PROMPTS,
    guard_items,
    is_guarded,
    questions,
    replay_prompts,
)
from tuneloop.evaluation.sets.schema import dump_eval_set, parse_eval_set


@pytest.mark.golden
def test_the_guard_set_is_the_tables(golden: Callable[[str, str], None]) -> None:
    golden("../../eval/guard_v1.jsonl", dump_eval_set(guard_items()).decode())


def test_the_guard_set_is_valid_and_disjoint_from_replay() -> None:
    items = parse_eval_set(dump_eval_set(guard_items()), "guard")
    guarded = {item.prompt for item in items}
    replayed = set(replay_prompts())
    assert len(guarded) >= 150
    assert len(replayed) >= 150
    assert not guarded & replayed
    assert guarded | replayed == {q.prompt for q in questions()} | set(OPEN_PROMPTS)


def test_some_kinds_are_guarded_as_a_whole() -> None:
    kinds = Counter(question.kind for question in questions() if not is_guarded(question))
    assert not set(GUARDED_KINDS) & set(kinds)
    assert set(GUARDED_KINDS) <= {question.kind for question in questions()}
    assert all(count >= 2 for count in kinds.values())


def test_answers_are_single_spellings() -> None:
    for question in questions():
        assert question.answers
        for answer in question.answers:
            assert answer == answer.strip().casefold()
            assert ";" not in answer
