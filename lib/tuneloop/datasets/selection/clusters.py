"""Clusters of near-duplicates: rows that are linked by equal MinHash bands, directly or not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def find_clusters(bands: npt.NDArray[np.uint64]) -> Integers:
    """Number the connected components of the rows that share a band.

    Each row has a label, the number of a row of its cluster. In each round, every row and the row
    that its label names take the smallest label of those that it shares a band with, and then the
    label of their label, until nothing changes. This needs few rounds even for long chains: it is
    the algorithm FastSV (Zhang, Azad and Hu, SIAM PP 2020).

    Args:
        bands: keys of bands, shape (rows, bands). Keys are only compared within a column.

    Returns:
        The smallest row number of each row's cluster, shape (rows,).
    """
    links = [link for column in bands.T if (link := _link(column)) is not None]
    labels = np.arange(len(bands))
    while True:
        before = labels.copy()
        for members, starts, sizes in links:
            own = labels[members]
            smallest = np.repeat(np.minimum.reduceat(own, starts), sizes)
            np.minimum.at(labels, own, smallest)
            labels[members] = np.minimum(labels[members], smallest)
            labels = labels[labels]
        if np.array_equal(before, labels):
            return labels


def _link(column: npt.NDArray[np.uint64]) -> tuple[Integers, Integers, Integers] | None:
    """Return the rows with repeated keys of a band, group after group, with starts and sizes."""
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    is_first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(column)))
    repeated = sizes > 1
    if not repeated.any():
        return None
    sizes = sizes[repeated]
    members = order[np.repeat(repeated, np.diff(np.append(starts, len(column))))]
    return members, np.cumsum(sizes) - sizes, sizes


def first_of_groups(
    groups: Integers, count: int, preference: npt.NDArray[np.float64] | None = None
) -> npt.NDArray[np.bool_]:
    """Mark the first rows of each group.

    Args:
        groups: group of each row, shape (rows,), with the rows in order.
        count: maximum number of rows per group.
        preference: rows with larger numbers come first, shape (rows,); rows with equal numbers keep
            their order. None keeps the order of all rows.

    Returns:
        Whether each row is among the first of its group, shape (rows,).
    """
    keys = (groups,) if preference is None else (-preference, groups)
    order = np.lexsort(keys)
    ordered = groups[order]
    is_first = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(order) else ordered
    starts = np.flatnonzero(is_first)
    places = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    kept = np.empty(len(order), np.bool_)
    kept[order] = places < count
    return kept
