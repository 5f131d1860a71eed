"""The text model: what it makes of words, and that what is saved is what is read."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from catalog.artifacts import read_sealed, write_sealed
from catalog.errors import ArtifactError, ShelfsortError
from features.linear_head import fit_head
from features.text import TextModel

WORDS = ("red cup", "blue cup", "red boot", "blue boot")
TEXTS = [f"{WORDS[i % 4]} no {i % 7}" for i in range(200)] + [""] * 4
CLASSES = np.array([i % 4 for i in range(200)] + [0, 1, 2, 3])


@pytest.fixture(scope="module")
def model() -> TextModel:
    """Four classes of six that two words tell apart."""
    return TextModel.fit(TEXTS, CLASSES, 6, components=8, seed=0)


def test_the_head_tells_the_classes(model: TextModel) -> None:
    log_probs = model.head.log_probs(model.features(["Cup, RED", "boot blue", "böot blue 5"]))
    assert log_probs.argmax(axis=1).tolist() == [0, 3, 3]
    assert log_probs.shape == (3, 6) and (log_probs[:, 4:] < -20).all()  # classes without a text


def test_vectors_have_unit_length_or_none(model: TextModel) -> None:
    vectors = model.features(["red cup", "", "unheard of", "red red cup"])
    assert (vectors.dtype, vectors.shape) == (np.float16, (4, 8))
    np.testing.assert_allclose(
        np.linalg.norm(vectors.astype(float), axis=1), [1, 0, 0, 1], atol=2e-3
    )
    np.testing.assert_array_equal(
        vectors[2:], model.features(["unheard of", "red red cup"])
    )  # others make no difference
    assert model.features([]).shape == (0, 8)


def test_saved_it_is_the_same(model: TextModel, tmp_path: Path) -> None:
    model.save(tmp_path, {"store": "s"})
    found = TextModel.open(tmp_path)
    np.testing.assert_array_equal(found.features(TEXTS), model.features(TEXTS))
    np.testing.assert_array_equal(found.head.weight, model.head.weight)
    assert found.words == model.words and found.width == 8


@pytest.mark.parametrize("name", ["text.json", "text.npz"])
def test_what_is_damaged_is_refused(model: TextModel, tmp_path: Path, name: str) -> None:
    model.save(tmp_path, {})
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name.replace('.', '[.]')}: .*step features"):
        TextModel.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        TextModel.open(tmp_path)


def test_two_classes_and_one() -> None:
    two = CLASSES % 4 < 2
    model = TextModel.fit(TEXTS, np.where(two, 0, 3), 4, components=3, seed=0)
    assert model.head.log_probs(model.features(["cup", "boot"])).argmax(axis=1).tolist() == [0, 3]
    with pytest.raises(
        ShelfsortError, match="images of two categories in the train split, found 1"
    ):
        TextModel.fit(TEXTS, np.zeros(204, dtype=int), 4, components=3, seed=0)


def test_no_text_at_all() -> None:
    with pytest.raises(
        ShelfsortError,
        match=r"0 of the train split's 9 texts are not empty, and no word occurs in two of them",
    ):
        TextModel.fit([""] * 9, CLASSES[:9], 4, components=3, seed=0)


def test_runs_of_characters_survive_a_misread_letter(tmp_path: Path) -> None:
    TextModel.fit(TEXTS, CLASSES, 6, 8, seed=0, characters=True).save(tmp_path, {})
    model = TextModel.open(tmp_path)
    misread = model.features(["blve ovp", "red boof", "8lue bo0t"])
    assert np.linalg.norm(misread.astype(float), axis=1) == pytest.approx(1, abs=2e-3)
    assert model.head.log_probs(misread).argmax(axis=1).tolist() == [1, 2, 3]
    assert {"cup", "#cup", "red cup"} <= set(model.words)


def test_titles_from_before_there_were_runs_of_characters_are_read(
    model: TextModel, tmp_path: Path
) -> None:
    model.save(tmp_path, {})
    content = read_sealed(tmp_path / "text.json", "features")
    del content["characters"]
    write_sealed(tmp_path / "text.json", content)
    np.testing.assert_array_equal(TextModel.open(tmp_path).features(TEXTS), model.features(TEXTS))


def test_threads_of_blas_change_nothing() -> None:
    """Neither the directions nor the head; at this size BLAS does split its products."""
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(400)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(1200)]
    labels, features = rng.integers(0, 6, 1500), rng.normal(size=(1500, 256))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            model = TextModel.fit(texts, labels[:1200], 6, 64, 0)
            found.append((model.directions, *model.head, *fit_head(features, labels, 6)))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
