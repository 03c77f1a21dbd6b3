from __future__ import annotations

from tests.evaluation.gates.test_ledger import race
from tests.objectstore import BUCKET, used_by_this_process


def test_writers_at_the_same_time_get_numbers_of_their_own() -> None:
    with used_by_this_process("gs"):
        race(f"gs://{BUCKET}/artifacts", 5)
