"""The whole product on a tiny synthetic catalogue, made once and read by many tests."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bson
import numpy as np

from catalog.artifacts import read_sealed, write_sealed
from catalog.synthetic.dump import SyntheticSpec
from pipeline import steps
from pipeline.config import RunConfig, load_config
from pipeline.demo import write_synthetic
from pipeline.run_folder import RunFolder
from stage2_xgb.bundle import model_name
from tests.conftest import PRECISION

SETTINGS = (
    "stage1.backbone=resnet18",
    "stage1.weights=none",
    "stage1.image_size=32",
    "stage1.epochs=2",
    "stage1.lr=2e-3",
    f"stage1.precision={PRECISION}",
    "features.runtime=torch",
    "score.part_mb=1",
    "jobs=1",
    "views.small={backbone: shufflenet_v2_x0_5, epochs: 1}",
)
ONE_VIEW = (
    "stage1.backbone=shufflenet_v2_x0_5",
    "stage1.weights=none",
    "stage1.image_size=32",
    "stage1.epochs=1",
    "stage1.lr=2e-3",
    f"stage1.precision={PRECISION}",
    "jobs=1",
)
"""A quick network alone, to which a test adds a view of its own."""


@dataclass(frozen=True)
class Tiny:
    """Where everything of it lies. The run is only to be read; `copy` gives one of your own."""

    data: Path
    folder: Path

    @property
    def run(self) -> RunFolder:
        """The run, opened again."""
        return RunFolder(self.folder)

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return load_config(self.folder / "config.yaml")

    @property
    def ingest_options(self) -> list[str]:
        """What the ingest was told."""
        return [
            "--dump",
            str(self.data / "train.bson"),
            "--categories",
            str(self.data / "category_names.csv"),
        ]

    def scoring(self, out: Path, *more: str, dump: Path | None = None) -> list[str]:
        """The command that scores its test dump, or another."""
        dump = dump or self.data / "test.bson"
        return ["score", str(dump), "--run", str(self.folder), "--out", str(out), *more]

    def copy(self, folder: Path) -> "Tiny":
        """A copy of the run; checkpoints are linked, as nobody writes into one."""

        def take(source: str, target: str) -> None:
            (os.link if source.endswith(".pt") else shutil.copy2)(source, target)

        shutil.copytree(self.folder, folder, copy_function=take)
        return Tiny(self.data, folder)


def make(
    folder: Path,
    settings: Sequence[str] = SETTINGS,
    products: int = 600,
    *,
    titles: bool = False,
    columns: bool = False,
) -> Tiny:
    """Generates the dump and runs every step up to evaluation."""
    tiny = Tiny(folder / "data", folder / "run")
    spec = SyntheticSpec(categories=8, products=products, side=32, titles=titles, columns=columns)
    write_synthetic(tiny.data, spec)
    run, config = tiny.run, load_config(None, settings)
    steps.ingest(
        run,
        config,
        [str(tiny.data / "train.bson")],
        tiny.data / "category_names.csv",
        rebuild=False,
    )
    run.save_config(config)
    for step in (steps.stage1, steps.features, steps.stage2, steps.evaluate):
        step(run, config, rebuild=False)
    return tiny


def documents(path: Path) -> Iterator[dict]:
    """The documents of a dump, as plain dictionaries."""
    with open(path, "rb") as file:
        yield from bson.decode_file_iter(file)


def write_dump(
    path: Path,
    source: Path,
    keep: Callable[[dict], bool],
    change: Callable[[dict], object] = lambda d: None,
) -> int:
    """Writes some documents of a dump to another, each changed in place; returns their number."""
    count = 0
    with open(path, "wb") as file:
        for document in documents(source):
            if keep(document):
                change(document)
                file.write(bson.encode(document))
                count += 1
    return count


def products_of(run: RunFolder, split: str) -> set[int]:
    """Ids of a split's kept products without blank images: all of them are in the features."""
    query = """SELECT product_id FROM products WHERE split = ? AND state = 'kept'
               AND product_id NOT IN (SELECT product_id FROM images WHERE status = 'blank')"""
    return {i for (i,) in run.store.connection.execute(query, (split,))}


def boosters_answer(tiny: Tiny) -> list[Path]:
    """Has every category that has a reclassifier of its own answered by that, whatever the gate
    said; returns their files."""
    path = tiny.run.stage2 / "manifest.json"
    manifest = read_sealed(path, "")
    names = [name for name in manifest["files"] if name.startswith("boosters/")]
    for category in manifest["categories"]:
        if model_name(category["class_index"]) in names:
            category["decision"] = "own"
    write_sealed(path, manifest)
    return [tiny.run.stage2 / name for name in names]


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the lock, and config.yaml, which names the code's revision."""
    files = (
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("lock", "config.yaml")
    )
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def same(a: np.ndarray, b: np.ndarray) -> float:
    """Share of equal elements."""
    return float((np.asarray(a) == np.asarray(b)).mean())
