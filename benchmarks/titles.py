"""Titles and the words printed in photos: one view of their joined text, or two?

Decided out of fold, on the products of reserve and val_a of a drawn catalogue with both (`synthetic
--covers --titles`). Needs the extra `ocr`.

    OMP_NUM_THREADS=1 python -m benchmarks.titles [--folder F] [--products N] [--json FILE]

Interrupted, the same command with a folder goes on.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import record
from benchmarks.ocr import COVER, SETTINGS, SIDE
from benchmarks.paired import change, of_out_of_fold
from catalog.splits import SPLITS
from catalog.synthetic.dump import SyntheticSpec, categories, write_categories, write_dump
from features.cover import PictureTexts
from features.text import TextModel
from pipeline import steps
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from pipeline.shipped import CONFIGS

TITLE = "views.title={text: tfidf}"
COMPONENTS = 128


def measure(folder: Path, products: int) -> dict[str, Any]:
    """Top-1 of the pool by one view and by two, and the change, out of fold."""
    spec = SyntheticSpec(products=products, side=SIDE, covers=True, titles=True)
    two, one = RunFolder(folder / "two"), RunFolder(folder / "one")
    _fit(two, _data(folder / "data", spec), COVER, TITLE)
    if not one.folder.exists():
        left_out, half = shutil.ignore_patterns("stage2"), folder / "copy"
        shutil.copytree(two.folder, half, ignore=left_out, dirs_exist_ok=True)
        half.rename(one.folder)
    vectors = folder / "joined.h5"
    _join(two, vectors)
    _fit(one, folder / "data", f"views.joined={{file: {vectors}}}")
    printed = {c.category_id for c in categories(spec) if c.subject}
    tables = [of_out_of_fold(run) for run in (one, two)]
    ids = two.store.taxonomy.category_ids[tables[0]["class_index"]]
    on_print = np.isin(ids, list(printed))
    subsets = {"all": on_print | True, "printed": on_print, "elsewhere": ~on_print}
    changes = {name: change(*(table[rows] for table in tables)) for name, rows in subsets.items()}
    return {"products": products, "one_and_two_views": changes}


def _data(folder: Path, spec: SyntheticSpec) -> Path:
    if not (folder / "train.bson").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_categories(folder / "category_names.csv", spec)
        write_dump(folder / "train.bson", spec)
    return folder


def _fit(run: RunFolder, data: Path, *views: str) -> None:
    config = load_config(CONFIGS / "demo.yaml", (*SETTINGS, "catalog.text=title", *views))
    names = data / "category_names.csv"
    steps.ingest(run, config, [str(data / "train.bson")], names, rebuild=False)
    for step in (steps.stage1, steps.features, steps.stage2):
        step(run, config, rebuild=False)


def _join(run: RunFolder, path: Path) -> None:
    """Vectors of the title and the printed words of each photo, as one text."""
    store, view = run.store, run.view("cover").folder
    (reader,) = (view / "words").iterdir()
    words, images = PictureTexts(view, reader.name), store.images()
    digests = store.picture_digests(images.image_id)
    pairs = zip(store.texts(images.product_id), digests, strict=True)
    texts = [f"{title} {words[digest]}" for title, digest in pairs]
    rows = np.flatnonzero((images.split == SPLITS.index("train")) & images.fit)
    known, labels = [texts[row] for row in rows], images.class_index[rows]
    classes = len(store.taxonomy)
    model = TextModel.fit(known, labels, classes, COMPONENTS, 0, characters=True)
    with h5py.File(path, "w") as file:
        file["image_id"], file["features"] = images.image_id, model.features(texts)


def main() -> None:
    """The command line."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("--folder", type=Path, help="keeps everything here (a temporary folder)")
    parser.add_argument("--products", type=int, default=1600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(options.folder or Path(temporary), options.products)
    record.save(options.json, figures, precision="fp32")


if __name__ == "__main__":
    main()
