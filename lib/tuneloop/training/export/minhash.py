"""MinHash signatures of examples, cut into bands: near-duplicates share one.

One rule: sketch from rensa, setting from FineWeb (runs of 5 words, 14 bands of 8 values), so that
two examples that share four fifths of their runs are found nine times in ten, and those that
share half one time in twenty. Bands are compared over the outcome tables of all shards.
"""

from __future__ import annotations

import hashlib
import sys
from array import array

from rensa import RMinHash

SHINGLE_WORDS = 5
BANDS = 14
BAND_VALUES = 8
_SEED = 1
_BAND_BYTES = 4 * BAND_VALUES


def band_keys(words: bytes) -> tuple[int, ...]:
    """One 64-bit key a band; two examples that share one are taken for near-duplicates.

    Args:
        words: of an example, prompt and response.
    """
    parts = words.split(b" ")
    runs = range(max(1, len(parts) - SHINGLE_WORDS + 1))
    sketch = RMinHash(num_perm=BANDS * BAND_VALUES, seed=_SEED)
    sketch.update([b" ".join(parts[at : at + SHINGLE_WORDS]) for at in runs])
    values = array("I", sketch.digest())
    if sys.byteorder == "big":
        values.byteswap()
    data = values.tobytes()
    return tuple(
        int.from_bytes(hashlib.blake2b(data[at : at + _BAND_BYTES], digest_size=8).digest(), "big")
        for at in range(0, len(data), _BAND_BYTES)
    )
