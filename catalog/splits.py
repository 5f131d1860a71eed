"""Which products are learnt from: splits by a keyed hash of the product id, and caps as bottom-k
samples by the same hash.

Pure functions on arrays; nothing depends on the order of the dump, on workers or on restarts. Every
other sample of products is drawn by `sample_hash`, under a key of its own purpose: under the
splits' key, a split is a range of the hash, and a sample of it by the same hash could be all of it,
or nothing.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from catalog.arrays import mix64, splitmix64, starts_group

DEALT = ("train", "reserve", "val_a", "val_b", "test")
"""Splits that new products are dealt to."""
EXTRA = "extra"
"""What the cap of train cuts, up to a cap of its own: fitted by stage 2's experts, never by
stage 1."""
SPLITS = (*DEALT, EXTRA)
PRECEDENCE = {name: rank for rank, name in enumerate((*reversed(DEALT), EXTRA))}
"""Of identical images, the one in the split of the lowest rank may be fitted: test, then val_b,
val_a, reserve, train, extra."""

OFFICIAL = (
    {name: name for name in DEALT}
    | dict.fromkeys(("val", "valid", "validation", "dev"), "val")
    | {EXTRA: "train"}
)
"""Names of official splits, as folders and tables have them; `val` is both halves, and what of
train is extra, the caps say."""

_FILLED = np.arange(len(DEALT), dtype=np.uint8)[::-1]
"""Splits in the order in which new products fill them, test first."""


_GROUP_BORDERS = (0.7, 0.8, 0.85, 0.9)


def product_hash(product_ids: np.ndarray, seed: int) -> np.ndarray:
    """uint64 hash of each product id, keyed by `seed`: the finaliser of SplitMix64, a bijection."""
    key = splitmix64(np.array([seed], dtype=np.uint64))
    return mix64(np.asarray(product_ids).astype(np.uint64) ^ key)


def sample_key(purpose: str, seed: int) -> int:
    """Key of `product_hash` for one purpose: independent of every other purpose's and seed's, and
    of the splits' own."""
    return int.from_bytes(
        hashlib.blake2b(f"{purpose}\0{seed}".encode(), digest_size=8).digest(), "little"
    )


def sample_hash(product_ids: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """uint64 hash of each product id [N] for one purpose: what samples, folds and orders of
    products are drawn by.

    `sample_hash(ids, "class-mix shift", seed) < share * 2**64` is a sample of about that share.
    """
    return product_hash(product_ids, sample_key(purpose, seed))


def sample_mask(
    product_ids: np.ndarray, share: float | np.ndarray, purpose: str, seed: int
) -> np.ndarray:
    """Which products [N] belong to a sample of about a share (all from 1 on), bool. `share` is one
    for all products, or one for each [N]."""
    below = np.where(np.asarray(share) < 1, share, 0.0) * 2.0**64
    drawn = sample_hash(product_ids, purpose, seed) < below.astype(np.uint64)
    return drawn | (np.asarray(share) >= 1)


def shares(sizes: np.ndarray, seed: int) -> np.ndarray:
    """How many products each split should have, int64 [K, 5], in categories of `sizes` [K]
    products.

    About 70% train, 10% reserve, 10% validation in two halves, 10% test. Validation and test get at
    least one from three products on, reserve from ten on. An odd validation product goes to the
    half that the hash of the class index chooses.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    tenth = (sizes + 5) // 10
    held = np.where(sizes >= 3, np.maximum(tenth, 1), 0)
    reserve = np.where(sizes >= 10, tenth, 0)
    odd = (product_hash(np.arange(len(sizes)), seed) & np.uint64(1)).astype(np.int64)
    val_a = held // 2 + held % 2 * odd
    return np.stack([sizes - 2 * held - reserve, reserve, val_a, held - val_a, held], axis=1)


def deal(
    class_index: np.ndarray, product_ids: np.ndarray, existing: np.ndarray, seed: int
) -> np.ndarray:
    """Split (index into DEALT, uint8) of each new product.

    `existing`, int64 [K, 5], counts the products that have a split already, which they keep. New
    ones fill the splits that are below their share, test first, in the order of their hash.
    """
    new = np.bincount(class_index, minlength=len(existing))
    short = (shares(existing.sum(axis=1) + new, seed) - existing).clip(min=0)
    borders = np.minimum(short[:, _FILLED].cumsum(axis=1), new[:, None])
    borders[:, -1] = new
    order = np.lexsort((product_hash(product_ids, seed), class_index))
    starts = np.concatenate([[0], np.cumsum(new)[:-1]])
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - starts[class_index[order]]
    return _FILLED[(rank[:, None] >= borders[class_index]).sum(axis=1)]


def deal_official(
    class_index: np.ndarray,
    product_ids: np.ndarray,
    official: np.ndarray,
    split: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Split (index into DEALT, uint8) of each new product that `official` [N] names a split of,
    and `split` where it is empty.

    `val` is dealt to the halves of validation. `train` gives what the official splits lack, such as
    a reserve, as products without official splits would be dealt.
    """
    dealt = split.copy()
    for number, name in enumerate(DEALT):
        dealt[official == name] = number
    val = np.flatnonzero(official == "val")
    half = sample_mask(product_ids[val], 0.5, "halves of validation", seed)
    dealt[val] = np.where(half, DEALT.index("val_a"), DEALT.index("val_b"))
    train = np.flatnonzero(official == "train")
    taken = np.zeros((int(class_index.max(initial=-1)) + 1, len(DEALT)), dtype=np.int64)
    own = deal(class_index[train], product_ids[train], taken, seed)
    filled = np.unique(dealt[(official != "") & (official != "train")])
    dealt[train] = np.where(np.isin(own, filled), DEALT.index("train"), own)
    return dealt


def deal_groups(groups: Sequence[str | None], split: np.ndarray, seed: int) -> np.ndarray:
    """Split (index into DEALT, uint8) of each product: of those with a group, the group's, by a
    hash of its name and of the shares 70, 10, 5, 5 and 10%, so that all that ever come share one;
    of the others, `split`."""
    dealt = split.copy()
    for row, group in enumerate(groups):
        if group is not None:
            quantile = sample_key(f"group {group}", seed) / 2**64
            dealt[row] = np.searchsorted(_GROUP_BORDERS, quantile, side="right")
    return dealt


def select(
    class_index: np.ndarray,
    product_ids: np.ndarray,
    n_images: np.ndarray,
    cap: int | np.ndarray,
    seed: int,
) -> np.ndarray:
    """Which products of one split fit under its cap, bool [N]: in each category the first by hash,
    as whole products, while their images fit. `cap` is one number, or one per class [K].

    The first product always fits. Adding products can only push others out, never bring one back.
    """
    order = np.lexsort((product_hash(product_ids, seed), class_index))
    group = class_index[order]
    first = starts_group(group)
    images = np.cumsum(n_images[order], dtype=np.int64)
    before = np.maximum.accumulate(np.where(first, images - n_images[order], 0))
    kept = np.empty(len(order), dtype=bool)
    kept[order] = first | (images - before <= (cap[group] if isinstance(cap, np.ndarray) else cap))
    return kept
