"""The figure of where a landmark network looks."""

from pathlib import Path

import pytest
from PIL import Image

from catalog.store.reader import Store
from pipeline.cli import main
from tests.conftest import SmallDump

SETTINGS = [
    "stage1.weights=none",
    "stage1.image_size=32",
    "stage1.epochs=1",
    "stage1.batch_size=32",
    "jobs=1",
]


def trained(run: Path, dump: SmallDump, *settings: str) -> Path:
    """A run with a network that hardly learnt anything."""
    options = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    where = ["--dump", str(dump.path), "--categories", str(dump.categories)]
    assert main(["ingest", "--run", str(run), *where, *options]) == 0
    assert main(["stage1", "--run", str(run)]) == 0
    return run


def test_attention_is_drawn_for_four_products(
    small_dump: SmallDump, small_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = trained(
        tmp_path / "run", small_dump, "stage1.backbone=vgg16_landmarks", "stage1.width=0.05"
    )
    assert main(["plot", "attention", str(run), "--out", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().out.strip().endswith("a.png")
    shown = min(4, len(set(small_store.images("val_a").product_id.tolist())))
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (600 * shown, 1280)
    assert main(["plot", "attention", str(run)]) == 0
    assert (run / "report" / "figures" / "attention.svg").stat().st_size > 5000


def test_other_networks_have_none_to_draw(
    small_dump: SmallDump, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = trained(tmp_path / "run", small_dump, "stage1.backbone=vanilla", "stage1.width=0.02")
    assert main(["plot", "attention", str(run)]) == 2
    assert "expected one of stage1.backbone vgg16_landmarks" in capsys.readouterr().err
