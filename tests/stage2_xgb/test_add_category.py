"""A category from a few photos, beside a stage 2 that doesn't know it: it is recognised, the others
stay what they are, and its file is refused if it is damaged or of another stage 2."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ShelfsortError
from catalog.taxonomy import Category
from stage1_cnn.head import log_softmax
from stage2_xgb.add_category import LEAST, MOST, fit_addition
from stage2_xgb.addition import Addition, Additions, identity, path_of, save, with_added
from stage2_xgb.bundle import Bundle
from stage2_xgb.dataset import Views
from stage2_xgb.items import ItemBlock
from tests.stage2_xgb.conftest import Fitted
from tests.stage2_xgb.planted import ANSWER, FAMILY, WIDTH, images_of, make_head, taxonomy

NEW = Category(900, "all", "new", "newcomer")


def photos(count: int, seed: int = 0) -> ItemBlock:
    """Photos of a category that nobody planted: between two families, and beyond all siblings."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, WIDTH))
    features[:, FAMILY] += 3.0
    features[:, ANSWER] -= 4.0
    x = features.astype(np.float32)
    ids, zeros = np.arange(count), np.zeros(count, dtype=np.int32)
    head = make_head()
    return ItemBlock(ids, ids, zeros, zeros, zeros + 1, head.log_probs(x), (x,), x[:, :0])


@pytest.fixture(scope="module")
def added(fitted: Fitted) -> Addition:
    """From the least number of photos."""
    bundle = fitted.open()
    return fit_addition(Views([fitted.store]), bundle, bundle, photos(LEAST), NEW, 0.1, seed=0)


@pytest.fixture
def bundle(fitted: Fitted, tmp_path: Path) -> Bundle:
    """A copy of one's own."""
    shutil.copytree(fitted.folder, tmp_path / "stage2")
    return Bundle.open(tmp_path / "stage2")


def test_it_is_recognised_and_takes_little(fitted: Fitted, added: Addition) -> None:
    bundle, additions = fitted.open(), Additions((added,))
    assert (additions.log_odds(bundle, photos(200, seed=1)) > 0).mean() > 0.9
    assert (additions.log_odds(bundle, images_of(fitted.store, "test")) > 0).mean() < 0.02
    assert added.expected["categories"] == 8
    assert added.expected["recognised"] > 0.3 and added.expected["taken"] < 0.1


def test_an_expected_share_moves_it(fitted: Fitted, added: Addition) -> None:
    bundle, few = fitted.open(), photos(LEAST)
    rarer = fit_addition(Views([fitted.store]), bundle, bundle, few, NEW, 0.001, seed=0)
    odds = [np.log(s / (1 - s)) for s in (0.1, 0.001)]
    assert added.intercept - rarer.intercept == pytest.approx(odds[0] - odds[1])


@pytest.mark.parametrize("count", [LEAST - 1, MOST + 1])
def test_photos_are_neither_too_few_nor_too_many(fitted: Fitted, count: int) -> None:
    bundle = fitted.open()
    with pytest.raises(ShelfsortError, match=f"expected {LEAST} to {MOST} photos .* found {count}"):
        fit_addition(Views([fitted.store]), bundle, bundle, photos(count), NEW, 0.1, seed=0)


def test_round_trip(bundle: Bundle, added: Addition) -> None:
    before = identity(bundle.folder)
    save(bundle, added)
    assert identity(bundle.folder) != before
    (found,) = Additions.open(bundle).each
    assert found.category == NEW and found.expected == added.expected
    asked = photos(20, seed=2)
    expected = Additions((added,)).log_odds(bundle, asked)
    assert Additions((found,)).log_odds(bundle, asked).tobytes() == expected.tobytes()
    assert Additions((found,)).taxonomy(taxonomy()).categories[-1] == NEW


def test_a_damaged_file_is_refused(bundle: Bundle, added: Addition) -> None:
    path = save(bundle, added)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShelfsortError, match=f"{NEW.category_id}.npz: .* add the category again"):
        Additions.open(bundle)


def test_one_of_another_stage2_is_refused(
    bundle: Bundle, hopeless: Fitted, added: Addition, tmp_path: Path
) -> None:
    shutil.copytree(hopeless.folder, tmp_path / "other")
    other, path = Bundle.open(tmp_path / "other"), save(bundle, added)
    path_of(other, 0).parent.mkdir()
    shutil.copy(path, path_of(other, NEW.category_id))
    with pytest.raises(ShelfsortError, match="made for another stage 2"):
        Additions.open(other)


def test_images_of_a_product_are_asked_together(fitted: Fitted, added: Addition) -> None:
    bundle, additions = fitted.open(), Additions((added,))
    images = images_of(fitted.store, "test")
    alone = images.rows(images.product_id == images.product_id[0])
    every = additions.log_odds(bundle, images)
    assert len(every) == len(np.unique(images.product_id))
    np.testing.assert_allclose(every[0], additions.log_odds(bundle, alone)[0], rtol=1e-4)


def test_joined_probabilities() -> None:
    """Known categories share what the added ones leave, as they did among themselves."""
    known = log_softmax(np.array([[2.0, 1.0, 0.0]], dtype=np.float32))
    both = np.exp(with_added(known, np.log([[1.0, 2.0]])))
    np.testing.assert_allclose(both[0, 3:], [0.25, 0.5], rtol=1e-5)
    np.testing.assert_allclose(both[0, :3], np.exp(known[0]) / 4, rtol=1e-5)
    assert with_added(known, np.zeros((1, 0))) is known
