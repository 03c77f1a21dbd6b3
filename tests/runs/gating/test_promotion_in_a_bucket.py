"""Aliases in object stores, whose conditional writes decide who is first."""

from __future__ import annotations

import pytest

from tests.objectstore import BUCKET, used_by_this_process
from tests.runs.gating.test_promotion import race


@pytest.mark.parametrize("protocol", ["gs", "s3"])
def test_of_many_promoters_at_once_each_other_one_is_told(protocol: str) -> None:
    with used_by_this_process(protocol):
        race(f"{protocol}://{BUCKET}/artifacts", 4)
