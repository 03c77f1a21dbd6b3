from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tuneloop.errors import DataError
from tuneloop.evaluation.gates.ledger import Attempt, alpha_of, attempts, register


def tried(artifacts: str, candidate: str, run_id: str = "run-1", base: str = "b") -> Attempt:
    return register(artifacts, base=base, eval_set="s", candidate=candidate, run_id=run_id)


def test_shares_of_all_candidates_add_up_to_alpha() -> None:
    assert alpha_of(1) == pytest.approx(0.0304, abs=1e-4)
    assert 0.0499 < sum(map(alpha_of, range(1, 100_000))) < 0.05
    assert alpha_of(3, 0.1) == 2 * alpha_of(3)


def test_candidates_are_numbered_and_a_rerun_adds_nothing(tmp_path: Path) -> None:
    artifacts = str(tmp_path)
    first, second = tried(artifacts, "a"), tried(artifacts, "é 🦊")
    assert (first.number, second.number) == (1, 2)
    assert tried(artifacts, "a", "another-run") == first
    assert tried(artifacts, "a", base="another base").number == 1
    assert [one.candidate for one in attempts(artifacts, base="b", eval_set="s")] == [
        "a",
        "é 🦊",
    ]
    assert attempts(artifacts, base="b", eval_set="unknown") == []


def race(artifacts: str, candidates: int) -> None:
    """Let writers try candidates three times each, all at the same time."""
    names = [f"candidate-{n % candidates}" for n in range(3 * candidates)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda name: tried(artifacts, name), names))
    listed = attempts(artifacts, base="b", eval_set="s")
    assert [one.number for one in listed] == list(range(1, candidates + 1))
    assert len({one.candidate for one in listed}) == candidates
    numbers = {one.candidate: one.number for one in listed}
    assert all(one.number == numbers[name] for one, name in zip(found, names, strict=True))


def test_writers_at_the_same_time_get_numbers_of_their_own(tmp_path: Path) -> None:
    race(str(tmp_path), 12)


def test_a_deleted_entry_does_not_give_its_number_to_somebody_else(tmp_path: Path) -> None:
    for name in "abc":
        tried(str(tmp_path), name)
    (entry,) = tmp_path.glob("candidates/*/000002.json")
    entry.unlink()
    assert tried(str(tmp_path), "d").number == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not an entry of the ledger"),
        (b"\xff\xfe", "not an entry of the ledger"),
        (b'{"number": 1}', "not an entry of the ledger"),
        (
            b'{"number":7,"base":"b","eval_set":"s","candidate":"a","run_id":"r"}',
            "holds the entry number 7",
        ),
    ],
)
def test_a_broken_entry_is_a_sentence(text: bytes, said: str, tmp_path: Path) -> None:
    tried(str(tmp_path), "a")
    (entry,) = tmp_path.glob("candidates/*/000001.json")
    entry.write_bytes(text)
    with pytest.raises(DataError, match=f"000001.json: {said}"):
        tried(str(tmp_path), "b")
