"""MinHash signatures of examples, divided into bands; near-duplicates share at least one band.

The sketch comes from rensa and the parameters from FineWeb: runs of 5 words, 14 bands of 8 values.
Two examples that share 80 % of their runs are found with a probability of about 90 %, and those
that share 50 % with about 5 %. Bands are compared over the outcome tables of all shards.
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
    """Compute one 64-bit key per band; examples that share a key count as near-duplicates.

    Args:
        words: words of an example's prompt and response, from `words_of`.
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
