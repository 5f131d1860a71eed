"""Confusion sets: counted by hand, and against a plain loop."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import ShelfsortError
from catalog.splits import SPLITS
from stage2_xgb.config import ConfusionConfig
from stage2_xgb.confusion import count_confusions, mine
from stage2_xgb.items import Items

CLASSES = 5
Row = tuple[str, int, int]
"""Split, true class, predicted class."""


def items(rows: list[Row]) -> Items:
    """Items of which only split, truth and prediction matter."""
    n = len(rows)
    split = np.array([SPLITS.index(r[0]) for r in rows], dtype=np.uint8)
    true, predicted = (np.array([r[k] for r in rows], dtype=np.int32) for k in (1, 2))
    nothing = np.zeros((n, 1, 1))
    return Items(
        np.arange(n),
        true,
        split,
        np.ones(n, np.int32),
        predicted[:, None],
        nothing,
        nothing,
        nothing[:, 0, :0],
    )


BY_HAND: list[Row] = [
    *[("val_a", 0, 0)] * 5,
    *[("val_a", 1, 0)] * 2,
    *[("reserve", 1, 0)] * 1,
    *[("val_a", 2, 0)] * 2,
    ("val_a", 3, 0),
    *[("train", 1, 0)] * 2,
    *[("train", 2, 0)] * 1,
    *[("train", 4, 0)] * 9,
    *[("reserve", 4, 2)] * 2,
    *[("val_b", 3, 0)] * 2,
    *[("test", 3, 0)] * 9,
]


def test_heldout_rule_by_hand() -> None:
    zero, two = mine(items(BY_HAND), CLASSES, ConfusionConfig(rule="heldout", min_count=2))
    assert (zero.class_index, zero.members.tolist(), zero.counts.tolist()) == (
        0,
        [0, 1, 2],
        [5, 3, 2],
    )
    assert (zero.errors, zero.mendable) == (
        6,
        5,
    )  # the single 3 is an error that the set can't mend
    assert (two.class_index, two.members.tolist(), two.counts.tolist(), two.errors) == (
        2,
        [2, 4],
        [0, 2],
        2,
    )
    assert zero.members.dtype == np.int32


def test_published_rule_by_hand() -> None:
    """Seen twice in train and twice in validation: 1 for 0 alone; 2 was seen once in train, 4 only
    there."""
    (zero,) = mine(items(BY_HAND), CLASSES, ConfusionConfig(rule="published", min_count=2))
    assert (zero.members.tolist(), zero.counts.tolist(), zero.errors) == ([0, 1], [5, 2], 5)


def test_size_limit_keeps_the_commonest_and_ties_go_by_class() -> None:
    rows = [("val_a", t, 0) for t, n in ((1, 2), (2, 4), (3, 2), (4, 3)) for _ in range(n)]
    for seed in range(5):
        shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        (found,) = mine(items(shuffled), CLASSES, ConfusionConfig(max_size=4))
        assert (found.members.tolist(), found.counts.tolist()) == ([0, 2, 4, 1], [0, 4, 3, 2])
        assert (found.errors, found.mendable) == (11, 9)


def test_nothing_held_out_is_an_error() -> None:
    with pytest.raises(
        ShelfsortError, match=r"expected images of reserve or val_a .*, found none; ingest"
    ):
        mine(items([("train", 0, 0), ("val_b", 0, 1), ("test", 0, 1)]), CLASSES, ConfusionConfig())


def test_no_mistake_no_set() -> None:
    assert (
        mine(
            items([("val_a", c, c) for c in range(CLASSES)]), CLASSES, ConfusionConfig(min_count=1)
        )
        == []
    )


def reference(
    rows: list[Row], config: ConfusionConfig
) -> dict[int, tuple[list[int], list[int], int]]:
    """The rules, by a plain loop: class -> members, counts, errors."""
    heldout = ("val_a",) if config.rule == "published" else ("val_a", "reserve")
    pairs = Counter((p, t) for s, t, p in rows if s in heldout)
    seen = Counter((p, t) for s, t, p in rows if s == "train")
    sets = {}
    for c in range(CLASSES):
        others = [t for t in range(CLASSES) if t != c and pairs[c, t] >= config.min_count]
        if config.rule == "published":
            others = [t for t in others if seen[c, t] >= config.min_count]
        others = sorted(others, key=lambda t: (-pairs[c, t], t))[: config.max_size - 1]
        if others:
            errors = sum(n for (p, t), n in pairs.items() if p == c and t != c)
            sets[c] = ([c, *others], [pairs[c, t] for t in (c, *others)], errors)
    return sets


A_CLASS = st.integers(0, CLASSES - 1)


@given(
    st.lists(st.tuples(st.sampled_from(SPLITS), A_CLASS, A_CLASS), min_size=1, max_size=80),
    st.sampled_from(["heldout", "published"]),
    st.integers(1, 3),
    st.integers(2, 5),
)
def test_equals_a_plain_loop(rows: list[Row], rule: str, min_count: int, max_size: int) -> None:
    config = ConfusionConfig(rule=rule, min_count=min_count, max_size=max_size)
    if not any(split in ("reserve", "val_a") for split, _, _ in rows):
        return
    found = mine(items(rows), CLASSES, config)
    assert {
        s.class_index: (s.members.tolist(), s.counts.tolist(), s.errors) for s in found
    } == reference(rows, config)


def test_count_confusions() -> None:
    counts = count_confusions(np.array([2, 0, 2, 2], np.int32), np.array([1, 0, 1, 0], np.int32), 3)
    assert counts.toarray().tolist() == [[1, 0, 0], [0, 0, 0], [1, 2, 0]]


def ranked(rows: list[tuple[str, int, list[int]]]) -> Items:
    """Items of split, true class, and classes by falling likelihood."""
    flat = items([(split, true, top[0]) for split, true, top in rows])
    return replace(flat, top_class=np.array([top for _, _, top in rows], dtype=np.int32))


def test_candidates_rule_by_hand() -> None:
    """Category 4 follows three times behind 0 and 1 twice, as mistakes or not; 2 only once, 3 only
    in the fourth place and on val_b. What they hide is counted by mistakes all the same."""
    rows = [
        ("val_a", 0, [0, 4, 1, 3]),
        ("reserve", 0, [0, 1, 4, 3]),
        ("val_a", 1, [0, 4, 2, 3]),
        ("val_a", 3, [0, 3, 0, 0]),
        ("val_b", 3, [0, 3, 4, 1]),
        ("train", 3, [0, 3, 4, 1]),
        ("test", 3, [0, 3, 4, 1]),
    ]
    (zero,) = mine(ranked(rows), CLASSES, ConfusionConfig(rule="candidates", top=3))
    assert (zero.members.tolist(), zero.counts.tolist()) == ([0, 4, 1], [2, 0, 1])
    assert (zero.errors, zero.mendable) == (2, 1)
    (zero,) = mine(ranked(rows), CLASSES, ConfusionConfig(rule="candidates", top=2))
    assert zero.members.tolist() == [0, 4]
    (zero,) = mine(ranked(rows), CLASSES, ConfusionConfig(rule="candidates", top=4, min_count=1))
    assert zero.members.tolist() == [0, 3, 4, 1, 2]


def test_candidates_need_no_mistake() -> None:
    (found,) = mine(
        ranked([("val_a", 1, [1, 2, 0])] * 2), CLASSES, ConfusionConfig(rule="candidates", top=2)
    )
    assert (found.members.tolist(), found.errors, found.mendable) == ([1, 2], 0, 0)
