"""`shelfsort compare`: several networks trained on one store and compared on its validation splits,
val_a and val_b; test is not read.

In: a run with a store, and one configuration per network, of which only section `stage1` is used.
On disk, in RUN/compare/: NAME/seed-N/ with stage1/ and validation.json; NAME/report.csv and
confusion.svg; table.csv, table.md, curves.svg. A training that is complete is kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from catalog.artifacts import atomic_path, read_json, write_json, write_text
from catalog.errors import ArtifactError, ConfigError, ShelfsortError
from catalog.image_table import ImageTable
from catalog.intervals import Shares, clustered_shares, wilson
from catalog.parallel import cores
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from pipeline.experiments.compare_figures import draw_confusion, draw_curves
from pipeline.run_folder import RunFolder, Say
from pipeline.training import train
from stage1_cnn.config import Stage1Config

if TYPE_CHECKING:
    from stage1_cnn.predict import Predictor

SPLITS = ("val_a", "val_b")
SCHEMA = 2
"""Of validation.json."""
_BATCH = 128


@dataclass(frozen=True)
class Trained:
    """One training: its log (as in metrics.jsonl), seconds, number of parameters; and its answers
    on validation: images, the number of independent images that would give top-1 the same interval
    (`effective_n`), top-1, top-5, macro F1 over the categories that occur there, and `confusion`
    int64 [P, 3] (true class, predicted class, images)."""

    epochs: list[dict[str, Any]]
    seconds: float
    parameters: int
    images: int
    effective_n: float
    top1: float
    top5: float
    macro_f1: float
    confusion: np.ndarray

    @property
    def images_per_second(self) -> float:
        """Training speed: the median over the epochs of the last phase."""
        last = self.epochs[-1]["phase"]
        return float(
            np.median([line["images_per_second"] for line in self.epochs if line["phase"] == last])
        )


@dataclass(frozen=True)
class Row:
    """A network in the table: means over its trainings, the 95% interval of top-1 (as if the
    products were drawn at random), and the range of top-1 over the trainings."""

    network: str
    backbone: str
    parameters: int
    repeats: int
    images: int
    top1: float
    low: float
    high: float
    least: float
    most: float
    macro_f1: float
    top5: float
    images_per_second: float
    seconds: float


def compare_networks(
    run: RunFolder,
    configs: Mapping[str, Stage1Config],
    repeats: int,
    rebuild: bool = False,
    precision: str = "auto",
    say: Say = print,
) -> list[Row]:
    """Trains each network `repeats` times, with its seed and the following ones; returns the rows
    of the table, the best first. `precision` is `features.precision`: all networks answer in it,
    whatever they are trained in.

    Raises ConfigError if a name can't be a folder's, ShelfsortError if validation has no readable
    image, ArtifactError if a training there was made from something else.
    """
    if bad := [name for name in configs if not name or name.startswith(".") or "/" in name]:
        raise ConfigError(f"compare: {bad[0]!r} can't name a folder; rename the configuration file")
    folder = run.folder / "compare"
    _check(run, configs, folder, rebuild)
    trainings: dict[str, list[Trained]] = {}
    for name, config in configs.items():
        trainings[name] = []
        for repeat in range(repeats):
            seeded = config.model_copy(update={"seed": config.seed + repeat})
            own_folder = folder / name / f"seed-{seeded.seed}"
            trainings[name].append(_trained(run, own_folder, seeded, rebuild, precision, say))
    rows = [_row(name, configs[name].backbone, trained) for name, trained in trainings.items()]
    rows.sort(key=lambda row: (row.top1, row.macro_f1), reverse=True)
    _write_comparison(folder, rows, trainings, run.store.taxonomy)
    return rows


def _check(
    run: RunFolder, configs: Mapping[str, Stage1Config], folder: Path, rebuild: bool
) -> None:
    """Raises ConfigError, naming the network, if one that is still to be trained can't be: a
    package, its weights or the device is missing. Said before hours went into the others."""
    from stage1_cnn.training.setup import check_training

    for name, config in configs.items():
        if (
            not rebuild
            and (folder / name / f"seed-{config.seed}" / "stage1" / "summary.json").exists()
        ):
            continue
        try:
            check_training(config, len(run.store.taxonomy))
        except ConfigError as error:
            raise ConfigError(f"compare: {name}: {error}") from error


def _write_comparison(
    folder: Path,
    rows: Sequence[Row],
    trainings: Mapping[str, Sequence[Trained]],
    taxonomy: Taxonomy,
) -> None:
    for name, trained in trainings.items():
        confusion = np.concatenate([training.confusion for training in trained])
        table = classification_report(confusion, taxonomy, len(trained))
        with atomic_path(folder / name / "report.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.4f")
        draw_confusion(confusion, len(taxonomy), name, folder / name / "confusion.svg")
    logs = {row.network: [t.epochs for t in trainings[row.network]] for row in rows}
    draw_curves(logs, folder / "curves.svg")
    frame = pandas.DataFrame([asdict(row) for row in rows])
    with atomic_path(folder / "table.csv") as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
    write_text(folder / "table.md", markdown(rows) + "\n")


def _trained(
    run: RunFolder, folder: Path, config: Stage1Config, rebuild: bool, precision: str, say: Say
) -> Trained:
    """One training, and its answers on validation; what is current is read."""
    from stage1_cnn.device import inference_compute

    training_folder = RunFolder(folder, run)
    train(training_folder, config, rebuild, say, f"{folder.parent.name}, seed {config.seed}")
    path = folder / "validation.json"
    precision = inference_compute(config.device, precision).precision
    made_from = {
        "schema": SCHEMA,
        "checkpoint": training_folder.stage1_checksum(),
        "splits": list(SPLITS),
        "precision": precision,
    }
    try:
        validation = read_json(path, "compare")
    except ArtifactError:  # none yet, or damaged
        validation = {}
    if validation.get("made_from") != made_from:
        answers = _validate(training_folder, config.device, precision)
        validation = {"made_from": made_from, **answers}
        write_json(path, validation)
    log = (training_folder.stage1 / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Trained(
        epochs=[json.loads(line) for line in log],
        seconds=read_json(training_folder.stage1 / "summary.json", "stage1")["seconds"],
        confusion=np.array(validation["confusion"], dtype=np.int64).reshape(-1, 3),
        **{key: validation[key] for key in validation.keys() - {"made_from", "confusion"}},
    )


def _validate(training_folder: RunFolder, device: str, precision: str) -> dict[str, Any]:
    """The best checkpoint's answers on validation, as counts."""
    from pipeline.networks import open_network

    store = training_folder.store
    predictor = open_network(training_folder.checkpoint, device=device, precision=precision)
    table, answer, rank = _answers(predictor, store)
    truth = table.class_index
    top1 = _shares_of(table, truth == answer, store)
    pairs, counts = np.unique(np.column_stack([truth, answer]), axis=0, return_counts=True)
    confusion = np.column_stack([pairs, counts])
    f1 = classification_report(confusion, store.taxonomy)
    return {
        "parameters": sum(parameter.numel() for parameter in predictor.network.parameters()),
        "images": len(truth),
        "effective_n": float(top1.effective_n[0]),
        "top1": float(top1.value[0]),
        "top5": float((rank < 5).mean()),
        "macro_f1": float(f1["f1"][f1["support"] > 0].mean()),
        "confusion": confusion.tolist(),
    }


def _answers(predictor: "Predictor", store: Store) -> tuple[ImageTable, np.ndarray, np.ndarray]:
    """The N readable images of validation, the predicted class of each, int64 [N], and the rank of
    its true class, int64 [N], from 0. Raises ShelfsortError if there is none."""
    from features.extract import blocks_of

    table = store.images(*SPLITS)
    rows, answers, ranks = [], [], []
    start = 0
    for features, unreadable in blocks_of(predictor, store, table, _BATCH, cores()):
        readable = np.setdiff1d(np.arange(len(features)), list(unreadable))
        truth = table.class_index[start + readable]
        log_probs = predictor.head.log_probs(features[readable])
        rows.append(start + readable)
        answers.append(log_probs.argmax(axis=1))
        ranks.append((log_probs > np.take_along_axis(log_probs, truth[:, None], 1)).sum(axis=1))
        start += len(features)
    if not sum(map(len, rows)):
        raise ShelfsortError(
            f"{store.path}: no readable image on validation; the catalogue has too few products"
        )
    return table[np.concatenate(rows)], np.concatenate(answers), np.concatenate(ranks)


def _shares_of(table: ImageTable, right: np.ndarray, store: Store) -> Shares:
    """The share of images that are `right`, bool [N], as a single cell."""
    group = store.groups_of(table.product_id, *SPLITS)
    return clustered_shares(
        right, np.ones(len(table)), group, np.zeros(len(table), dtype=np.int64), 1
    )


def classification_report(
    confusion: np.ndarray, taxonomy: Taxonomy, repeats: int = 1
) -> pandas.DataFrame:
    """Precision, recall, F1 and support of each category that occurs or is predicted, 0 if there is
    nothing to divide by. `confusion` int64 [P, 3] (true class, predicted class, images) adds up
    `repeats` trainings."""
    true, predicted, count = confusion.T
    hit = np.bincount(true, count * (true == predicted), len(taxonomy))
    support, taken = (np.bincount(who, count, len(taxonomy)) for who in (true, predicted))
    table = pandas.DataFrame(
        {
            "category_id": taxonomy.category_ids,
            **{
                level: [getattr(category, level) for category in taxonomy.categories]
                for level in ("level1", "level2", "level3")
            },
            "precision": hit / np.maximum(taken, 1),
            "recall": hit / np.maximum(support, 1),
            "f1": 2 * hit / np.maximum(taken + support, 1),
            "support": (support / repeats).astype(np.int64),
        }
    )
    return table[(support > 0) | (taken > 0)]


def _row(name: str, backbone: str, trainings: Sequence[Trained]) -> Row:
    def mean(key: str) -> float:
        return float(np.mean([getattr(training, key) for training in trainings]))

    top1 = [training.top1 for training in trainings]
    low, high = map(float, wilson(mean("top1"), mean("effective_n")))
    return Row(
        network=name,
        backbone=backbone,
        parameters=trainings[0].parameters,
        repeats=len(trainings),
        images=trainings[0].images,
        top1=mean("top1"),
        low=low,
        high=high,
        least=min(top1),
        most=max(top1),
        macro_f1=mean("macro_f1"),
        top5=mean("top5"),
        images_per_second=mean("images_per_second"),
        seconds=mean("seconds"),
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    several = rows[0].repeats > 1
    head = [
        "network",
        "backbone",
        "top-1",
        *(["of trainings"] if several else []),
        "macro F1",
        "top-5",
        "parameters",
        "images/s",
        "training, s",
    ]
    lines = [
        [
            row.network,
            row.backbone,
            f"{row.top1:.4f} [{row.low:.4f}, {row.high:.4f}]",
            *([f"{row.least:.4f} to {row.most:.4f} ({row.repeats})"] if several else []),
            f"{row.macro_f1:.4f}",
            f"{row.top5:.4f}",
            f"{row.parameters / 1e6:.2f} M",
            f"{row.images_per_second:.0f}",
            f"{row.seconds:.0f}",
        ]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])
