"""Stage 1's last layer in numpy: logits are computed from the stored features, in float32, in evaluation and scoring alike."""

from typing import NamedTuple

import numpy as np


class Head(NamedTuple):
    """The linear layer of a network: weight float32 [K, D], bias float32 [K]."""

    weight: np.ndarray
    bias: np.ndarray

    def log_probs(self, features: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 [N, K] of features [N, D]; these are rounded to float16 first, as the file stores them."""
        rounded = features.astype(np.float16).astype(np.float32)
        return normalise(rounded @ self.weight.T + self.bias)


def normalise(scores: np.ndarray) -> np.ndarray:
    """Scores [N, K] as log-probabilities of the same dtype: each row's exponentials sum to 1."""
    shifted = scores - scores.max(axis=1, keepdims=True)  # scipy's logsumexp takes five times as long on thousands of classes
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
