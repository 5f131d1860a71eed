"""Confusion sets: for each category c, the categories that may hide behind the answer c. One
reclassifier chooses within each set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from scipy.sparse import csr_array

from catalog.errors import ShelfsortError
from catalog.tables import write_table
from catalog.taxonomy import Taxonomy
from stage2_xgb.config import ConfusionConfig
from stage2_xgb.expert_rows import UNSEEN
from stage2_xgb.items import Items


@dataclass(frozen=True)
class ConfusionSet:
    """What may hide behind the prediction `class_index`: members int32 [S], the class itself first,
    then the commonest."""

    class_index: int
    members: np.ndarray
    counts: np.ndarray
    """Items of each member that were taken for the class, int64 [S]; the first counts those that it
    rightly holds."""
    errors: int
    """Items of other classes that were taken for the class."""

    @property
    def mendable(self) -> int:
        """Errors whose true class is a member: the most that a reclassifier could fix."""
        return int(self.counts[1:].sum())


def count_confusions(predicted: np.ndarray, other: np.ndarray, classes: int) -> csr_array:
    """How many items were taken for one class (row) while another (column) stood beside it: int64,
    sparse [K, K]."""
    return csr_array(
        (np.ones(len(other), dtype=np.int64), (predicted, other)), shape=(classes, classes)
    )


def find_confusion_sets(items: Items, classes: int, config: ConfusionConfig) -> list[ConfusionSet]:
    """The confusion sets of all categories that have one, by class index.

    `heldout` counts mistakes on what stage 1 never saw: reserve, val_a and extra. `published` takes
    the pairs with at least `min_count` mistakes on train and again on val_a. `candidates` counts on
    the same as `heldout` what is among the `top` likeliest classes of items taken for c, mistaken
    or not. Raises ShelfsortError if there is nothing to count on.
    """
    heldout = items.on(*UNSEEN)
    if not heldout.any():
        problem = "expected images of reserve or val_a to find confusions on, found none"
        raise ShelfsortError(f"{problem}; ingest a dump with more products")
    counted = items.on("val_a") if config.rule == "published" else heldout
    hidden = mistakes = count_confusions(
        items.predicted[counted], items.class_index[counted], classes
    )
    if config.rule == "published":
        seen = items.on("train")
        hidden = mistakes * (
            count_confusions(items.predicted[seen], items.class_index[seen], classes)
            >= config.min_count
        )
    if config.rule == "candidates":
        likely = items.top_class[counted, : config.top]
        hidden = count_confusions(np.repeat(likely[:, 0], likely.shape[1]), likely.ravel(), classes)
    sets = (_set_of(c, hidden, mistakes, config) for c in range(classes))
    return [candidate for candidate in sets if len(candidate.members) > 1]


def _set_of(
    class_index: int, hidden: csr_array, mistakes: csr_array, config: ConfusionConfig
) -> ConfusionSet:
    span = slice(*hidden.indptr[class_index : class_index + 2])
    others, number = hidden.indices[span], hidden.data[span]
    often = (number >= config.min_count) & (others != class_index)
    others, number = others[often], number[often]
    others = others[np.lexsort((others, -number))][: config.max_size - 1]
    members = np.append(class_index, others).astype(np.int32)
    taken = mistakes[[class_index]].toarray()[0]
    return ConfusionSet(class_index, members, taken[members], int(taken.sum() - taken[class_index]))


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
    list_types = {
        "members": pyarrow.list_(pyarrow.int32()),
        "member_counts": pyarrow.list_(pyarrow.int64()),
    }
    fields = [(name, list_types.get(name, pyarrow.int64())) for name in columns]
    write_table(path, pyarrow.table(columns, schema=pyarrow.schema(fields)))
