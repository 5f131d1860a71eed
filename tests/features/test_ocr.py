"""What reads the words in photos. The tests that read need the extra `ocr`, and skip without it."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from catalog.errors import ShelfsortError
from catalog.images import decode
from catalog.synthetic.dump import SyntheticSpec, look_of, picture
from catalog.synthetic.printing import typeface
from features.ocr import LONGEST, SIDE, RapidReader, fitted, require_packages


def drawn(words: str, height: int = 24, side: int = 180, turn: float = 0) -> np.ndarray:
    """A photo with a line of words across its middle."""
    picture = Image.new("RGB", (side, side), (40, 70, 130))
    place = (side / 2, side / 2)
    font = typeface("DejaVuSans", height)
    ImageDraw.Draw(picture).text(place, words, fill="white", font=font, anchor="mm")
    return np.asarray(picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor=(40, 70, 130)))


@pytest.fixture(scope="module")
def reader() -> RapidReader:
    """Skips where it is not installed."""
    pytest.importorskip("rapidocr", reason="needs the extra `ocr`: pip install 'shelfsort[ocr]'")
    return RapidReader("a test")


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((180, 180), (SIDE, SIDE)),
        ((90, 180), (SIDE // 2, SIDE)),
        ((SIDE, 10), (SIDE, 10)),
        ((500, 400), (500, 400)),
        ((4000, 3000), (LONGEST, LONGEST * 3 // 4)),
        ((1, 1), (SIDE, SIDE)),
        ((1, 20_000), (1, LONGEST)),
    ],
)
def test_small_photos_are_enlarged_and_large_ones_reduced(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    photo = np.full((*shape, 3), 77, dtype=np.uint8)
    found = fitted(photo)
    assert found.shape == (*expected, 3) and found.dtype == np.uint8 and (found == 77).all()
    assert (found is photo) == (shape == expected)


def test_without_the_package_the_extra_is_named() -> None:
    if importlib.util.find_spec("rapidocr"):
        pytest.skip("rapidocr is installed")
    message = r"view cover needs the package rapidocr; .*pip install 'shelfsort\[ocr\]'"
    with pytest.raises(ShelfsortError, match=message):
        require_packages("view cover")
    with pytest.raises(ShelfsortError, match=message):
        RapidReader("view cover")


@pytest.mark.parametrize(
    "words, height, turn", [("Garden", 24, 0), ("Küche", 14, 10), ("Książka", 20, -15)]
)
def test_words_are_read(reader: RapidReader, words: str, height: int, turn: float) -> None:
    assert reader(drawn(words, height, turn=turn)) == words


def test_drawn_covers_are_read(reader: RapidReader) -> None:
    """In the six languages' letters, large and small, slanted as the product lies."""
    spec = SyntheticSpec(products=150, side=180, covers=True, misleading=0, blanks=0, duplicates=0)
    found = []
    for index in range(150):
        if lines := look_of(spec, index).lines:
            text = reader(decode(picture(spec, index, 0)))
            found.append(lines[1].words.lower() in text.lower())
    assert len(found) > 40 and np.mean(found) > 0.7


def test_lines_are_read_from_top_to_bottom(reader: RapidReader) -> None:
    photo = np.concatenate([drawn("Jardin"), drawn("Voyage")])
    assert reader(photo) == "Jardin Voyage"


def test_a_photo_without_words_has_none(reader: RapidReader) -> None:
    assert reader(drawn("")) == reader(drawn("7", 90)) == ""


@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (5, 300), (1500, 40)])
def test_photos_of_any_shape_are_looked_at(reader: RapidReader, shape: tuple[int, int]) -> None:
    assert reader(np.full((*shape, 3), 200, dtype=np.uint8)) == ""


def test_threads_read_the_same(reader: RapidReader) -> None:
    photos = [drawn(f"Number {number}", 12 + number % 9) for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader, photos)) == [reader(photo) for photo in photos]
