"""How sure a measured share is."""

from typing import TypeVar

import numpy as np

Values = TypeVar("Values", float, np.ndarray)
_Z = 1.959964
"""The normal distribution's 97.5% point."""


def wilson(share: Values, n: Values) -> tuple[Values, Values]:
    """95% interval of a share of `n` items (Wilson 1927), which says something even of few: 0 to 1 of none. NaN stays NaN; `n` is
    the effective number where items are weighted."""
    middle, half = n * share + _Z**2 / 2, _Z * np.sqrt(n * share * (1 - share) + _Z**2 / 4)
    low, high = (middle - half) / (n + _Z**2), (middle + half) / (n + _Z**2)
    return np.maximum(0, np.minimum(low, share)), np.minimum(1, np.maximum(high, share))  # rounding must not exclude 0, 1
