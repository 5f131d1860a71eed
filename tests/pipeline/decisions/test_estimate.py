"""The class mix is found where products look like the catalogue's, and refused where they don't."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from catalog.errors import ShelfsortError
from catalog.taxonomy import Category, Taxonomy
from pipeline.decisions.answers import Answers
from pipeline.decisions.drift import UNLIKE, measure_drift
from pipeline.decisions.estimate import estimate_mix
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.label_shift import PRIOR_SDS, Unlabelled
from stage2_xgb.prior import read_mix

CLASSES, WIDTH = 12, 6
EVEN = np.full(CLASSES, 1 / CLASSES)
TAXONOMY = Taxonomy(Category(100 + i, f"a{i // 6}", f"b{i // 3}", f"c{i}") for i in range(CLASSES))
CENTRES = np.random.default_rng(7).normal(0, 1.2, (CLASSES, WIDTH))


def products(mix: np.ndarray, size: int, seed: int, shift: float = 0.0) -> tuple:
    """True categories [N], exact posteriors under EVEN, and features [N, WIDTH] around the
    categories' centres."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(CLASSES, size, p=mix)
    z = CENTRES[truth] + rng.normal(0, 1, (size, WIDTH)) + shift
    scores = -((z[:, None, :] - CENTRES) ** 2).sum(axis=2) / 2
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return truth, Answers.of(scores.astype(np.float32)), z.astype(np.float32)


def opinions(answers: Answers, z: np.ndarray) -> pyarrow.Table:
    return pyarrow.table(
        {
            "product_id": np.arange(len(answers)),
            "top_class": list(answers.top_class),
            "log_prob": list(answers.log_prob),
            "blank": np.zeros(len(answers), dtype=bool),
            "z": pyarrow.array(list(z), pyarrow.list_(pyarrow.float32())),
        }
    )


@pytest.fixture(scope="module")
def held() -> HeldOutAnswers:
    truth, answers, z = products(EVEN, 800, seed=1)
    far = np.full(800, np.nan)
    return HeldOutAnswers(np.arange(800), truth, answers, z, far, far, EVEN, EVEN)


def test_another_mix_is_found(held: HeldOutAnswers, tmp_path: Path) -> None:
    mix = np.arange(1, CLASSES + 1) / np.arange(1, CLASSES + 1).sum()
    truth, answers, z = products(mix, 4000, seed=2)
    tables = [opinions(answers[rows], z[rows]) for rows in np.split(np.arange(4000), 2)]
    found = estimate_mix(held, TAXONOMY, tables)
    assert found.products == 4000 and not found.drift.unlike
    assert np.abs(found.mix - mix).sum() / 2 < 0.06 < np.abs(EVEN - mix).sum() / 2
    assert ((found.low <= mix) & (mix <= found.high)).sum() >= CLASSES - 3
    right = [(a.top_class[:, 0] == truth).mean() for a in (answers, answers.under(EVEN, found.mix))]
    assert right[1] > right[0] + 0.01
    found.to_csv(tmp_path / "mix.csv", TAXONOMY)
    np.testing.assert_allclose(
        read_mix(tmp_path / "mix.csv", TAXONOMY, "score.mix"), found.mix, atol=1e-6
    )
    with open(tmp_path / "mix.csv", newline="") as file:
        assert [int(row["category_id"]) for row in csv.DictReader(file)] == list(range(100, 112))


def test_where_nothing_shifted_little_moves(held: HeldOutAnswers) -> None:
    _, answers, z = products(EVEN, 3000, seed=3)
    found = estimate_mix(held, TAXONOMY, [opinions(answers, z)])
    assert found.moved == 0 and 0.4 < found.drift.auc < 0.6
    assert "3000 products don't surely say another one" in found.lines(TAXONOMY)[0]


def test_few_held_out_products_leave_doubt(held: HeldOutAnswers) -> None:
    """Of 100 products less is known of the bias that probabilities have for some categories than of
    800: intervals are wider."""
    tilted = EVEN * np.exp(np.random.default_rng(8).normal(0, 0.7, CLASSES))
    biased = replace(held, answers=held.answers.under(EVEN, tilted / tilted.sum()))
    _, answers, z = products(EVEN, 3000, seed=6)
    few = biased[np.arange(100)]
    told = opinions(answers.under(EVEN, tilted / tilted.sum()), z)
    narrow, wide = (estimate_mix(known, TAXONOMY, [told]) for known in (biased, few))
    widths = [float((found.high - found.low).mean()) for found in (narrow, wide)]
    assert widths[1] > 1.1 * widths[0]
    assert narrow.moved < 0.03 and wide.moved < 0.06


def test_rare_categories_follow_their_family(held: HeldOutAnswers) -> None:
    """One of 150 products, where its family has three times as many as before: it may have few of
    the 150 itself, and is still seen to be more frequent than most of the other families'."""
    mix = np.repeat([3.0, 1.0, 1.0, 1.0], 3)
    _, answers, z = products(mix / mix.sum(), 150, seed=4)
    found = estimate_mix(held, TAXONOMY, [opinions(answers, z)])
    family = found.mix.reshape(4, 3)
    assert family[0].sum() > 0.3 and family[0].min() > np.median(family[1:])


def test_a_flatter_mix_is_found_as_a_whole() -> None:
    """Of 240 products of twelve categories alike, where before some were a hundred times as many as
    others, no category says much; all together say that the mix is flat."""
    before = np.geomspace(1, 0.01, CLASSES)
    before /= before.sum()
    truth, answers, z = products(before, 1500, seed=9)
    answers, far = answers.under(EVEN, before), np.full(1500, np.nan)
    known = HeldOutAnswers(np.arange(1500), truth, answers, z, far, far, before, before)
    truth, answers, z = products(EVEN, 240, seed=10)
    answers = answers.under(EVEN, before)
    found = estimate_mix(known, TAXONOMY, [opinions(answers, z)])
    assert np.abs(found.mix - EVEN).sum() / 2 < 0.25 < np.abs(before - EVEN).sum() / 2
    right = [
        (a.top_class[:, 0] == truth).mean() for a in (answers, answers.under(before, found.mix))
    ]
    assert right[1] > right[0] + 0.05


def test_a_long_tail_that_is_flat_now_is_found() -> None:
    """3,000 products, and log-ratios of up to 4.6 beside chance of each category: the fit is
    likelier than no shift, and doesn't run away on the rare ones."""
    before = np.geomspace(1, 0.01, CLASSES)
    before /= before.sum()
    mix = np.exp(np.random.default_rng(11).normal(0, 0.4, CLASSES))
    mix /= mix.sum()
    _, answers, _ = products(mix, 3000, seed=12)
    unlabelled = Unlabelled.of(answers.under(EVEN, before), before, TAXONOMY.families[:, 1])
    for prior_sd in PRIOR_SDS:
        found = unlabelled.mix(unlabelled.fit(prior_sd))
        assert unlabelled.log_likelihood(found) > 0
        assert np.abs(found - mix).sum() / 2 < 0.2 < 0.4 < np.abs(before - mix).sum() / 2


@pytest.mark.parametrize("size", [1, 2, 5, 20])
def test_a_few_products_move_little(held: HeldOutAnswers, size: int) -> None:
    _, answers, z = products(EVEN, size, seed=13)
    found = estimate_mix(held, TAXONOMY, [opinions(answers, z)])
    assert found.moved < 0.2 and np.isfinite(found.mix).all()
    assert (found.low < found.mix).all() and (found.mix < found.high).all()


def test_without_held_out_products_less_is_known(held: HeldOutAnswers) -> None:
    mix = np.arange(1, CLASSES + 1) / np.arange(1, CLASSES + 1).sum()
    _, answers, z = products(mix, 2000, seed=14)
    some, none = (
        estimate_mix(known, TAXONOMY, [opinions(answers, z)])
        for known in (held, held[np.zeros(0, dtype=np.int64)])
    )
    assert np.isfinite(none.mix).all() and (none.high / none.low > some.high / some.low).all()


def test_probability_beyond_the_likeliest_says_nothing() -> None:
    """Of products whose likeliest three categories alone are known, the errors are above 0 and not
    smaller than if all were."""
    _, answers, _ = products(EVEN, 1500, seed=15)
    family = TAXONOMY.families[:, 1]
    whole = Unlabelled.of(answers, EVEN, family)
    few = Answers(answers.top_class[:, :3], answers.log_prob[:, :3])
    part, none = Unlabelled.of(few, EVEN, family), np.zeros(CLASSES)
    assert part.beyond.mean() > 0.05
    for prior_sd in (0.1, 0.4, 1.6):
        errors = [x.errors(x.fit(prior_sd), none) for x in (whole, part)]
        assert (errors[1] > 0.9 * errors[0]).all() and (errors[0] > 0).all()


def test_nineteen_of_twenty_intervals_hold_the_share(held: HeldOutAnswers) -> None:
    inside = []
    for seed in range(20):
        mix = np.exp(np.random.default_rng(seed).normal(0, 0.5, CLASSES))
        mix /= mix.sum()
        _, answers, z = products(mix, 600, seed=100 + seed)
        found = estimate_mix(held, TAXONOMY, [opinions(answers, z)])
        inside.append((found.low <= mix) & (mix <= found.high))
    assert np.mean(inside) >= 0.93


def test_products_unlike_the_catalogues_are_refused(held: HeldOutAnswers) -> None:
    _, answers, z = products(EVEN, 2000, seed=5, shift=2.0)
    with pytest.raises(ShelfsortError, match=r"unlike the catalogue: .* worth nothing"):
        estimate_mix(held, TAXONOMY, [opinions(answers, z)])


def test_no_product_is_an_error(held: HeldOutAnswers) -> None:
    with pytest.raises(ShelfsortError, match="no product with an answer"):
        estimate_mix(held, TAXONOMY, [])


def test_drift_sees_spread_and_place_and_not_chance() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(400, 5)), rng.normal(size=(900, 5))
    same = measure_drift(one, two)
    assert abs(same.auc - 0.5) < 3 * same.error and not same.unlike
    assert measure_drift(one, two + 1).auc > UNLIKE and measure_drift(one, 2 * two).auc > UNLIKE
    few = measure_drift(one[:10], two)
    assert not few.unlike and "not tested, 900 products against 10" in few.text()
