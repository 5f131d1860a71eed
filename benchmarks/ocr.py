"""The words in photos as a view: what they add, what reading them costs, how well letters are read.

Claims: on a drawn catalogue, at least 20 points for books and packets whose siblings differ by
printed words only, and at most .1 lost in the other categories; on one core at 180 pixels at most
50 ms for a photo without words and half a second for one with. Needs the extra `ocr`.

    OMP_NUM_THREADS=1 python -m benchmarks.ocr [--folder F] [--smoke] [--json FILE]

Interrupted, the same command with a folder goes on; the letters' 30 photos are kept there.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image, ImageDraw
from sklearn.feature_extraction.text import strip_accents_unicode

from benchmarks import record
from catalog.images import decode
from catalog.intervals import clustered_change, clustered_share
from catalog.synthetic.dump import (
    SyntheticSpec,
    assign,
    categories,
    picture,
    write_categories,
    write_dump,
    write_labels,
)
from catalog.synthetic.printing import BOOK_SUBJECTS, PACKET_SUBJECTS, typeface
from features.ocr import RapidReader
from pipeline import steps
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from pipeline.shipped import CONFIGS

SIDE = 180
SIZES = (6, 8, 10, 14, 20)
"""Of the letters' font, in pixels of a photo of SIDE."""
LANGUAGES = ("English", "French", "German", "Polish", "Turkish", "Greek")
SETTINGS = ("stage1.image_size=64", "stage1.epochs=4", "stage2.published=false", "jobs=2")
COVER = "views.cover={ocr: rapidocr}"


def speed(reader: RapidReader, photos: int) -> dict[str, Any]:
    """Seconds a photo of SIDE pixels takes with and without words."""
    spec = SyntheticSpec(side=SIDE, covers=True, misleading=0, blanks=0, duplicates=0)
    every, category = categories(spec), assign(spec).category
    printed = np.array([bool(every[c].subject) for c in category])
    figures = {}
    for name, rows in (("without_words", ~printed), ("with_words", printed)):
        decoded = [decode(picture(spec, int(i), 0)) for i in np.flatnonzero(rows)[:photos]]
        reader(decoded[0])
        taken = np.array([_seconds(reader, photo) for photo in decoded])
        wall, processor = taken.T
        figures[name] = {
            "photos": len(decoded),
            "seconds": {"median": float(np.median(wall)), "most": float(wall.max())},
            "processor_seconds": {
                "median": float(np.median(processor)),
                "most": float(processor.max()),
            },
        }
        print(f"{name}: {figures[name]}", flush=True)
    return figures


def _seconds(reader: RapidReader, photo: np.ndarray) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    reader(photo)
    return time.perf_counter() - wall, time.process_time() - processor


def letters(reader: RapidReader, folder: Path) -> dict[str, Any]:
    """Draws a photo of each size and language into `folder`; which share of its characters is
    read: as they are printed, and in lower case without accents, as the view takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for size in SIZES:
        for number, language in enumerate(LANGUAGES):
            words = [subject[number] for subject in (*BOOK_SUBJECTS[:2], PACKET_SUBJECTS[0])]
            path = folder / f"{size:02d}-{language}.png"
            _draw(words, size, turn=(-10, 0, 10)[number % 3]).save(path)
            read, printed = reader(decode(path.read_bytes())), " ".join(words)
            plain = [strip_accents_unicode(text.lower()) for text in (printed, read)]
            shares = (accuracy(printed, read), accuracy(*plain))
            rows.append((size, language, *shares))
    table = pandas.DataFrame(rows, columns=["size", "language", "exact", "plain"])
    print(table.pivot(index="language", columns="size", values="plain").round(3), flush=True)
    means = {name: table.groupby(name)[["exact", "plain"]].mean() for name in ("size", "language")}
    return {
        "photos": len(table),
        **{f"by_{name}": mean.to_dict("index") for name, mean in means.items()},
    }


def _draw(words: Sequence[str], size: int, turn: float) -> Image.Image:
    photo = Image.new("RGB", (SIDE, SIDE), (40, 70, 130))
    draw, font = ImageDraw.Draw(photo), typeface("DejaVuSans", size)
    for line, text in enumerate(words):
        centre = (SIDE / 2, SIDE * (line + 1) / 4)
        draw.text(centre, text, fill=(240, 240, 230), font=font, anchor="mm")
    return photo.rotate(turn, Image.Resampling.BICUBIC, fillcolor=(40, 70, 130))


def accuracy(printed: str, read: str) -> float:
    """1 less the edits that make one text of the other, per character printed; at least 0."""
    costs = np.arange(len(read) + 1)
    for row, letter in enumerate(printed, start=1):
        replaced = costs[:-1] + [letter != other for other in read]
        best = np.minimum(replaced, costs[1:] + 1)
        costs = np.minimum.accumulate(np.concatenate([[row], best]) - np.arange(len(costs)))
        costs = costs + np.arange(len(costs))
    return max(0.0, 1 - int(costs[-1]) / len(printed))


def catalogue(folder: Path, products: int, test_products: int) -> dict[str, Any]:
    """A drawn catalogue with a small network; top-1 of the products of another dump, without and
    with the view."""
    train = SyntheticSpec(products=products, side=SIDE, covers=True)
    test = replace(train, products=test_products, seed=1_000_003, first_product_id=1 + products)
    data = _data(folder / "data", train, test)
    plain = RunFolder(folder / "without")
    _run(plain, data, SETTINGS)
    covered = RunFolder(folder / "with")
    if not covered.folder.exists():
        left_out = shutil.ignore_patterns("stage2", "predictions")
        shutil.copytree(plain.folder, folder / "copy", ignore=left_out, dirs_exist_ok=True)
        (folder / "copy").rename(covered.folder)
    _run(covered, data, (*SETTINGS, COVER))
    truth = pandas.read_csv(data / "test_labels.csv").set_index("_id")["category_id"]
    answers = pandas.DataFrame(
        {run.folder.name: _answers(run) for run in (plain, covered)}
    ).dropna()
    right = answers.eq(truth[answers.index], axis=0)
    subjects = {c.category_id: bool(c.subject) for c in categories(train)}
    printed = truth[answers.index].map(subjects).to_numpy()
    return {
        "products": {"train": products, "test": len(answers)},
        "top1": {
            "printed": change(right[printed]),
            "elsewhere": change(right[~printed]),
            "all": change(right),
        },
    }


def _data(folder: Path, train: SyntheticSpec, test: SyntheticSpec) -> Path:
    if not (folder / "test_labels.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_categories(folder / "category_names.csv", train)
        write_dump(folder / "train.bson", train)
        write_dump(folder / "test.bson", test, labelled=False)
        write_labels(folder / "test_labels.csv", test)
    return folder


def _run(run: RunFolder, data: Path, settings: Sequence[str]) -> None:
    config = load_config(CONFIGS / "demo.yaml", settings)
    dumps, names = [str(data / "train.bson")], data / "category_names.csv"
    steps.ingest(run, config, dumps, names, rebuild=False)
    for step in (steps.stage1, steps.features, steps.stage2):
        step(run, config, rebuild=False)
    out = run.folder / "predictions"
    steps.score(run, config, [str(data / "test.bson")], out, data / "test_labels.csv")


def _answers(run: RunFolder) -> pandas.Series:
    parts = sorted((run.folder / "predictions").glob("part-*.parquet"))
    table = pandas.concat(map(pandas.read_parquet, parts))
    return table.set_index("product_id")["category_id"]


def change(right: pandas.DataFrame) -> dict[str, Any]:
    """Top-1 without and with the view, and the paired change, with their intervals."""
    ones, group = np.ones(len(right)), np.arange(len(right))
    before, after = right["without"].to_numpy(), right["with"].to_numpy()
    gain = clustered_change(after.astype(float) - before, ones, group)
    figures = {
        "without": clustered_share(before, ones, group).to_json(),
        "with": clustered_share(after, ones, group).to_json(),
        "change": gain.to_json(),
    }
    print(f"{len(right)} products: {gain}", flush=True)
    return figures


def main() -> None:
    """The command line."""
    parser = record.parser(__doc__, smoke="few photos, to see that it runs")
    parser.add_argument("--folder", type=Path, help="keeps everything here (a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        reader = RapidReader("this benchmark")
        figures = {"reader": reader.name, "side": SIDE}
        figures["speed"] = speed(reader, 6 if options.smoke else 100)
        figures["letters"] = letters(reader, folder / "letters")
        figures["catalogue"] = catalogue(folder, *((240, 60) if options.smoke else (1200, 6000)))
    record.save(options.json, figures, precision="fp32")


if __name__ == "__main__":
    main()
