"""Other models in the place of XGBoost, for comparison: `stage2.model` names one. They see the same
rows and answer alike.

`logistic` is a multinomial regression on the same inputs; `neighbours` and `prototypes` need no
training: they add the votes of the nearest fitted photos, or the likeness to the mean of each
category, to stage 1's log-probabilities.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catalog.artifacts import atomic_path, sha256_file
from stage1_cnn.head import normalise
from stage2_xgb.evidence import Evidence
from stage2_xgb.items import Items
from stage2_xgb.reclassifier import inputs

_VOTE_WEIGHT, _MEAN_WEIGHT = 1.0, 10.0


@dataclass(frozen=True)
class Logistic:
    """Linear scores of standardised inputs, on top of stage 1's log-probabilities: mean and scale
    float32 [F], weight float32 [S, F], bias float32 [S]."""

    members: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def log_probs(self, items: Items, evidence: Evidence, margin: np.ndarray) -> np.ndarray:
        """Log-probabilities within the set, float32 [N, S]; as Reclassifier's, but that `margin` is
        not needed."""
        log_prob = items.log_probs(self.members)
        seen = (inputs(items, self.members, log_prob, evidence) - self.mean) / self.scale
        return normalise(np.nan_to_num(seen) @ self.weight.T + self.bias)


@dataclass(frozen=True)
class Likeness:
    """Stage 1's log-probabilities plus a multiple of one kind of evidence from every view."""

    members: np.ndarray
    kind: str
    weight: float

    def log_probs(self, items: Items, evidence: Evidence, margin: np.ndarray) -> np.ndarray:
        """Log-probabilities within the set, float32 [N, S]; `margin` as Reclassifier's."""
        log_prob = items.log_probs(self.members)
        pairs = evidence(items, np.tile(self.members, (len(items), 1)), log_prob)
        columns = [
            place for place, name in enumerate(evidence.names) if name.startswith(f"{self.kind}_")
        ]
        return normalise(margin + self.weight * np.nan_to_num(pairs[:, :, columns]).mean(axis=2))


def likeness(model: str, members: np.ndarray) -> Likeness:
    """The model `neighbours` or `prototypes` of a set."""
    return Likeness(
        members,
        *{"neighbours": ("vote", _VOTE_WEIGHT), "prototypes": ("class_mean", _MEAN_WEIGHT)}[model],
    )


def save_logistic(path: Path, arrays: dict[str, np.ndarray]) -> str:
    """Writes the arrays as an npz without objects, atomically; returns its sha256."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return sha256_file(path)


def load_logistic(path: Path, members: np.ndarray) -> Logistic:
    """Inverse of save_logistic. Raises OSError, ValueError or KeyError where the file is damaged."""
    with np.load(path, allow_pickle=False) as file:
        return Logistic(members, *(file[name] for name in ("mean", "scale", "weight", "bias")))
