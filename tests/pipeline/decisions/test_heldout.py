"""Held-out answers: what is kept of them, and which stand for another class mix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.artifacts import read_json
from catalog.errors import ArtifactError
from pipeline import steps
from pipeline.decisions import heldout
from pipeline.decisions.answers import Answers
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.model import TwoStageModel
from stage2_xgb.dataset import Views
from tests.pipeline.tiny import Tiny


def made(size: int = 4000, seed: int = 0) -> HeldOutAnswers:
    """Products in the mix 60, 30, 10 percent."""
    rng, source = np.random.default_rng(seed), np.array([0.6, 0.3, 0.1])
    truth = rng.choice(3, size, p=source)
    answers = Answers.of(np.log(rng.dirichlet(np.ones(3), size).astype(np.float32)))
    z, far = np.zeros((size, 1)), np.full(size, np.nan)
    return HeldOutAnswers(np.arange(size), truth, answers, z, far, far, source, source)


def test_its_own_mix_keeps_all_as_they_are() -> None:
    held = made()
    kept = held.under(held.fitted)
    assert len(kept) == len(held) and kept.answers.log_prob is not None
    np.testing.assert_array_equal(kept.answers.log_prob, held.answers.log_prob)


def test_products_are_thinned_to_another_mix() -> None:
    """Of an even mix all products of the rarest category are kept, a third and a sixth of the
    others."""
    held, even = made(), np.full(3, 1 / 3)
    kept = held.under(even)
    before, after = (np.bincount(x.class_index, minlength=3) for x in (held, kept))
    assert after[2] == before[2]
    np.testing.assert_allclose(after / after.sum(), even, atol=0.04)
    again = replace(held, product_id=held.product_id[::-1]).under(even)
    assert set(again.product_id.tolist()) != set(kept.product_id.tolist())


def test_what_is_kept_is_what_both_stages_answer(tiny: Tiny, model: TwoStageModel) -> None:
    """The tiny run's answers for val_b, from its features: the likeliest categories are the model's
    wherever who answers is the same."""
    held = heldout.read(tiny.run.stage2)
    (images,) = Views([tiny.run.view(name).features for name in ("stage1", "small")]).blocks(
        "val_b", fit_only=True
    )
    result = model.answer(images, "product")
    first = slice(0, len(result.pooled))
    np.testing.assert_array_equal(held.product_id[first], result.pooled.product_id)
    np.testing.assert_array_equal(held.class_index[first], result.pooled.class_index)
    same = held.answers.top_class[first, 0] == result.two_stage.argmax(axis=1)
    assert same.mean() > 0.9
    summary = read_json(tiny.run.stage2 / "summary.json", "")
    assert len(result.pooled) == summary["units"]["product"]["natural"]["items"]
    right = (held.answers.top_class[first, 0] == held.class_index[first]).mean()
    assert right == pytest.approx(summary["units"]["product"]["natural"]["gated"], abs=0.1)


def test_products_of_reserve_and_val_a_stand_beside_them(tiny: Tiny, model: TwoStageModel) -> None:
    """Each once, and answered as by a second stage that doesn't know them: the one that does is
    right more often."""
    held = heldout.read(tiny.run.stage2)
    views = Views([tiny.run.view(name).features for name in ("stage1", "small")])
    blocks = [b for split in ("reserve", "val_a") for b in views.blocks(split, fit_only=True)]
    results = [model.answer(block, "product") for block in blocks]
    known = np.concatenate([r.two_stage.argmax(1) == r.pooled.class_index for r in results])
    ids = np.concatenate([r.pooled.product_id for r in results])
    rest = slice(len(held) - len(ids), len(held))
    np.testing.assert_array_equal(held.product_id[rest], ids)
    assert len(np.unique(held.product_id)) == len(held)
    right = held.answers.top_class[rest, 0] == held.class_index[rest]
    assert right.mean() < known.mean()
    assert (held.apart >= held.distance).all() and np.isfinite(held.distance).all()


def test_another_second_stages_are_refused_and_asked_again(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "run")
    held, path = heldout.read(copy.run.stage2), heldout.path_of(copy.run.stage2)
    arrays = dict(np.load(path))
    for changed, problem in (
        ({"stage2": np.array("0")}, "measured with another stage 2"),
        ({"schema": np.array(0)}, "of schema 0, expected 2"),
    ):
        np.savez(path, **arrays | changed)
        with pytest.raises(ArtifactError, match=problem):
            heldout.read(copy.run.stage2)
    steps.stage2(copy.run, copy.config, rebuild=False, say=lambda _: None)
    np.testing.assert_array_equal(
        heldout.read(copy.run.stage2).answers.log_prob, held.answers.log_prob
    )
