"""Grid search for the reclassifiers, as published (depth x rounds x learning rate), cross-validated
by product on the rows that stage 1 never saw: reserve, val_a and extra. Neither val_b nor test is
read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from joblib import Parallel, delayed

from catalog.arithmetic import one_blas_thread, pin_blas
from catalog.progress import progress
from stage1_cnn.head import log_softmax
from stage2_xgb.config import Stage2Config
from stage2_xgb.confusion import ConfusionSet
from stage2_xgb.crossfit import folds
from stage2_xgb.expert_rows import UNSEEN
from stage2_xgb.reclassifier import inputs
from stage2_xgb.train_reclassifier import RowPicker, fit_booster

DEPTHS, ROUNDS, RATES = (1, 2, 3), (5, 10, 25, 50), (0.1, 0.3, 0.9)
FOLDS = 5


@dataclass(frozen=True)
class Trial:
    """One point of the grid: held-out items behind a confusion set, those right before and by
    the reclassifiers."""

    max_depth: int
    n_estimators: int
    learning_rate: float
    items: int
    before: int
    after: int

    @property
    def gain(self) -> float:
        """Change of top-1 among these items."""
        return (self.after - self.before) / max(self.items, 1)


@one_blas_thread()
def search(
    sets: Sequence[ConfusionSet], picker: RowPicker, config: Stage2Config, jobs: int
) -> list[Trial]:
    """Every point of the grid, the best first."""
    grid = list(product(DEPTHS, RATES))
    tasks = [(confusion_set, depth, rate) for confusion_set in sets for depth, rate in grid]
    results = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_trial)(picker, *task, config) for task in tasks
    )
    total: dict[tuple[int, float], np.ndarray] = {
        point: np.zeros((len(ROUNDS), 3), dtype=np.int64) for point in grid
    }
    with progress(len(tasks), "grid", "model") as bar:
        for (_, depth, rate), counts in zip(tasks, results, strict=True):
            total[depth, rate] += counts
            bar.update()
    trials = [
        Trial(depth, rounds, rate, *total[depth, rate][number].tolist())
        for depth, rate in grid
        for number, rounds in enumerate(ROUNDS)
    ]
    return sorted(trials, key=lambda trial: -trial.gain)


def _trial(
    picker: RowPicker, confusion_set: ConfusionSet, depth: int, rate: float, config: Stage2Config
) -> np.ndarray:
    """Items, right before and right after for each number of rounds, int64 [R, 3], over all folds
    of one set; runs in a worker process."""
    pin_blas()
    update = {"max_depth": depth, "learning_rate": rate, "n_estimators": max(ROUNDS)}
    config = config.model_copy(update={"booster": config.booster.model_copy(update=update)})
    counts = np.zeros((len(ROUNDS), 3), dtype=np.int64)
    for train, test in _folds(picker, confusion_set):
        booster = fit_booster(picker.rows(confusion_set.members, train), config, picker.columns)
        if booster is None or not len(test):
            continue
        items = picker.items[test]
        log_prob = items.log_probs(confusion_set.members)
        margin = log_prob if config.base_margin else np.zeros_like(log_prob)
        seen = inputs(items, log_prob if config.base_margin else None)
        right = confusion_set.members[None, :] == items.class_index[:, None]
        rows = np.arange(len(test))
        for number, rounds in enumerate(ROUNDS):
            scores = booster.inplace_predict(
                seen, iteration_range=(0, rounds), base_margin=margin, predict_type="margin"
            )
            after = right[rows, log_softmax(scores.reshape(margin.shape)).argmax(axis=1)].sum()
            counts[number] += (len(test), right[rows, log_prob.argmax(axis=1)].sum(), after)
    return counts


def _folds(
    picker: RowPicker, confusion_set: ConfusionSet
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mask of the rows to learn from, and the held-out rows that the pool takes for the set's
    category, fold by fold."""
    fold = folds(picker.items.product_id, FOLDS, "grid folds", picker.config.seed)
    unseen = picker.items.on(*UNSEEN) & (picker.items.predicted == confusion_set.class_index)
    for number in range(FOLDS):
        yield fold != number, np.flatnonzero(unseen & (fold == number))
