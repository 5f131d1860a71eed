"""The expert on catalogue columns: a logistic regression on one-hot codes."""

from dataclasses import dataclass

import numpy as np

from stage2_xgb.experts import Columns, LinearExpert, OneHot
from stage2_xgb.logistic import fit_by_fold, fit_logistic


@dataclass(frozen=True)
class ColumnRows:
    """Labelled rows that have columns: codes float32 [N, M], classes [N], and folds [N] (-1 if all
    folds know the row)."""

    columns: Columns
    codes: np.ndarray
    class_index: np.ndarray
    fold: np.ndarray

    @property
    def inputs(self) -> OneHot:
        """What the expert sees."""
        return OneHot(self.columns.sizes)

    def fit(self, classes: int) -> LinearExpert:
        """Fits on all rows."""
        return fit_logistic(self.inputs(self.codes), self.class_index, classes, self.inputs)

    def fit_by_fold(self, folds: int, classes: int) -> list[LinearExpert]:
        """One fit for each fold, of all rows but its own, and at the end one of all rows."""
        x = self.inputs(self.codes)
        return fit_by_fold(x, self.class_index, self.fold, folds, classes, self.inputs)
