"""A dump against listed images: the listed ones are found, every product has its row, parts are
kept or refused."""

import io
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import nn

from catalog.errors import ArtifactError, ShelfsortError
from catalog.sources.source import open_source
from features.neighbours import unit
from pipeline.cli import main
from pipeline.config import ScoreConfig
from pipeline.retrieval.lookalikes import (
    ListedImages,
    LookalikeTotals,
    find_lookalikes,
    list_scan,
)
from pipeline.retrieval.similar import LOOK_UPS
from stage1_cnn.checkpoint import load
from stage1_cnn.device import inference_compute
from stage1_cnn.networks.backbones import Network
from stage1_cnn.predict import Predictor
from tests.catalog.served import served
from tests.conftest import jpeg
from tests.pipeline.tiny import Tiny, documents, write_dump

CONFIG = ScoreConfig(part_mb=1, batch_size=50)
BROKEN = 5
"""Every so many products lose all their images."""


@pytest.fixture(scope="module")
def predictor(tiny: Tiny) -> Predictor:
    """A network that tells pictures apart on any processor, as one trained in seconds need not: a
    convolution whose filters are an orthonormal basis of patches of 4 x 4 pixels, so that its
    cosines are those of the pixels."""
    generator = torch.Generator().manual_seed(0)
    patches = nn.Conv2d(3, 48, kernel_size=4, stride=4, bias=False)
    basis = torch.linalg.qr(torch.randn(48, 48, generator=generator)).Q
    patches.weight = nn.Parameter(basis.reshape(48, 3, 4, 4))
    network = Network(
        nn.Sequential(patches, nn.Flatten()), nn.Linear(48 * 8 * 8, len(tiny.run.store.taxonomy))
    )
    path = tiny.run.checkpoint
    return Predictor(network, load(path), inference_compute(**LOOK_UPS), path)


@pytest.fixture(scope="module")
def dump(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products in several parts; some have no readable image."""

    def change(document: dict) -> None:
        document["padding"] = b"x" * 20_000
        if document["_id"] % BROKEN == 0:
            document["imgs"] = [{"picture": b"\xff\xd8\xff broken"}]

    path = tmp_path_factory.mktemp("lookalikes") / "test.bson"
    write_dump(path, tiny.data / "test.bson", lambda d: True, change)
    return path


@pytest.fixture
def banned(dump: Path, tmp_path: Path) -> tuple[Path, dict]:
    """A list of two images: the last one of a product of the dump, re-encoded larger, and one of
    nothing in it."""
    product = next(d for d in documents(dump) if d["_id"] % BROKEN and len(d["imgs"]) >= 2)
    image = Image.open(io.BytesIO(product["imgs"][-1]["picture"]))
    (tmp_path / "images").mkdir()
    image.resize((48, 48)).save(tmp_path / "images" / "copy.png")
    (tmp_path / "images" / "other.jpg").write_bytes(jpeg(3))
    path = tmp_path / "banned.txt"
    path.write_text("# banned\n\nimages/other.jpg\nimages/copy.png\n")
    return path, product


def look(
    predictor: Predictor, source: Path, listed: ListedImages, threshold: float, out: Path
) -> LookalikeTotals:
    return find_lookalikes(
        predictor, open_source([source], out / "dumps"), listed, threshold, out, CONFIG, lanes=2
    )


def rows(out: Path) -> pandas.DataFrame:
    return pandas.concat(
        [pandas.read_parquet(p) for p in sorted(out.glob("lookalikes-*.parquet"))],
        ignore_index=True,
    )


def test_listed_images_are_found(
    predictor: Predictor, dump: Path, banned: tuple[Path, dict], tmp_path: Path
) -> None:
    path, product = banned
    listed = ListedImages.read(path, predictor)
    totals = look(predictor, dump, listed, 0.97, tmp_path / "out")
    table = rows(tmp_path / "out")
    assert table["product_id"].tolist() == [d["_id"] for d in documents(dump)]
    assert len(list((tmp_path / "out").glob("lookalikes-*.parquet"))) >= 3
    best = table.loc[table[table["listed"] == "images/copy.png"]["cosine"].idxmax()]
    assert (
        best["product_id"] == product["_id"]
        and best["position"] == len(product["imgs"]) - 1
        and best["match"]
    )
    broken = table["product_id"] % BROKEN == 0
    assert table[broken]["cosine"].isna().all() and not table[broken]["match"].any()
    assert (table[broken]["unreadable"] == 1).all() and (table[broken]["n_images"] == 0).all()
    assert table[~broken]["listed"].isin(listed.names).all()
    pandas.testing.assert_series_equal(table["match"], table["cosine"] >= 0.97, check_names=False)
    assert totals.matches == table["match"].sum() and totals.unreadable_images == broken.sum()
    assert (
        json.loads((tmp_path / "out" / "_LOOKALIKES").read_text())["products"]
        == totals.products
        == len(table)
    )


def test_parts_are_kept_remade_or_refused(
    predictor: Predictor, dump: Path, banned: tuple[Path, dict], tmp_path: Path
) -> None:
    listed, out = ListedImages.read(banned[0], predictor), tmp_path / "out"
    totals = look(predictor, dump, listed, 0.9, out)
    before, parts = rows(out), sorted(out.glob("lookalikes-*.parquet"))
    content = bytearray(parts[1].read_bytes())
    content[len(content) // 3] ^= 1
    parts[1].write_bytes(content)
    times = [p.stat().st_mtime_ns for p in parts]
    assert look(predictor, dump, listed, 0.9, out) == totals
    assert [p.stat().st_mtime_ns == t for p, t in zip(parts, times, strict=True)] == [
        i != 1 for i in range(len(parts))
    ]
    pandas.testing.assert_frame_equal(rows(out), before)
    with pytest.raises(
        ArtifactError,
        match=r"lookalikes-00000\.parquet: made from something else: threshold was 0\.9",
    ):
        look(predictor, dump, listed, 0.8, out)
    with pytest.raises(ArtifactError, match="made from something else: listed was"):
        look(predictor, dump, ListedImages.read(banned[0].parent / "images", predictor), 0.9, out)


def test_a_list_that_cannot_be_used(
    predictor: Predictor, banned: tuple[Path, dict], tmp_path: Path
) -> None:
    folder = ListedImages.read(banned[0].parent / "images", predictor)
    assert folder.names == ("copy.png", "other.jpg")
    path = tmp_path / "list.txt"
    for text, expected in (
        ("", r"list\.txt: names no image"),
        ("none.jpg\n", r"none\.jpg: can't be read: No such file"),
        ("banned.txt\n", r"list\.txt: banned\.txt: not_an_image"),
    ):
        path.write_text(text)
        with pytest.raises(ShelfsortError, match=expected):
            ListedImages.read(path, predictor)
    with pytest.raises(ShelfsortError, match="can't be read as a list"):
        ListedImages.read(tmp_path / "absent.txt", predictor)


def test_the_command(
    tiny: Tiny, dump: Path, banned: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = tiny.scoring(tmp_path / "out", "--list", str(banned[0]), dump=dump)
    assert main([*command, "--threshold", "0.97"]) == 0
    text = capsys.readouterr().out
    assert (
        "against 2 images" in text
        and f"{rows(tmp_path / 'out')['match'].sum()} with a cosine of 0.97 or more" in text
    )
    with pytest.raises(SystemExit):
        main([*command, "--threshold", "95"])
    assert "expected a cosine from -1 to 1" in capsys.readouterr().err


def test_what_a_server_withholds_for_a_while_is_looked_at_by_the_same_command(
    predictor: Predictor, banned: tuple[Path, dict], tmp_path: Path
) -> None:
    listed, faults = ListedImages.read(banned[0], predictor), {"/images/other.jpg": 503}
    with served(tmp_path, faults) as url:
        (tmp_path / "t.csv").write_text(f"product_id,url\n1,{url}/images/other.jpg\n")
        found = look(predictor, tmp_path / "t.csv", listed, 0.99, tmp_path / "out")
        assert (found.matches, found.unreadable_images, found.unreachable_images) == (0, 1, 1)
        faults.clear()
        found = look(predictor, tmp_path / "t.csv", listed, 0.99, tmp_path / "out")
        assert (found.matches, found.unreadable_images, found.unreachable_images) == (1, 0, 0)


def test_a_folder_of_photos_against_a_list(
    predictor: Predictor, banned: tuple[Path, dict], tmp_path: Path
) -> None:
    path, product = banned
    (tmp_path / "photos").mkdir()
    for place, image in enumerate(product["imgs"]):
        name = f"blue chair_{place}.jpg" if place else "blue chair.jpg"
        (tmp_path / "photos" / name).write_bytes(image["picture"])
    look(predictor, tmp_path / "photos", ListedImages.read(path, predictor), 0.97, tmp_path / "out")
    (found,) = rows(tmp_path / "out").to_dict("records")
    assert (found["product_id"], found["n_images"], found["listed"]) == (
        "blue chair",
        len(product["imgs"]),
        "images/copy.png",
    )


def test_a_very_long_list_is_scanned_and_a_copy_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss", reason="needs the extra similar")
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(4000, 96)) + 2)
    monkeypatch.setattr("features.scan.LARGE", 1000)
    scan = list_scan(vectors)
    assert scan is not None
    names = tuple(map(str, range(len(vectors))))
    scanned, plain = (ListedImages(names, vectors, "", s) for s in (scan, None))
    best, cosine = scanned.nearest(vectors[::40])
    np.testing.assert_array_equal(best, np.arange(len(vectors))[::40])
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    others = unit(rng.normal(size=(200, 96)) + 2)
    assert (scanned.nearest(others)[0] == plain.nearest(others)[0]).mean() >= 0.99
    assert [len(found) for found in scanned.nearest(others[:0])] == [0, 0]


@pytest.mark.parametrize(
    "more", [["--labels", "l.csv"], ["--workers", "2"], ["--top", "3"], ["--min-confidence", "0.5"]]
)
def test_options_that_say_nothing_beside_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str]
) -> None:
    command = [
        "score",
        "x.bson",
        "--run",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--list",
        "banned.txt",
        *more,
    ]
    assert main(command) == 2 and f"{more[0]} has no effect with --list" in capsys.readouterr().err
