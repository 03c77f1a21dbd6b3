"""The runbook has an entry for every state, with the exit codes that the diagnosis really gives."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.k8s.diagnosis import recorded
from tests.k8s.diagnosis.test_diagnose import CASES
from tuneloop.artifacts.evaluation.verdict import State
from tuneloop.k8s.diagnosis.exit_codes import MEANINGS, verb_code
from tuneloop.k8s.diagnosis.runbook import RUNBOOK

DIAGNOSED = [
    *((verdict.state, verdict.exit_code) for verdict, *_ in CASES.values()),
    *((found.state, found.exit_code) for found in recorded.expectations().values()),
    *((meaning.state, verb_code(code)) for code, meaning in MEANINGS.items()),
]


def test_every_state_has_an_entry() -> None:
    assert set(RUNBOOK) == set(get_args(State))


@pytest.mark.parametrize("state", RUNBOOK)
def test_an_entry_is_complete(state: State) -> None:
    entry = RUNBOOK[state]
    for text in (entry.meaning, entry.evidence, entry.automatic, *entry.steps):
        assert text == " ".join(text.split())
        assert text.endswith(".")
    if any(entry.exit_codes):
        assert entry.steps, "a failure needs a person"


@pytest.mark.parametrize("state", RUNBOOK)
def test_the_exit_codes_are_those_of_the_diagnosis(state: State) -> None:
    found = {code for other, code in DIAGNOSED if other == state and code is not None}
    assert found <= set(RUNBOOK[state].exit_codes)
