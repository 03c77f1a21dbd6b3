from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError
from tuneloop.training.export.index import dump_offsets, load_offsets
from tuneloop.training.sft.batches import epoch_order

IDS = st.lists(st.text(max_size=6), unique=True, max_size=20)


@given(ids=IDS, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 99))
def test_an_order_holds_every_example_once(ids: list[str], seed: int, epoch: int) -> None:
    assert sorted(epoch_order(ids, seed=seed, epoch=epoch)) == list(range(len(ids)))


@given(ids=IDS, data=st.data())
def test_an_order_depends_on_the_ids_alone_and_not_on_where_they_stand(
    ids: list[str], data: st.DataObject
) -> None:
    moved = data.draw(st.permutations(ids))
    subset = [i for i in moved if data.draw(st.booleans())]
    order = [ids[at] for at in epoch_order(ids, seed=1, epoch=2)]
    assert [subset[at] for at in epoch_order(subset, seed=1, epoch=2)] == [
        i for i in order if i in subset
    ]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    ids = [str(n) for n in range(20)]
    orders = [epoch_order(ids, seed=s, epoch=e) for s in (1, 2, 11) for e in (1, 2)]
    assert len({tuple(order) for order in orders}) == 6


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
