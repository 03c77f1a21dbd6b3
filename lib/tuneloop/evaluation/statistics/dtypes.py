"""Types of arrays. `arrays.py`, `sequential.py` and the gates need numpy alone, which CI has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]
Counts = NDArray[np.int64]
