"""Confusion sets: for each category c, the categories whose items stage 1 takes for c. One reclassifier chooses within each
set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from catalog.artifacts import atomic_path
from catalog.errors import ShelfsortError
from catalog.taxonomy import Taxonomy
from stage2_xgb.config import ConfusionConfig
from stage2_xgb.items import Items


@dataclass(frozen=True)
class ConfusionSet:
    """What may hide behind the prediction `class_index`: members int32 [S], the class itself first, then by falling count."""

    class_index: int
    members: np.ndarray
    counts: np.ndarray
    """Items of each member that were taken for the class, int64 [S]; the first counts those that it rightly holds."""
    errors: int
    """Items of other classes that were taken for the class."""

    @property
    def mendable(self) -> int:
        """Errors whose true class is a member: the most that a reclassifier could mend."""
        return int(self.counts[1:].sum())


def count_confusions(predicted: np.ndarray, true: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted class, true class and number of items of every pair that occurs, sorted by predicted, then true."""
    pair, number = np.unique(predicted.astype(np.int64) * classes + true, return_counts=True)
    return pair // classes, pair % classes, number


def mine(items: Items, classes: int, config: ConfusionConfig) -> list[ConfusionSet]:
    """The confusion sets of all categories that have one, by class index.

    `heldout` counts on reserve and val_a, which stage 1 never saw. `published` takes the pairs with at least `min_count` items on
    train and again on val_a. Raises ShelfsortError where there is nothing to count on.
    """
    heldout = items.on("reserve", "val_a")
    if not heldout.any():
        raise ShelfsortError("no image of reserve or val_a to find confusions on; the catalogue has too few products")
    counted = items.on("val_a") if config.rule == "published" else heldout
    predicted, true, number = count_confusions(items.predicted[counted], items.class_index[counted], classes)
    often = number >= config.min_count
    if config.rule == "published":
        seen = items.on("train")
        seen_predicted, seen_true, seen_number = count_confusions(items.predicted[seen], items.class_index[seen], classes)
        pairs = (seen_predicted * classes + seen_true)[seen_number >= config.min_count]
        often &= np.isin(predicted * classes + true, pairs)
    starts = np.searchsorted(predicted, np.arange(classes + 1))
    spans = (slice(starts[c], starts[c + 1]) for c in range(classes))
    sets = (_set_of(c, true[span], number[span], often[span], config.max_size) for c, span in enumerate(spans))
    return [found for found in sets if len(found.members) > 1]


def _set_of(class_index: int, true: np.ndarray, number: np.ndarray, often: np.ndarray, max_size: int) -> ConfusionSet:
    own = true == class_index
    others = np.flatnonzero(often & ~own)
    others = others[np.lexsort((true[others], -number[others]))][: max_size - 1]
    members = np.concatenate([[class_index], true[others]]).astype(np.int32)
    counts = np.concatenate([[number[own].sum()], number[others]]).astype(np.int64)
    return ConfusionSet(class_index, members, counts, int(number[~own].sum()))


def save_sets(path: Path, sets: Sequence[ConfusionSet], taxonomy: Taxonomy) -> None:
    """Writes sets.parquet."""
    columns = {
        "category_id": [int(taxonomy.category_ids[s.class_index]) for s in sets],
        "class_index": [s.class_index for s in sets],
        "members": [s.members.tolist() for s in sets],
        "member_counts": [s.counts.tolist() for s in sets],
        "errors": [s.errors for s in sets],
        "mendable": [s.mendable for s in sets],
    }
    kinds = {"members": pyarrow.list_(pyarrow.int32()), "member_counts": pyarrow.list_(pyarrow.int64())}
    fields = [(name, kinds.get(name, pyarrow.int64())) for name in columns]
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns, schema=pyarrow.schema(fields)), temporary)
