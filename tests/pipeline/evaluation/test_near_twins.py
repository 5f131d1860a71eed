"""Near twins against plain reference sums, and planted ones."""

import numpy as np
import pandas
import pytest

from features.neighbours import unit
from features.schema import DONE
from features.store import FeatureStore
from pipeline.evaluation import near_twins as module
from pipeline.evaluation.near_twins import (
    COSINE,
    LIKENESS,
    SAMPLE,
    near_twins,
    nearest_cosines,
    twin_figures,
)
from tests.pipeline.tiny import Tiny


@pytest.fixture(scope="module")
def stores(tiny: Tiny) -> list[FeatureStore]:
    """The feature files of two networks."""
    return [tiny.run.view(name).features for name in ("stage1", "small")]


@pytest.mark.parametrize("block", [17, 4096])
def test_the_nearest_fitted_photo_in_every_network(
    stores: list[FeatureStore], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    table, span = stores[0].table, stores[0].of_split("test")
    rows = np.arange(span.start, span.stop)[::-3]
    fitted = table.fit & (stores[0].status == DONE) & table.on("train", "extra", "reserve")
    cosines = np.min(
        [
            unit(s.features_at(rows[::-1]))[::-1] @ unit(s.features(slice(None)))[fitted].T
            for s in stores
        ],
        axis=0,
    )
    same = table.class_index[rows][:, None] == table.class_index[fitted]
    own, other = nearest_cosines(stores, rows)
    np.testing.assert_allclose(own, np.where(same, cosines, -1).max(axis=1), atol=1e-5)
    np.testing.assert_allclose(other, np.where(same, -1, cosines).max(axis=1), atol=1e-5)


def test_what_is_evaluated_is_sampled_by_product(
    tiny: Tiny, stores: list[FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pandas.read_parquet(tiny.folder / "evaluation" / "items.parquet").query(
        "unit == 'image'"
    )
    whole = near_twins(stores, items)
    assert whole["share"]["n"] == len(items) <= SAMPLE and whole["networks"] == 2
    assert whole["top1_with"]["n"] + whole["top1_without"]["n"] == len(items)
    monkeypatch.setattr(module, "SAMPLE", 20)
    some = near_twins(stores, items.sample(frac=1, random_state=0))
    assert some["share"]["n"] == 20 and some["cosine"] == near_twins(stores, items)["cosine"]


def made_sample(n: int) -> pandas.DataFrame:
    """Evaluated images, of which two thirds are right."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, n)
    answer = np.where(rng.random(n) < 2 / 3, truth, 9)
    return pandas.DataFrame(
        {"class_index": truth, "two_stage_class": answer, "group": np.arange(n)}
    )


def test_planted_twins_are_counted_and_warned_of() -> None:
    """Of 1,000 photos 320 are beside a fitted one; all others, and all other categories, are
    far."""
    own, other = np.full(1000, 0.7), np.full(1000, 0.75)
    own[:320] = 0.93
    found = twin_figures(made_sample(1000), own, other)
    assert found["cosine"] == COSINE and found["share"]["value"] == 0.32 and found["suspicious"]
    assert (found["top1_with"]["n"], found["top1_without"]["n"]) == (320, 680)
    own[60:] = 0.7
    assert not twin_figures(made_sample(1000), own, other)["suspicious"]


def test_a_network_to_which_everything_is_alike_does_not_call_all_of_it_twins() -> None:
    """Own and other categories are equally near, at cosines above COSINE: the threshold rises to
    what likeness explains."""
    rng = np.random.default_rng(0)
    own, other = rng.uniform(0.95, 1, (2, 1000))
    found = twin_figures(made_sample(1000), own, other)
    assert found["cosine"] == pytest.approx(1 - 0.05 * LIKENESS, abs=1e-3)
    assert found["share"]["value"] == pytest.approx(LIKENESS, abs=0.02) and not found["suspicious"]
