"""The networks of configs/small side by side (`shelfsort compare`) on some categories of a dump:
which learns most, and how fast.

    python -m benchmarks.networks --data DIR --out runs/photos30

DIR holds train.bson and category_names.csv. Without --data products are drawn. Test is not read.
Interrupted, the same command goes on.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import bson

from benchmarks import record
from catalog.artifacts import atomic_path
from catalog.synthetic.dump import SyntheticSpec, write_categories, write_dump
from catalog.taxonomy import Taxonomy
from pipeline import steps
from pipeline.config import load_config
from pipeline.experiments.compare import compare_networks, markdown
from pipeline.run_folder import RunFolder
from stage1_cnn.device import choose_compute

CONFIGS = Path(__file__).parents[1] / "configs" / "small"


def main() -> None:
    """Filters, ingests, trains, compares."""
    parser = record.parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with train.bson and category_names.csv")
    parser.add_argument("--out", type=Path, help="run directory, kept; a temporary one without")
    parser.add_argument(
        "--categories", type=int, default=30, help="the first so many of category_names.csv (30)"
    )
    parser.add_argument("--cap", type=int, default=60, help="training photos of a category (60)")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each network (1)")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=sorted(path.stem for path in CONFIGS.iterdir()),
        help="of configs/small",
    )
    options = parser.parse_args()
    if options.smoke:
        options.categories, options.cap, options.networks = 4, 8, ["mobilenet_v2", "vanilla"]
    with tempfile.TemporaryDirectory() as temporary:
        run = ingest(options.out or Path(temporary), options)
        smoke = ["stage1.epochs=1", "stage1.image_size=32"] if options.smoke else []
        configs = {
            name: load_config(CONFIGS / f"{name}.yaml", smoke).stage1 for name in options.networks
        }
        rows = compare_networks(run, configs, options.repeats)
        categories, photos = len(run.store.taxonomy), len(run.store.images("train"))
    print(
        f"{categories} categories, {photos} training photos, "
        f"top-1 on {rows[0].images} images of validation, {options.repeats} trainings each"
    )
    print(markdown(rows))
    figures = {
        "categories": categories,
        "train_images": photos,
        "rows": [asdict(row) for row in rows],
    }
    precision = choose_compute().precision
    record.save(options.json, figures, precision=precision, rounds=options.repeats)


def ingest(folder: Path, options: argparse.Namespace) -> RunFolder:
    """A run with the first categories of the dump."""
    run, data = RunFolder(folder), folder / "data"
    if not (data / "train.bson").exists():
        data.mkdir(parents=True, exist_ok=True)
        if options.data:
            _take(options.data, data, options.categories)
        else:
            spec = SyntheticSpec(
                categories=options.categories, products=30 * options.categories, side=64
            )
            write_categories(data / "category_names.csv", spec)
            write_dump(data / "train.bson", spec)
    config = load_config(None, [f"catalog.caps.train={options.cap}"])
    steps.ingest(
        run, config, [str(data / "train.bson")], data / "category_names.csv", rebuild=False
    )
    return run


def _take(source: Path, target: Path, categories: int) -> None:
    """The first categories of a dump, and their names."""
    lines = (
        (source / "category_names.csv")
        .read_text(encoding="utf-8")
        .splitlines(keepends=True)[: 1 + categories]
    )
    (target / "category_names.csv").write_text("".join(lines), encoding="utf-8")
    wanted = set(Taxonomy.from_csv(target / "category_names.csv").category_ids.tolist())
    with open(source / "train.bson", "rb") as file, atomic_path(target / "train.bson") as temporary:
        temporary.write_bytes(b"".join(_of(wanted, bson.decode_file_iter(file))))


def _of(wanted: set[int], documents: Iterable[dict]) -> Iterable[bytes]:
    return (bson.encode(document) for document in documents if document["category_id"] in wanted)


if __name__ == "__main__":
    main()
