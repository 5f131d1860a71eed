import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from catalog.store.reader import Store
from stage1_cnn.config import Stage1Config
from stage1_cnn.training import tune
from stage1_cnn.training.tune import Search, Trial, TrialOutcome, steepest

MADE_FROM = {"store": "0123"}


def search(store: Store, config: Stage1Config, folder: Path, **options: object) -> Search:
    config = config.model_copy(update={"head_epochs": 1, "lr": 1e-3})
    return Search(store, config, folder, MADE_FROM, **{"epochs": 1, "photos": 64, **options})


@pytest.fixture(scope="module")
def searched(
    store_path: Path, config: Stage1Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TrialOutcome]]:
    """A whole search over fewer values, and its folder."""
    folder = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "RATES", (1e-6, 1e-3))
        patch.setattr(tune, "BLOCKS", (0,))
        patch.setattr(tune, "SHARES", (0.3,))
        return folder, search(Store(store_path), config, folder).run()


def test_rates_come_first_and_the_best_serves_the_rest(
    searched: tuple[Path, list[TrialOutcome]],
) -> None:
    _, outcomes = searched
    assert [outcome.trial.what for outcome in outcomes] == [
        "lr",
        "lr",
        "trainable_blocks",
        "validation_share",
    ]
    best = max(outcomes[:2], key=lambda outcome: outcome.val_top1).trial.lr
    assert {outcome.trial.lr for outcome in outcomes[2:]} == {best}
    assert all(
        outcome.val_images == 8 and outcome.low <= outcome.val_top1 <= outcome.high
        for outcome in outcomes
    )


def test_photos_are_limited_and_shares_held_out(
    searched: tuple[Path, list[TrialOutcome]], store: Store, config: Stage1Config
) -> None:
    _, outcomes = searched
    assert {outcome.train_images for outcome in outcomes} == {64}
    whole = search(store, config, Path("unused"), photos=None)
    train, val = whole._partition(0.3)(store)
    assert len(train) == pytest.approx(0.7 * (112 + 8), abs=12)
    assert np.isin(train.image_id, store.images("train").image_id).all()
    assert np.array_equal(val.image_id, store.images("val_a").image_id)
    assert len(whole._partition(None)(store)[0]) == 112


def test_only_the_results_stay(searched: tuple[Path, list[TrialOutcome]]) -> None:
    folder, outcomes = searched
    assert {path.name for path in folder.iterdir()} == {outcome.trial.name for outcome in outcomes}
    for path in folder.iterdir():
        assert {file.name for file in path.iterdir()} == {
            "metrics.jsonl",
            "made_from.json",
            "trial.json",
        }


def test_a_finished_trial_is_not_repeated(
    searched: tuple[Path, list[TrialOutcome]],
    store: Store,
    config: Stage1Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, outcomes = searched
    monkeypatch.setattr(tune, "train_stage1", None)
    assert search(store, config, folder)._outcome(outcomes[1].trial) == outcomes[1]


def test_a_trial_of_something_else_is_made_anew(
    searched: tuple[Path, list[TrialOutcome]], store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    trial = Trial("lr", 1e-3, "all")
    other = tmp_path / trial.name
    other.mkdir()
    (other / "trial.json").write_text("{}")
    (other / "made_from.json").write_text(json.dumps({"store": "else"}))
    assert search(store, config, tmp_path)._outcome(trial).val_top1 == searched[1][1].val_top1


def test_what_an_unfinished_search_left_is_made_anew(
    store: Store, config: Stage1Config, tmp_path: Path
) -> None:
    trial, first, second = (
        Trial("lr", 1e-3, "all"),
        search(store, config, tmp_path),
        search(store, config, tmp_path, photos=32),
    )
    folder = tmp_path / trial.name
    first._train(
        trial, folder, first.made_from | {"trial": asdict(trial)}
    )  # and no trial.json any more
    assert (folder / "last.pt").exists()
    assert second._outcome(trial).train_images == 32


def test_range_test_rises_and_is_kept(
    store: Store, config: Stage1Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "STEPS", 24)
    one = search(store, config, tmp_path)
    rows = one.range_test()
    rates = [rate for rate, _ in rows]
    assert rates[0] == pytest.approx(tune.LOWEST)
    assert rates == sorted(rates)
    assert 1e-5 < steepest(rows) < 1
    again = search(store, config, tmp_path).range_test()
    assert again == [pytest.approx(row, rel=1e-4) for row in rows]
    assert search(store, config, tmp_path, photos=32).range_test() != again


def test_steepest_is_where_the_loss_falls_fastest() -> None:
    rates = np.logspace(-6, 0, 61)
    losses = 2 - 1.5 / (1 + np.exp(-4 * (np.log10(rates) + 3)))
    assert steepest(list(zip(rates, losses, strict=True))) == pytest.approx(1e-3, rel=0.3)
    assert steepest([(1, 1)]) is None
