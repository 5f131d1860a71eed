"""The head of a view that is no network: a logistic regression on its vectors, fitted on the train
split alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from sklearn.linear_model import LogisticRegression

from catalog.arithmetic import one_blas_thread
from catalog.artifacts import atomic_path, require_same
from catalog.errors import ArtifactError, ShelfsortError
from stage1_cnn.head import Head

_CELLS = 2**28
"""Most rows x classes: the fit holds some arrays of this size."""
_ABSENT = -30.0
"""Bias of a class without a row."""


def sample(rows: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """As many of `rows`, ascending, as a head of so many classes is fitted on: all of them but for
    very large catalogues."""
    most = min(len(rows), _CELLS // classes)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


@one_blas_thread()
def fit_head(features: np.ndarray, class_index: np.ndarray, classes: int) -> Head:
    """A head for features [N, D] of labelled rows. Raises ShelfsortError where these are of fewer
    than two classes."""
    present = np.unique(class_index)
    if len(present) < 2:
        raise ShelfsortError(
            f"a view's head needs images of two categories in the train split, found {len(present)}"
        )
    rounded = features.astype(np.float16).astype(np.float32)  # as the head will meet them
    scale = (
        float(np.sqrt(np.square(rounded).sum(axis=1).mean())) or 1.0
    )  # the penalty is then the same for vectors of any length
    model = LogisticRegression(max_iter=500).fit(rounded / scale, class_index)
    weight, bias = model.coef_, model.intercept_
    if len(present) == 2:  # of two classes there is one vector, for the second
        weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0, bias[0]])
    head = Head(
        np.zeros((classes, features.shape[1]), dtype=np.float32),
        np.full(classes, _ABSENT, dtype=np.float32),
    )
    head.weight[present], head.bias[present] = weight / scale, bias
    return head


def save_head(path: Path, head: Head, made_from: Mapping[str, Any]) -> None:
    """Writes a head, atomically, with what it was made from."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, weight=head.weight, bias=head.bias, made_from=json.dumps(made_from))


def load_head(path: Path, made_from: Mapping[str, Any]) -> Head:
    """Inverse of save_head. Raises ArtifactError where the file is missing, damaged, or made from
    something else."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head, found = (
                Head(arrays["weight"], arrays["bias"]),
                json.loads(str(arrays["made_from"])),
            )
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ArtifactError(path, f"can't be read: {error}", "features") from error
    require_same(path, made_from, found, "features")
    return head
