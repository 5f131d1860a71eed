"""Similar products: a photo of the catalogue finds its own product; the command makes its index,
and refuses a stale one."""

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from catalog.errors import ShelfsortError
from catalog.image_table import POSITIONS
from pipeline.cli import main
from pipeline.retrieval import similar
from pipeline.retrieval.similar import Finder, find_similar
from tests.pipeline.tiny import Tiny


@pytest.fixture(scope="module")
def copy(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A run that may hold an index."""
    return tiny.copy(tmp_path_factory.mktemp("similar") / "run")


@pytest.fixture(scope="module")
def finder(copy: Tiny) -> Finder:
    return Finder.open(copy.run)


def photo_of(tiny: Tiny, row: int, folder: Path) -> tuple[Path, int, int]:
    """A catalogue photo as a file, its product and position."""
    image_id = int(tiny.run.features.table.image_id[row])
    path = folder / f"{image_id}.jpg"
    path.write_bytes(tiny.run.store.read([image_id])[0])
    return path, image_id // POSITIONS, image_id % POSITIONS


def test_a_photo_of_the_catalogue_finds_itself(copy: Tiny, finder: Finder, tmp_path: Path) -> None:
    store = copy.run.store
    for row in (3, 200, 500):
        path, product, _ = photo_of(copy, row, tmp_path)
        found, unreadable = find_similar(finder, [path], 6)
        assert not unreadable and len(found) == 6 and len({p.product_id for p in found}) == 6
        alike = [p for p in found if p.cosine > 0.9999]
        assert product in [
            p.product_id for p in alike
        ]  # duplicates of the picture may stand beside it
        assert [p.cosine for p in found] == sorted((p.cosine for p in found), reverse=True)
        query = "SELECT class_index FROM products WHERE product_id = ?"
        for p in found:
            assert (
                store.taxonomy[store.connection.execute(query, (p.product_id,)).fetchone()[0]]
                == p.category
            )


def test_several_photos_count_by_the_most_alike(copy: Tiny, finder: Finder, tmp_path: Path) -> None:
    (first, a, _), (second, b, _) = (photo_of(copy, row, tmp_path) for row in (3, 500))
    found, _ = find_similar(finder, [first, second], 10)
    assert {a, b} <= {p.product_id for p in found if p.cosine > 0.9999}


def test_a_product_with_very_many_images_does_not_hide_the_others(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = finder.index.store.table
    features = finder.index.store.features(slice(0, 1))
    nearest = finder.index.nearest(features, len(table))[0][0]
    crowd = table.product_id.copy()
    crowd[nearest[:600]] = 7  # more than the first shortlist
    monkeypatch.setitem(
        finder.index.store.__dict__,
        "table",
        type(table)(
            *(crowd if n == "product_id" else getattr(table, n) for n in table.__dataclass_fields__)
        ),
    )
    found = finder.products(features, 4)
    assert found[0].product_id == 7 and len({p.product_id for p in found}) == 4


def test_what_cannot_be_read(copy: Tiny, finder: Finder, tmp_path: Path) -> None:
    path, _, _ = photo_of(copy, 3, tmp_path)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(path.read_bytes()[:40])
    found, unreadable = find_similar(finder, [bad, path], 1)
    assert list(unreadable) == [str(bad)] and len(found) == 1
    with pytest.raises(ShelfsortError, match=r"bad\.jpg: "):
        find_similar(finder, [bad], 1)
    with pytest.raises(ShelfsortError, match=r"none\.jpg: can't be read"):
        find_similar(finder, [tmp_path / "none.jpg"], 1)


def test_the_command(
    copy: Tiny, finder: Finder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, _, _ = photo_of(copy, 3, tmp_path)
    command = ["similar", str(path), "--run", str(copy.folder), "--top", "3"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].split() == ["cosine", "product", "image", "category"]
    assert lines[1].split()[0] == "1.000"
    assert main([*command, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["product_id"] for row in rows] == [line.split()[1] for line in lines[1:]]
    assert float(rows[0]["cosine"]) == pytest.approx(1, abs=1e-3)


def test_a_stale_index_is_rebuilt(
    copy: Tiny, finder: Finder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, _, _ = photo_of(copy, 3, tmp_path)
    own = copy.copy(tmp_path / "run")
    manifest, codes = (own.folder / "similar" / name for name in ("manifest.json", "codes.npy"))
    whole = codes.read_bytes()
    checkpoint = copy.run.features.made_from["checkpoint"]
    manifest.write_text(manifest.read_text().replace(checkpoint, "0" * 64))
    codes.write_bytes(b"of other features")
    assert main(["similar", str(path), "--run", str(own.folder)]) == 0
    assert codes.read_bytes() == whole and checkpoint in manifest.read_text()
    capsys.readouterr()


def test_corrected_labels_extract_nothing_again(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features for look-ups, which a run in another precision has beside its own, stay."""
    own = tiny.copy(tmp_path / "run")
    with h5py.File(own.run.features_path, "r+") as file:
        made = json.loads(file.attrs["computed_with"]) | {"device": "NVIDIA H100"}
        file.attrs["computed_with"] = json.dumps(made)
    path, product, _ = photo_of(own, 3, tmp_path)
    command = ["similar", str(path), "--run", str(own.folder), "--top", "5", "--csv"]

    def found() -> dict[str, dict[str, str]]:
        capsys.readouterr()
        assert main(command) == 0
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return {row["product_id"]: row for row in rows}

    before = found()
    old = before[str(product)]
    new = next(str(c) for c in own.run.store.taxonomy.category_ids if str(c) != old["category_id"])
    file = tmp_path / "corrections.csv"
    file.write_text(f"product_id,category_id\n{product},{new}\n")
    options = ["--run", str(own.folder), *own.ingest_options, "--corrections", str(file)]
    assert main(["ingest", *options]) == 0
    as_before = ["--set", "features.precision=fp32"]
    assert main(["features", "--run", str(own.folder), *as_before]) == 0
    monkeypatch.setattr(similar, "extract", None)  # whoever calls it fails
    after = found()
    assert after == before | {str(product): after[str(product)]}
    assert after[str(product)]["category_id"] == new
    assert found() == after


def test_a_damaged_index_is_refused_until_it_is_rebuilt(
    copy: Tiny, finder: Finder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, _, _ = photo_of(copy, 3, tmp_path)
    own = copy.copy(tmp_path / "run")
    (own.folder / "similar" / "codes.npy").write_bytes(b"not these")
    command = ["similar", str(path), "--run", str(own.folder)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "codes.npy: its checksum" in error and f"--run {own.folder} --rebuild" in error
    assert main([*command, "--rebuild"]) == 0 and main(command) == 0
    assert np.load(own.folder / "similar" / "codes.npy").dtype == np.int8
