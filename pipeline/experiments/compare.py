"""Several networks trained on one store and judged on its validation splits (val_a and val_b); test
is not read.

In: a run with a store, and a configuration a network, of which section `stage1` counts. On disk, in
RUN/compare/: NAME/seed-N/ with stage1/ and validation.json; NAME/report.csv, confusion.svg;
table.csv, table.md, curves.svg. What is complete is kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from catalog.artifacts import atomic_path, read_json, write_json, write_text
from catalog.errors import ArtifactError, ConfigError, ShelfsortError
from catalog.image_table import ImageTable
from catalog.intervals import Shares, clustered_shares, wilson
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from pipeline.experiments.compare_figures import draw_confusion, draw_curves
from pipeline.run_folder import Run
from pipeline.steps import train
from stage1_cnn.config import Stage1Config

SPLITS = ("val_a", "val_b")
SCHEMA = 2
"""Of validation.json."""
_BATCH = 128


@dataclass(frozen=True)
class Trained:
    """One training: its log (as in metrics.jsonl), seconds, parameters, and the answers on
    validation: images, how many independent ones would tell as much of top-1 (`effective_n`),
    top-1, top-5, macro F1 over the categories that occur there, and `confusion` int64 [P, 3] (true
    class, predicted class, images)."""

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
        """Of training; the median of the epochs of the last phase."""
        last = self.epochs[-1]["phase"]
        return float(
            np.median([line["images_per_second"] for line in self.epochs if line["phase"] == last])
        )


@dataclass(frozen=True)
class Row:
    """A network in the table: means over its trainings, the 95% interval of top-1 for these images
    (whose products chance deals), and its range."""

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


def compare(
    run: Run,
    configs: Mapping[str, Stage1Config],
    repeats: int,
    rebuild: bool = False,
    precision: str = "auto",
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Trains each network `repeats` times, from its seed on; the rows of the table, the best first.
    `precision` is `features.precision`, in which all of them answer, whatever they are trained in.

    Raises ConfigError on a name of no use as a folder, ShelfsortError where validation has no
    readable image, ArtifactError where a training is there that was made from something else.
    """
    if bad := [name for name in configs if not name or name.startswith(".") or "/" in name]:
        raise ConfigError(f"compare: {bad[0]!r} can't name a folder; rename the configuration file")
    folder, trainings = run.folder / "compare", {}
    for name, config in configs.items():
        seeds = [
            config.model_copy(update={"seed": config.seed + repeat}) for repeat in range(repeats)
        ]
        trainings[name] = [
            _trained(run, folder / name / f"seed-{one.seed}", one, rebuild, precision, say)
            for one in seeds
        ]
    rows = [_row(name, configs[name].backbone, found) for name, found in trainings.items()]
    rows.sort(key=lambda row: (row.top1, row.macro_f1), reverse=True)
    for name, found in trainings.items():
        table = classification_report(_confusion(found), run.store.taxonomy, repeats)
        with atomic_path(folder / name / "report.csv") as temporary:
            table.to_csv(temporary, index=False, float_format="%.4f")
        draw_confusion(
            _confusion(found), len(run.store.taxonomy), name, folder / name / "confusion.svg"
        )
    draw_curves(
        {row.network: [found.epochs for found in trainings[row.network]] for row in rows},
        folder / "curves.svg",
    )
    frame = pandas.DataFrame([asdict(row) for row in rows])
    with atomic_path(folder / "table.csv") as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g")
    write_text(folder / "table.md", markdown(rows) + "\n")
    return rows


def _trained(
    run: Run,
    folder: Path,
    config: Stage1Config,
    rebuild: bool,
    precision: str,
    say: Callable[[str], None],
) -> Trained:
    from stage1_cnn.device import inference_compute

    part = Run(folder, run)
    train(part, config, rebuild, say, f"{folder.parent.name}, seed {config.seed}")
    path, precision = (
        folder / "validation.json",
        inference_compute(config.device, precision).precision,
    )
    made_from = {
        "schema": SCHEMA,
        "checkpoint": part.stage1_checksum(),
        "splits": list(SPLITS),
        "precision": precision,
    }
    try:
        found = read_json(path, "compare")
    except ArtifactError:  # none yet, or damaged
        found = {}
    if found.get("made_from") != made_from:
        found = {"made_from": made_from, **_judge(part, config.device, precision)}
        write_json(path, found)
    log = (part.stage1 / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = read_json(part.stage1 / "summary.json", "stage1")["seconds"]
    values = {key: value for key, value in found.items() if key not in ("made_from", "confusion")}
    confusion = np.array(found["confusion"], dtype=np.int64).reshape(-1, 3)
    return Trained([json.loads(line) for line in log], seconds, confusion=confusion, **values)


def _judge(part: Run, device: str, precision: str) -> dict[str, Any]:
    """The best checkpoint's answers on validation, as counts."""
    from features.extract import blocks_of
    from pipeline.networks import open_network

    predictor = open_network(part.checkpoint, device=device, precision=precision)
    table, seen, answers, ranks, done = part.store.images(*SPLITS), [], [], [], 0
    for features, unreadable in blocks_of(predictor, part.store, table, _BATCH):
        kept = np.setdiff1d(np.arange(len(features)), list(unreadable))
        truth = table.class_index[done + kept]
        log_probs = predictor.head.log_probs(features[kept])
        seen.append(done + kept)
        answers.append(log_probs.argmax(axis=1))
        ranks.append((log_probs > np.take_along_axis(log_probs, truth[:, None], 1)).sum(axis=1))
        done += len(features)
    if not sum(map(len, seen)):
        raise ShelfsortError(
            f"{part.store.path}: no readable image on validation; the catalogue has too few products"
        )
    table, answer, rank = (
        table[np.concatenate(seen)],
        np.concatenate(answers),
        np.concatenate(ranks),
    )
    truth = table.class_index
    top1 = _shares_of(table, truth == answer, part.store)
    pairs, counts = np.unique(np.column_stack([truth, answer]), axis=0, return_counts=True)
    confusion = np.column_stack([pairs, counts])
    f1 = classification_report(confusion, part.store.taxonomy)
    return {
        "parameters": sum(parameter.numel() for parameter in predictor.network.parameters()),
        "images": len(truth),
        "effective_n": float(top1.effective_n[0]),
        "top1": float(top1.value[0]),
        "top5": float((rank < 5).mean()),
        "macro_f1": float(f1["f1"][f1["support"] > 0].mean()),
        "confusion": confusion.tolist(),
    }


def _shares_of(table: ImageTable, right: np.ndarray, store: Store) -> Shares:
    """The share of images that are right, bool [N], in a single cell."""
    group = store.groups_of(table.product_id, *SPLITS)
    return clustered_shares(
        right, np.ones(len(table)), group, np.zeros(len(table), dtype=np.int64), 1
    )


def _confusion(trainings: Sequence[Trained]) -> np.ndarray:
    return np.concatenate([found.confusion for found in trainings])


def classification_report(
    confusion: np.ndarray, taxonomy: Taxonomy, repeats: int = 1
) -> pandas.DataFrame:
    """Precision, recall, F1 and support of each category that occurs or is answered; `confusion`
    int64 [P, 3] (true class, predicted class, images) of so many trainings. What can't be divided
    is 0."""
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
        return float(np.mean([getattr(found, key) for found in trainings]))

    top1, images = [found.top1 for found in trainings], trainings[0].images
    low, high = map(float, wilson(mean("top1"), mean("effective_n")))
    return Row(
        name,
        backbone,
        trainings[0].parameters,
        len(trainings),
        images,
        mean("top1"),
        low,
        high,
        min(top1),
        max(top1),
        mean("macro_f1"),
        mean("top5"),
        mean("images_per_second"),
        mean("seconds"),
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
