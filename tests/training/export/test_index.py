from __future__ import annotations

from array import array

import pytest

from tuneloop.errors import DataError
from tuneloop.training.export.index import dump_offsets, load_offsets


def test_offsets_are_read_back() -> None:
    offsets = array("Q", [0, 7, 2**40])
    data = dump_offsets(offsets)
    assert data[8:16] == b"\x07" + bytes(7)
    assert load_offsets(data, "x") == offsets
    for torn in (b"", data[:-1]):
        with pytest.raises(
            DataError, match="expected a positive multiple of 8; export the dataset again"
        ):
            load_offsets(torn, "x.u64")
