"""Stage 1's last layer in numpy: evaluation and scoring both compute logits in float32 from the
features as they are stored."""

from typing import NamedTuple

import numpy as np

_CACHED = 2**16
"""Scores per block: as many as stay in the processor's cache."""


class Head(NamedTuple):
    """The last layer of a network, linear: weight float32 [K, D], bias float32 [K]."""

    weight: np.ndarray
    bias: np.ndarray

    def log_probs(self, features: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 [N, K] of features [N, D]; these are rounded to float16 first,
        as the file stores them."""
        rounded = features.astype(np.float16).astype(np.float32)
        return log_softmax(rounded @ self.weight.T + self.bias)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Scores [N, K] as log-probabilities of the same dtype: each row's exponentials sum to 1.
    scipy's takes five times as long on thousands of classes."""
    out = np.empty_like(scores)
    rows = max(1, _CACHED // max(scores.shape[1], 1))
    for start in range(0, len(scores), rows):
        block, into = scores[start : start + rows], out[start : start + rows]
        np.subtract(block, block.max(axis=1, keepdims=True), out=into)
        into -= np.log(np.exp(into).sum(axis=1, keepdims=True))
    return out
