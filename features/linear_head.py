"""The head of a view without a network: a logistic regression on its vectors, fitted on the train
split only."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from catalog.arithmetic import one_blas_thread
from catalog.arrays import read_npz, write_npz
from catalog.artifacts import require_same
from catalog.errors import ArtifactError, ShelfsortError
from stage1_cnn.head import Head

_CELLS = 2**28
"""Limit of rows x classes, because the fit holds several arrays of this size."""
_ABSENT = -30.0
"""Bias of a class without rows."""


def sample(rows: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """The `rows` that a head is fitted on, ascending: all of them, except in very large
    catalogues."""
    most = min(len(rows), _CELLS // classes)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


@one_blas_thread()
def fit_head(features: np.ndarray, class_index: np.ndarray, classes: int) -> Head:
    """A head for features [N, D] of labelled rows. Raises ShelfsortError if they have fewer than
    two classes."""
    present = np.unique(class_index)
    if len(present) < 2:
        raise ShelfsortError(
            f"a view's head needs images of two categories in the train split, found {len(present)}"
        )
    rounded = features.astype(np.float16).astype(np.float32)  # as features.h5 stores them
    # Scaled to a mean square length of 1, so that the penalty does not depend on the length.
    scale = float(np.sqrt(np.square(rounded).sum(axis=1).mean())) or 1.0
    model = LogisticRegression(max_iter=500).fit(rounded / scale, class_index)
    weight, bias = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn then has a single vector, for the second class
        weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0, bias[0]])
    head = Head(
        np.zeros((classes, features.shape[1]), dtype=np.float32),
        np.full(classes, _ABSENT, dtype=np.float32),
    )
    head.weight[present], head.bias[present] = weight / scale, bias
    return head


def save_head(path: Path, head: Head, made_from: Mapping[str, Any]) -> None:
    """Writes a head and its origin, atomically."""
    origin = np.array(json.dumps(made_from))
    write_npz(path, weight=head.weight, bias=head.bias, made_from=origin)


def load_head(path: Path, made_from: Mapping[str, Any]) -> Head:
    """Inverse of save_head. Raises ArtifactError if the file is missing, damaged, or made from
    something else."""
    arrays = read_npz(path, "features")
    try:
        head, origin = Head(arrays["weight"], arrays["bias"]), json.loads(str(arrays["made_from"]))
    except (KeyError, ValueError) as error:
        raise ArtifactError(path, f"not the head of a view ({error})", "features") from error
    require_same(path, made_from, origin, "features")
    return head
