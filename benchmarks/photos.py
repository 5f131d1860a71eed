"""A store of drawn photos, and the same photos as files in folders: what the loader and trainer
benchmarks read.

Not a benchmark itself.
"""

from pathlib import Path

from catalog.config import CatalogConfig
from catalog.image_table import ImageTable
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.synthetic.dump import SyntheticSpec, write_dump


def write_store(
    folder: Path, *, products: int, side: int, categories: int = 20, seed: int = 0
) -> Store:
    """Draws a dump and ingests it."""
    dump = folder / "train.bson"
    write_dump(
        dump,
        SyntheticSpec(
            categories=categories, products=products, side=side, seed=seed, duplicates=0, blanks=0
        ),
    )
    ingest_dump(
        folder / "store.sqlite",
        [dump],
        None,
        CatalogConfig(),
        index_folder=folder / "dumps",
        jobs=1,
    )
    dump.unlink()
    return Store(folder / "store.sqlite")


def write_folders(store: Store, table: ImageTable, folder: Path) -> Path:
    """The photos of `table` as files in one folder per category, as torchvision's ImageFolder."""
    for start in range(0, len(table), 500):
        block = table[start : start + 500]
        for image_id, class_index, data in zip(
            block.image_id, block.class_index, store.read(block.image_id), strict=True
        ):
            path = folder / f"{class_index:05d}" / f"{image_id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder
