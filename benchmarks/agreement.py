"""How well the ways of answering agree: evaluation, scoring in this process, on two dask workers
and by ONNX Runtime, `predict`, and the exported reader; for information PyTorch in bf16. Each gets
the test split, written as a dump, and is compared with evaluation/items.parquet; or gets another
dump, and is compared with scoring in this process.

Claim: at least 99.9% of the products get the same category, confidences within 1e-2 (bf16 aside).
Run: python -m benchmarks.agreement RUN [DUMP] [--predict N] [--json FILE], or --smoke for a small
run of its own.
"""

import functools
import importlib.util
import io
import shlex
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bson
import numpy as np
import pandas
from PIL import Image

from benchmarks import record
from benchmarks.scoring import make_run
from catalog.errors import ImageError, ShelfsortError
from catalog.parallel import cores
from catalog.sources.source import ProductSource, open_source
from pipeline import steps
from pipeline.cluster.client import connect
from pipeline.config import RunConfig, load_config
from pipeline.exchange.export import export_model
from pipeline.model import TwoStageModel, predict_files
from pipeline.run_folder import RunFolder

_BATCH = 64


def main() -> None:
    """Prints a line for each way of answering."""
    parser = record.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?", help="a run that was evaluated")
    parser.add_argument(
        "dump",
        type=Path,
        nargs="?",
        help="products to be answered; by default the run's test split",
    )
    parser.add_argument(
        "--predict", type=int, default=300, help="products that `predict` answers, one call each"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = _small_run(folder) if options.smoke else RunFolder(options.run)
        if not options.dump:
            require_evaluated_fit(run)
        dump = options.dump or write_test_split(run, folder / "test.bson")
        figures = agreement(run, dump, folder, options.predict, evaluated=not options.dump)
    record.save(options.json, figures, precision=figures["computed_with"]["precision"])


def _small_run(folder: Path) -> RunFolder:
    run = make_run(folder, "shufflenet_v2_x0_5", 32, 40)
    steps.evaluate(run, load_config(None), rebuild=False, say=lambda _: None)
    return run


def require_evaluated_fit(run: RunFolder) -> None:
    """Raises ShelfsortError if a last fit answers, which is another one than was evaluated."""
    if (last := run.answering) != run.stage2:
        raise ShelfsortError(
            f"{last}: expected that the stage 2 answers that was evaluated, found a last fit; "
            f"remove it: rm -r {shlex.quote(str(last))}"
        )


def write_test_split(run: RunFolder, path: Path) -> Path:
    """The test split as a dump, one document per product: its readable photos, and its columns, as
    far as the run keeps any."""
    table = run.store.images("test")
    cuts = np.flatnonzero(np.diff(table.product_id)) + 1
    parts = np.split(np.arange(len(table)), cuts)
    columns = run.store.columns(table.product_id[[rows[0] for rows in parts]])
    with open(path, "wb") as file:
        for rows, fields in zip(parts, columns.to_dict("records"), strict=True):
            pictures = [
                {"picture": photo} for photo in _readable(run.store.read(table.image_id[rows]))
            ]
            known = {str(name): value for name, value in fields.items() if pandas.notna(value)}
            product = {"_id": int(table.product_id[rows[0]]), "imgs": pictures}
            file.write(bson.encode(known | product))
    return path


def columns_of(source: ProductSource, row: int, names: Sequence[str]) -> dict[str, Any]:
    """The columns that a product of the dump has, by name."""
    values = zip(names, source.columns(row, names), strict=True)
    return {name: value for name, value in values if value is not None}


def _readable(photos: Sequence[bytes | ImageError]) -> list[bytes]:
    return [photo for photo in photos if not isinstance(photo, ImageError)]


def agreement(
    run: RunFolder, dump: Path, folder: Path, predicted: int, *, evaluated: bool
) -> dict[str, Any]:
    """Each way's figures against the first: `products`, the share with the `same` category, and by
    how much the confidences of the likeliest category differ: `most_of_99` (of 99% of the
    products), `most`, and the share `within` 1e-2."""
    path = run.folder / "config.yaml"
    config = load_config(path if path.exists() else None)
    in_onnx = _with(config, "score", runtime="onnx")
    in_bf16 = _with(config, "features", precision="bf16")
    two_workers = functools.partial(connect, 2, None)
    ways: dict[str, Callable[[], pandas.DataFrame]] = {
        "evaluate": lambda: evaluation(run),
        "score": lambda: scored(run, config, dump, folder / "score"),
        "score, two workers": lambda: scored(run, config, dump, folder / "workers", two_workers),
        "score, ONNX Runtime": lambda: scored(run, in_onnx, dump, folder / "onnx"),
        "predict": lambda: predictions(run, config, dump, folder, predicted),
        "exported reader": lambda: read_elsewhere(run, dump, folder),
        "score in bf16": lambda: scored(run, in_bf16, dump, folder / "bf16"),
    }
    if not evaluated:
        del ways["evaluate"]
    figures: dict[str, Any] = {}
    first: pandas.DataFrame | None = None
    for name, answer in ways.items():
        other = answer()
        if first is None:
            first, reference = other, name
            continue
        figures[name] = line = compared(first, other)
        print(
            f"{name} against {reference}: {line['products']} products, "
            f"the same category {line['same']:.2%}, confidences within "
            f"{line['most_of_99']:.5f} for 99%, {line['most']:.5f} for all, "
            f"within 1e-2 {line['within']:.2%}",
            flush=True,
        )
    return {"reference": reference, "computed_with": run.features.computed_with, "ways": figures}


def _with(config: RunConfig, section: str, **values: Any) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def compared(first: pandas.DataFrame, second: pandas.DataFrame) -> dict[str, Any]:
    """Figures of the products that both have."""
    second = second.loc[second.index.intersection(first.index)]
    first = first.loc[second.index]
    apart = (first["confidence"] - second["confidence"]).abs().to_numpy()
    return {
        "products": len(first),
        "same": float((first["category_id"] == second["category_id"]).mean()),
        "most_of_99": float(np.quantile(apart, 0.99)),
        "most": float(apart.max()),
        "within": float((apart <= 1e-2).mean()),
    }


def answers(
    product_id: np.ndarray, category_id: np.ndarray, confidence: np.ndarray
) -> pandas.DataFrame:
    """A row per product: its category and the confidence."""
    columns = {
        "category_id": np.asarray(category_id),
        "confidence": np.asarray(confidence, dtype=np.float64),
    }
    return pandas.DataFrame(columns, index=np.asarray(product_id))


def evaluation(run: RunFolder) -> pandas.DataFrame:
    """What evaluation/items.parquet has of the test split's products."""
    items = pandas.read_parquet(run.evaluation / "items.parquet").query("unit == 'product'")
    category_id = run.store.taxonomy.category_ids[items["two_stage_class"]]
    return answers(items["product_id"], category_id, items["two_stage_confidence"])


def scored(
    run: RunFolder, config: RunConfig, dump: Path, out: Path, workers: steps.Workers = None
) -> pandas.DataFrame:
    """By the step `score`."""
    steps.score(run, config, [str(dump)], out, workers=workers, say=lambda _: None)
    table = pandas.concat(map(pandas.read_parquet, sorted(out.glob("part-*.parquet"))))
    return answers(table["product_id"], table["category_id"], table["confidence"])


def predictions(
    run: RunFolder, config: RunConfig, dump: Path, folder: Path, count: int
) -> pandas.DataFrame:
    """By `predict`, of the first products."""
    model = TwoStageModel.open(run, config.stage1.device, config.features.precision)
    names = model.columns.names if model.columns else ()
    source = open_source([dump], folder / "dumps")
    rows = []
    for row in range(min(count, len(source))):
        photos = _readable(source.read(row))
        paths = [folder / f"{position}.jpg" for position in range(len(photos))]
        for path, photo in zip(paths, photos, strict=True):
            path.write_bytes(photo)
        given = {name: str(value) for name, value in columns_of(source, row, names).items()}
        answer = predict_files(model, paths, 1, columns=given)
        rows.append(
            (
                source.product_id[row],
                model.taxonomy.category_ids[answer.classes[0]],
                answer.confidences[0],
            )
        )
    return answers(*map(np.array, zip(*rows, strict=True)))


def read_elsewhere(run: RunFolder, dump: Path, folder: Path) -> pandas.DataFrame:
    """By the exported folder's own reader."""
    export_model(run, folder / "model")
    path = folder / "model" / "reader.py"
    spec = importlib.util.spec_from_file_location("exported_reader", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reader = module.Model(threads=cores())
    category_id = np.array([category["category_id"] for category in reader.categories])
    source = open_source([dump], folder / "dumps")
    parts = []
    for start in range(0, len(source), _BATCH):
        rows = range(start, min(start + _BATCH, len(source)))
        photos = [
            [Image.open(io.BytesIO(photo)) for photo in _readable(source.read(row))] for row in rows
        ]
        columns = [columns_of(source, row, reader.columns.names) for row in rows]
        probabilities = reader.predict(photos, _BATCH, columns)
        parts.append(
            answers(
                source.product_id[list(rows)],
                category_id[probabilities.argmax(axis=1)],
                probabilities.max(axis=1),
            )
        )
    return pandas.concat(parts)


if __name__ == "__main__":
    main()
