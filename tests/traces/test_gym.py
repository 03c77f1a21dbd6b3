from __future__ import annotations

from tests.builders import Invoke


def test_without_reasoning_gym_one_sentence_says_what_to_install(tuneloop: Invoke) -> None:
    """`make check-tasks` tests the tasks, in an environment that has the package."""
    for verb in ("traces", "eval-sets"):
        code, _, error = tuneloop(verb, "generate", "chain_sum")
        assert code == 2
        assert "not installed, expected it; install requirements/tasks.txt" in error
