"""Landmarks beside a dump: read, written, and refused by line."""

from pathlib import Path

import numpy as np
import pytest

from catalog.errors import ConfigError
from catalog.landmarks import HEADER, read_landmarks, write_landmarks
from catalog.synthetic.dump import SyntheticSpec, landmarks, products, write_landmarks_of

SPEC = SyntheticSpec(
    categories=4, products=30, side=48, seed=3, duplicates=0.2, blanks=0.1, misleading=0.2
)


def test_round_trip(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((2, 8, 3)).astype(np.float32)
    write_landmarks(tmp_path / "l.csv", [(9, 1, points[0]), (3, 0, points[1])])
    found = read_landmarks(tmp_path / "l.csv")
    assert found.image_id.tolist() == [3 * 16384, 9 * 16384 + 1]
    got = found.of(np.array([9 * 16384 + 1, 77, 3 * 16384]))
    assert np.allclose(got, [points[0], np.zeros((8, 3)), points[1]], atol=1e-4)


def test_an_empty_file_has_none(tmp_path: Path) -> None:
    write_landmarks(tmp_path / "l.csv", [])
    assert not read_landmarks(tmp_path / "l.csv").of(np.array([5])).any()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a,b\n", "stage1.landmarks: .*line 1: column product_id is missing"),
        (",".join(HEADER) + "\n1,0,0.5\n", "line 2: found 3 fields, expected 26"),
        (
            ",".join(HEADER) + "\n1,0" + ",0" * 24 + "\n1,x" + ",0" * 24,
            "line 3: expected an integer",
        ),
        (
            ",".join(HEADER) + f"\n{2**49},0" + ",0" * 24,
            f"line 2: {2**49} is not from 0 to {2**49 - 1}",
        ),
        (",".join(HEADER) + "\n1,20000" + ",0" * 24, "line 2: 20000 is not from 0 to 16383"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ConfigError, match=expected):
        read_landmarks(tmp_path / "l.csv")
    with pytest.raises(ConfigError, match="can't be read"):
        read_landmarks(tmp_path / "none.csv")


def test_every_photo_of_a_synthetic_dump_has_a_row(tmp_path: Path) -> None:
    write_landmarks_of(tmp_path / "l.csv", SPEC)
    expected = [d["_id"] * 16384 + place for d in products(SPEC) for place in range(len(d["imgs"]))]
    found = read_landmarks(tmp_path / "l.csv")
    assert found.image_id.tolist() == expected
    seen = found.points[..., 2].any(axis=1)
    assert 0.6 < seen.mean() < 0.95, "blank and misleading photos have none"


def test_landmarks_lie_on_the_products_edge() -> None:
    """On a white ground: nothing but white lies beyond the outermost point to the right, and
    something right before it."""
    import io

    from PIL import Image

    from catalog.synthetic.dump import picture

    spec = SyntheticSpec(
        categories=4, products=40, side=96, seed=1, duplicates=0, blanks=0, misleading=0
    )
    right = 0
    for index in range(40):
        pixels = np.asarray(Image.open(io.BytesIO(picture(spec, index, 0)))).astype(int)
        points = landmarks(spec, index, 0)
        assert np.allclose(
            points[[0, 2, 4, 6]][:, [0, 1, 0, 1]].diagonal()[[0, 1]] >= points[4, 0], True
        )
        if pixels[:4].min() < 235 or not points[0, 2]:
            continue
        edge = int(points[0, 0] * 96)
        dark = (pixels.max(axis=2) < 225).any(axis=0)
        right += dark[max(0, edge - 4) : edge + 1].any() and not dark[edge + 3 :].any()
    assert right > 10
