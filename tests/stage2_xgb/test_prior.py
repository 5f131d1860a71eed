"""The class mix: Bayes' rule on a problem with a known answer, and what the fit must recover."""

from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ConfigError
from stage1_cnn.head import log_softmax
from stage2_xgb.prior import Shift, fit_shift, importance, mix, target_mix
from tests.stage2_xgb.planted import taxonomy

TRAIN = np.array([0.25, 0.25, 0.25, 0.25])
TARGET = np.array([0.7, 0.2, 0.07, 0.03])


def gaussians(n: int, prior: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn from `prior`, and the log-likelihood [N, 4] of a point around each class's
    corner."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(4, n, p=prior)
    points = np.eye(4)[truth] * 2 + rng.normal(size=(n, 4))
    return truth, -0.5 * ((points[:, None] - 2 * np.eye(4)) ** 2).sum(axis=2)


def test_the_shift_is_bayes_rule() -> None:
    _, likelihood = gaussians(500, TARGET)
    under_train = log_softmax((likelihood + np.log(TRAIN)).astype(np.float32))
    bayes = log_softmax(likelihood + np.log(TARGET))
    shifted = Shift(1.0, 1.0, np.log(TARGET / TRAIN).astype(np.float32))(under_train)
    np.testing.assert_allclose(shifted, bayes, atol=1e-4)
    assert shifted.dtype == np.float32
    assert np.abs(under_train - bayes).max() > 0.5, "without the shift it is another posterior"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("drawn_from", [TARGET, TRAIN], ids=["natural val", "balanced val"])
def test_temperature_and_strength_are_recovered(temperature: float, drawn_from: np.ndarray) -> None:
    truth, likelihood = gaussians(8000, drawn_from)
    overconfident = log_softmax(temperature * (likelihood + np.log(TRAIN))).astype(np.float32)
    shift = fit_shift(overconfident, truth, TRAIN, TARGET)
    assert shift.temperature == pytest.approx(temperature, rel=0.1)
    assert shift.strength == pytest.approx(1.0, abs=0.12)


def test_a_mix_that_is_there_already_needs_no_shift() -> None:
    truth, likelihood = gaussians(8000, TARGET)
    shift = fit_shift(
        log_softmax(likelihood + np.log(TARGET)).astype(np.float32), truth, TRAIN, TARGET
    )
    assert shift.strength == pytest.approx(0.0, abs=0.1)


def test_the_ratio_is_of_target_to_train() -> None:
    """Stage 1 learnt an uneven mix, and val has another."""
    train = np.array([0.1, 0.2, 0.3, 0.4])
    truth, likelihood = gaussians(8000, TARGET)
    learnt = log_softmax(likelihood + np.log(train)).astype(np.float32)
    shift = fit_shift(learnt, truth, train, TARGET)
    np.testing.assert_allclose(shift.log_ratio, np.log(TARGET / train), rtol=1e-6)
    assert (shift.temperature, shift.strength) == pytest.approx((1, 1), abs=0.12)


def test_a_single_item_counts() -> None:
    """It is labelled as stage 1 would never have it, so that stage 1 is trusted a little less."""
    _, likelihood = gaussians(1, TARGET)
    under = log_softmax(3 * (likelihood + np.log(TRAIN))).astype(np.float32)
    shift = fit_shift(under, under.argmin(axis=1), TRAIN, TARGET)
    assert shift.temperature > 1.01


def test_without_items_nothing_is_fitted() -> None:
    shift = fit_shift(np.zeros((0, 4), np.float32), np.zeros(0, int), TRAIN, TARGET)
    assert (shift.temperature, shift.strength) == (1.0, 1.0)


def test_named_mixes() -> None:
    names = taxonomy(4)
    natural, train = np.array([70, 20, 7, 0]), np.array([10, 10, 10, 10])
    for name, counts in (("natural", natural), ("train", train), ("balanced", np.ones(4))):
        found = target_mix(name, natural, train, names)
        np.testing.assert_allclose(found, (counts + 0.5) / (counts + 0.5).sum())
    assert mix(np.zeros(4)).tolist() == [0.25] * 4


@pytest.mark.parametrize("scale", [1, 1000])
def test_a_file_of_weights_counts_by_its_shares(tmp_path: Path, scale: int) -> None:
    path = tmp_path / "mix.csv"
    rows = {101: 0.7, 100: 0.2, 102: 0.1}  # not in class order; one category left out
    path.write_text(
        "\ufeffcategory_id,weight\n" + "".join(f"{i},{w * scale}\n" for i, w in rows.items()),
        encoding="utf-8",
    )
    found = target_mix(path, np.ones(4), np.ones(4), taxonomy(4))
    np.testing.assert_allclose(found[:3], [0.2, 0.7, 0.1], rtol=1e-6)
    assert found[3] == pytest.approx(1e-9, rel=1e-6) and found.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("category_id,share\n100,1\n", "line 1: column weight is missing"),
        ("category_id,weight\n100,much\n", "line 2: as category_id and weight"),
        ("category_id,weight\n100\n", "line 2: found 1 fields, expected 2"),
        ("category_id,weight\n100,1\n777,1\n", "category_id 777 is not in the taxonomy"),
        (f"category_id,weight\n{2**63 - 1},1\n", f"category_id {2**63 - 1} is not in"),
        (f"category_id,weight\n{2**63},1\n", "line 2: as category_id and weight"),
        ("category_id,weight\n100,1\n101,-1\n", "expected weights of at least 0"),
        ("category_id,weight\n100,0\n", "expected weights of at least 0 and not all 0"),
        ("category_id,weight\n100,nan\n", "expected weights of at least 0"),
        ("category_id,weight\n", "expected weights of at least 0 and not all 0"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "mix.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        target_mix(path, np.ones(4), np.ones(4), taxonomy(4))
    assert str(caught.value).startswith(f"stage2.target_prior: {path}: ") and expected in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_importance_gives_the_target_mix() -> None:
    classes = np.repeat([0, 1, 2], [50, 30, 20])
    weight = importance(classes, TARGET)
    assert weight.mean() == pytest.approx(1)
    found = np.bincount(classes, weight) / weight.sum()
    np.testing.assert_allclose(found, TARGET[:3] / TARGET[:3].sum())  # class 3 has no item


def loss_of(shift: Shift, truth: np.ndarray, under: np.ndarray) -> float:
    """Log-loss over items of the target mix."""
    return float(-shift(under)[np.arange(len(truth)), truth].mean())


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """n items of the target mix, and stage 1's opinion of them under the train mix."""
    truth, likelihood = gaussians(n, TARGET, seed)
    return truth, log_softmax(likelihood + np.log(TRAIN)).astype(np.float32)


def test_few_items_do_not_make_it_worse_than_unfitted() -> None:
    """Where (1, 1) is right already, chance alone could move it."""
    truth, under = drawn(4000, 99)
    unfitted = loss_of(Shift(1.0, 1.0, np.log(TARGET / TRAIN).astype(np.float32)), truth, under)
    for n in (2, 5, 20, 100):
        losses = []
        for seed in range(20):
            some, opinion = drawn(n, seed)
            losses.append(loss_of(fit_shift(opinion, some, TRAIN, TARGET), truth, under))
        assert np.mean(losses) < unfitted + 0.01, n
        assert max(losses) < unfitted + 0.3, n


def test_a_wrong_temperature_is_mended_the_more_the_more_items_say_so() -> None:
    """Stage 1 is twice as sure as it should be."""
    found = []
    for n in (5, 50, 500, 3000):
        some = []
        for seed in range(8):
            truth, likelihood = gaussians(n, TARGET, seed)
            sure = log_softmax(2 * (likelihood + np.log(TRAIN))).astype(np.float32)
            some.append(fit_shift(sure, truth, TRAIN, TARGET).temperature)
        found.append(float(np.mean(some)))
    assert (
        found == sorted(found)
        and found[0] < 1.3
        and found[1] < 1.8
        and found[3] == pytest.approx(2, abs=0.1)
    )


def test_an_item_as_imagined_changes_nothing() -> None:
    """Items whose labels are as (1, 1) says leave it there: the imagined ones, and real ones drawn
    so."""
    rng = np.random.default_rng(0)
    _, under = drawn(4000, 5)
    shifted = np.exp(Shift(1.0, 1.0, np.log(TARGET / TRAIN).astype(np.float32))(under))
    truth = (rng.random((len(shifted), 1)) > shifted.cumsum(axis=1)).sum(axis=1).clip(max=3)
    shift = fit_shift(under, truth, TRAIN, TARGET)
    assert (shift.temperature, shift.strength) == pytest.approx((1, 1), abs=0.1)
    equal = fit_shift(under, truth, TRAIN, TRAIN)  # no shift to be fitted: strength is what it was
    assert equal.strength == 1.0


def test_blocks_of_rows_are_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, under = drawn(700, 3)
    whole = fit_shift(under, truth, TRAIN, TARGET)
    monkeypatch.setattr("stage2_xgb.prior._ROWS", 97)
    parts = fit_shift(under, truth, TRAIN, TARGET)
    assert (parts.temperature, parts.strength) == pytest.approx(
        (whole.temperature, whole.strength), rel=1e-6
    )


def test_the_least_loss_is_found() -> None:
    """No point of a grid around it has a lower loss, by the definition of smoothed labels."""
    truth, under = drawn(60, 8)
    shift = fit_shift(under, truth, TRAIN, TARGET)
    weight = importance(truth, TARGET)
    effective = weight.sum() ** 2 / (weight**2).sum()
    ratio = np.log(TARGET / TRAIN)
    labels = np.exp(log_softmax(under.astype(np.float64) + ratio)) * 50 / (effective + 50)
    labels[np.arange(60), truth] += effective / (effective + 50)

    def loss(sharpness: float, strength: float) -> float:
        return -float(
            weight
            @ (labels * log_softmax(sharpness * under.astype(np.float64) + strength * ratio)).sum(
                axis=1
            )
        )

    best = loss(1 / shift.temperature, shift.strength)
    for d in (-0.02, 0.02):
        assert best < min(
            loss(1 / shift.temperature + d, shift.strength),
            loss(1 / shift.temperature, shift.strength + d),
        )


@pytest.mark.parametrize(
    ("temperature", "strength", "expected"),
    [
        (1.0, 1.0, []),
        (4.0, 1.0, ["temperature"]),
        (0.25, 0.0, ["temperature", "strength"]),
        (3.9, 1.5, ["strength"]),
    ],
)
def test_what_lies_at_the_end_of_its_range_is_named(
    temperature: float, strength: float, expected: list[str]
) -> None:
    assert Shift(temperature, strength, np.zeros(2, np.float32)).at_border == expected


def test_the_range_ends_there() -> None:
    truth, likelihood = gaussians(4000, TARGET)
    hot = fit_shift(
        log_softmax(9 * (likelihood + np.log(TRAIN))).astype(np.float32), truth, TRAIN, TARGET
    )
    assert hot.temperature == pytest.approx(4.0) and "temperature" in hot.at_border
    cold = fit_shift(
        log_softmax(0.1 * (likelihood + np.log(TRAIN))).astype(np.float32), truth, TRAIN, TARGET
    )
    assert cold.temperature == pytest.approx(0.25) and "temperature" in cold.at_border
    falling = fit_shift(
        log_softmax(likelihood + 2 * np.log(TARGET / TRAIN)).astype(np.float32),
        truth,
        TRAIN,
        TARGET,
    )
    assert falling.strength == 0.0 and "strength" in falling.at_border


def test_strength_and_temperature_are_powers() -> None:
    _, under = drawn(50, 1)
    ratio = np.log(TARGET / TRAIN).astype(np.float32)
    expected = np.exp(under / 2) * (TARGET / TRAIN) ** 0.25
    found = np.exp(Shift(2.0, 0.25, ratio)(under))
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
