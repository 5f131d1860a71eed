"""Makes run directories as an evaluation leaves them, of any size, from random numbers: for tests
and timings of the report.

Each item's probabilities live on eight candidate classes: the truth, its neighbours, and a few
strangers. All tables follow from them by counting, so that they agree with each other as a real
evaluation's do.
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import xxhash
import yaml

from catalog.artifacts import sha256_file, write_json, write_sealed
from catalog.config import Caps, CatalogConfig
from catalog.image_table import POSITIONS
from catalog.store.ingest import ingest_dump
from catalog.store.reader import Store
from catalog.store.schema import SCHEMA, TABLES
from catalog.synthetic.dump import SyntheticSpec, picture, write_categories, write_dump
from catalog.taxonomy import Category, Taxonomy
from pipeline.evaluation.measures import measure
from pipeline.evaluation.near_twins import twin_figures

SYSTEMS = ("stage1", "shifted", "two_stage")
NASTY = '<script>alert("level 3")</script> & "co" \'é\''
"""The name of class 0: it must reach the page as text."""


def _promise(precision: float) -> dict:
    """As metrics.json has what a promise comes to; 98% can't be kept."""
    possible = precision < 0.98
    share = {"value": 1.4 - precision, "low": 0.3, "high": 0.6, "n": 900}
    none = {"value": None, "low": None, "high": None, "n": 0}
    right = {"value": precision + 0.01, "low": 0.9, "high": 0.99, "n": 400} if possible else none
    level = {"threshold": 0.8 if possible else None, "held_out": 800, "right": right}
    levels = [level | {"level": n, "accepted": share | {"value": 0.15}} for n in (3, 2, 1)]
    return {"precision": precision, "accepted": share, "right": right, "levels": levels}


@dataclass(frozen=True)
class Items:
    """What was evaluated, a row an item."""

    item_id: np.ndarray
    product_id: np.ndarray
    class_index: np.ndarray


def make_small_run(run: Path) -> Path:
    """50 categories in a real store of drawn pictures; about 70 evaluated products."""
    spec = SyntheticSpec(
        categories=50, products=700, side=48, tail=0.7, duplicates=0.06, blanks=0.02
    )
    run.mkdir(parents=True)
    write_dump(run / "dump.bson", spec)
    write_categories(run / "names.csv", spec)
    rows = (run / "names.csv").read_text().splitlines()
    first = rows[1].split(",")
    quoted = NASTY.replace('"', '""')
    (run / "names.csv").write_text(
        "\n".join([rows[0], f'{first[0]},{first[1]},{first[2]},"{quoted}"', *rows[2:]]) + "\n"
    )
    config = CatalogConfig(caps=Caps(train=60))
    ingest_dump(
        run / "store.sqlite",
        [run / "dump.bson"],
        run / "names.csv",
        config,
        index_folder=run / "dumps",
        jobs=1,
    )
    for name in ("dump.bson", "names.csv"):
        (run / name).unlink()
    return _finish(run, Store(run / "store.sqlite").taxonomy, 0)


def make_large_run(
    run: Path, *, categories: int = 5270, products: int = 100_000, pictured: int = 0, seed: int = 0
) -> Path:
    """A long-tailed catalogue. The `pictured` first test products have pictures, drawn from a few
    hundred."""
    run.mkdir(parents=True)
    taxonomy = _taxonomy(categories)
    rng = np.random.default_rng([seed, categories])
    _large_store(run / "store.sqlite", taxonomy, products, pictured, rng)
    _finish(run, taxonomy, seed)
    with closing(sqlite3.connect(run / "store.sqlite")) as connection, connection:
        missing = "image_id NOT IN (SELECT image_id FROM blobs)"
        connection.execute(f"UPDATE images SET status = 'undecodable' WHERE {missing}")
    return run


def _taxonomy(categories: int) -> Taxonomy:
    rng = np.random.default_rng(5)
    words = (
        "LAMP",
        "CHAIR",
        "CABLE",
        "SHOE",
        "BAG",
        "CASE",
        "FILTER",
        "PUMP",
        "WATCH",
        "RING",
        "PHONE",
        "TOY",
        "BOOK",
        "GLASS",
    )
    level2 = np.sort(rng.integers(0, max(2, categories // 11), categories))
    level1 = level2 * 49 // (level2.max() + 1)
    rows = []
    for i in range(categories):
        name = f"{words[i % 14]} {words[(i // 14) % 14]} N°{i}" if i else NASTY
        family = f"{words[level2[i] % 14]} & {words[level2[i] // 14 % 14]} {level2[i]}"
        rows.append(
            Category(
                1_000_000_000 + (i + 1) * 38_377 % 99_991,
                f"DEPARTMENT {words[level1[i] % 14]} {level1[i]}",
                family,
                name,
            )
        )
    return Taxonomy(rows)


def _large_store(
    path: Path, taxonomy: Taxonomy, products: int, pictured: int, rng: np.random.Generator
) -> None:
    """A store whose test split has `products` products; of the other splits it has the products and
    train images' rows only."""
    k = len(taxonomy)
    size = np.maximum((rng.permutation(k) + 1.0) ** -0.9, 1e-4)
    truth = np.concatenate([np.arange(k), rng.choice(k, products - k, p=size / size.sum())])
    train = np.concatenate(
        [np.tile(np.arange(k), 5), rng.choice(k, 4 * products, p=size / size.sum())]
    )
    classes = np.concatenate([truth, train])
    ids = rng.choice(20_000_000, len(classes), replace=False)
    n_images = rng.choice([1, 1, 1, 2, 2, 3, 4], len(classes))
    splits = np.where(
        np.arange(len(classes)) < products,
        "test",
        np.where(rng.random(len(classes)) < 0.88, "train", "reserve"),
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
        meta = {
            "schema": str(SCHEMA),
            "settings": CatalogConfig(caps=Caps(train=300)).model_dump_json(),
            "content": f"made of {products}",
            "taxonomy": taxonomy.fingerprint,
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        rows = (
            (i, c.category_id, c.level1, c.level2, c.level3)
            for i, c in enumerate(taxonomy.categories)
        )
        connection.executemany("INSERT INTO categories VALUES (?, ?, ?, ?, ?)", rows)
        columns = (column.tolist() for column in (ids, classes, splits, n_images))
        connection.executemany(
            "INSERT INTO products VALUES (?, ?, ?, 'kept', ?, 0, NULL)", zip(*columns, strict=True)
        )
        reasons = rng.choice(
            ["undecodable", "not_an_image", "too_large", "empty"], 300, p=[0.6, 0.3, 0.07, 0.03]
        )
        rejects = (
            ("train.bson", i, 0, int(ids[i]), str(reason), "made")
            for i, reason in enumerate(reasons)
        )
        connection.executemany("INSERT INTO rejects VALUES (?, ?, ?, ?, ?, ?)", rejects)
        _insert_images(connection, ids, classes, splits, n_images, pictured)
        connection.commit()


def _insert_images(
    connection: sqlite3.Connection,
    ids: np.ndarray,
    classes: np.ndarray,
    splits: np.ndarray,
    n_images: np.ndarray,
    pictured: int,
) -> None:
    spec = SyntheticSpec(categories=60, products=400, side=90, duplicates=0.0)
    bank = [picture(spec, index, 0) for index in range(300)] if pictured else []
    kept = np.flatnonzero((splits == "test") | (np.arange(len(ids)) % 2 == 0))
    for place in kept.tolist():
        for position in range(int(n_images[place])):
            image_id = int(ids[place]) * POSITIONS + position
            shown = place < pictured
            status = "blank" if image_id % 997 == 0 else "ok"
            copied = image_id % 211 == 0
            data = (
                bank[(classes[place] * 5 + position) % 300]
                if shown
                else (image_id % 50_021 if copied else image_id).to_bytes(8, "big")
            )
            if shown and not copied:
                data += image_id.to_bytes(
                    8, "big"
                )  # decoders ignore what follows the JPEG, and no two pictures are the same
            row = (
                image_id,
                int(ids[place]),
                position,
                int(classes[place]),
                str(splits[place]),
                status,
                None,
                xxhash.xxh3_128_digest(data),
                90,
                90,
            )
            connection.execute(
                "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'JPEG', ?, NULL)",
                (*row, len(data)),
            )
            if shown:
                connection.execute("INSERT INTO blobs VALUES (?, ?)", (image_id, data))


def _finish(run: Path, taxonomy: Taxonomy, seed: int) -> Path:
    """Everything beyond the store."""
    rng = np.random.default_rng([seed, 1])
    store = Store(run / "store.sqlite")
    images = store.images("test")
    product_id, first = np.unique(images.product_id, return_index=True)
    units = {
        "product": Items(product_id, product_id, images.class_index[first]),
        "image": Items(images.image_id, images.product_id, images.class_index),
    }
    trained = np.bincount(store.images("train").class_index, minlength=len(taxonomy)).clip(max=300)
    model = _Model(taxonomy, trained, store.natural_counts("image"))
    tables = [model.table(unit, items, rng) for unit, items in units.items()]
    folder = run / "evaluation"
    folder.mkdir()
    pandas.concat(tables).to_parquet(folder / "items.parquet", index=False)
    pandas.concat([_per_category(t, taxonomy, trained) for t in tables]).to_parquet(
        folder / "per_category.parquet", index=False
    )
    pandas.concat([_confusion(t, system) for t in tables for system in SYSTEMS]).to_parquet(
        folder / "confusion.parquet", index=False
    )
    write_json(run / "taxonomy.json", taxonomy.to_json())
    _write_stage1(run, rng)
    _write_stage2(run, taxonomy, tables[0], model.active)
    origin = {
        "views": {"stage1": {"store": store.fingerprint}},
        "stage2": sha256_file(run / "stage2" / "manifest.json"),
    }
    metrics = {"schema": 1, "made_from": origin, "settings": {"duplicates": "drop"}}
    metrics |= {t["unit"].iloc[0]: measure(t, len(taxonomy), min_support=5) for t in tables}
    twins = twin_figures(tables[1].head(1000), *(rng.beta(8, 2, (2, min(1000, len(tables[1]))))))
    metrics |= {
        "promises": [_promise(precision) for precision in (0.9, 0.95, 0.98)],
        "near_twins": twins | {"networks": 2},
        "without_photo": 3,
        "rejects": {"unreadable": 3},
        "seconds": 840.5,
    }
    write_sealed(folder / "metrics.json", metrics)
    config = {
        "revision": "1a2b3c4",
        "catalog": store.settings,
        "stage1": {"backbone": "resnet50"},
        "seed": seed,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


class _Model:
    """Draws probabilities of the three systems."""

    def __init__(self, taxonomy: Taxonomy, trained: np.ndarray, natural: np.ndarray) -> None:
        rng = np.random.default_rng(11)
        k = len(taxonomy)
        self.k, self.natural = k, (natural + 1) / (natural + 1).sum()
        self.skill = rng.normal(2.1, 0.9, k) + 0.25 * np.log1p(trained) - 0.6
        self.active = rng.random(k) < 0.45

    def table(self, unit: str, items: Items, rng: np.random.Generator) -> pandas.DataFrame:
        """Rows of items.parquet."""
        n, truth = len(items.item_id), items.class_index.astype(np.int64)
        near = truth[:, None] + rng.geometric(0.35, (n, 4)) * rng.choice([-1, 1], (n, 4))
        candidates = np.hstack([truth[:, None], near % self.k, rng.integers(0, self.k, (n, 3))])
        repeated = np.array(
            [[c in row[:i] for i, c in enumerate(row)] for row in candidates.tolist()]
        )
        logits = rng.normal(0, 1.3, candidates.shape) + np.array(
            [0, 0.8, 0.8, 0.6, 0.6, -0.4, -0.4, -0.4]
        )
        logits[:, 0] += self.skill[truth] + (0.35 if unit == "product" else 0.0)
        wrong_label = rng.random(n) < 0.02
        logits[wrong_label, 1] += 7
        logits[repeated] = -np.inf
        shifted = logits + 0.25 * np.log(self.natural[candidates] * self.k)
        gain = np.where(self.active[truth], rng.normal(0.5, 0.8, n), 0.0)
        refined = shifted + gain[:, None] * (np.arange(8) == 0)
        share = np.bincount(truth, minlength=self.k) / n
        weight = (self.natural / np.maximum(share, 1e-12))[truth].clip(max=20)
        group = np.unique(items.product_id, return_inverse=True)[1]
        columns = {
            "unit": unit,
            "item_id": items.item_id,
            "product_id": items.product_id,
            "group": group,
            "linked": items.product_id % 7 == 0,
            "class_index": truth.astype(np.int32),
        }
        columns["weight"] = (weight / weight.mean()).astype(np.float32)
        for system, values in zip(SYSTEMS, (logits, shifted, refined), strict=True):
            columns |= _answers(system, candidates, values)
        columns["refined"] = self.active[columns["shifted_class"]]
        return pandas.DataFrame(columns)


def _answers(system: str, candidates: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows, best = np.arange(len(p)), p.argmax(axis=1)
    return {
        f"{system}_class": candidates[rows, best].astype(np.int32),
        f"{system}_confidence": p[rows, best].astype(np.float32),
        f"{system}_true_rank": (p > p[:, :1]).sum(axis=1).astype(np.int32),
        f"{system}_true_confidence": p[:, 0].astype(np.float32),
    }


def _per_category(
    table: pandas.DataFrame, taxonomy: Taxonomy, trained: np.ndarray
) -> pandas.DataFrame:
    k, truth = len(taxonomy), table["class_index"].to_numpy()
    support = np.bincount(truth, minlength=k)
    columns = {
        "unit": table["unit"].iloc[0],
        "class_index": np.arange(k, dtype=np.int32),
        "category_id": taxonomy.category_ids,
    }
    columns |= {
        level: [getattr(c, level) for c in taxonomy.categories]
        for level in ("level1", "level2", "level3")
    }
    columns |= {"support": support, "train_images": trained}
    for system in SYSTEMS:
        answer = table[f"{system}_class"].to_numpy()
        right, predicted = (
            np.bincount(truth[answer == truth], minlength=k),
            np.bincount(answer, minlength=k),
        )
        with np.errstate(invalid="ignore"):
            columns[f"{system}_precision"], columns[f"{system}_recall"] = (
                right / predicted,
                right / support,
            )
            columns[f"{system}_f1"] = 2 * right / (support + predicted)
        columns[f"{system}_right"], columns[f"{system}_predicted"] = right, predicted
    return pandas.DataFrame(columns)


def _confusion(table: pandas.DataFrame, system: str) -> pandas.DataFrame:
    counts = table.groupby(["class_index", f"{system}_class"]).size().reset_index(name="count")
    counts.columns = ["true_class", "predicted_class", "count"]
    return counts.assign(unit=table["unit"].iloc[0], system=system)[
        ["unit", "system", "true_class", "predicted_class", "count"]
    ]


def _write_stage1(run: Path, rng: np.random.Generator) -> None:
    (run / "stage1").mkdir()
    lines = []
    for epoch in range(14):
        phase = "head" if epoch < 3 else "finetune"
        loss, top1 = 1 + 5 * np.exp(-epoch / 4), 0.72 - 0.5 * np.exp(-epoch / 4)
        lr = 1e-3 if epoch < 3 else 5e-4 * (1 + np.cos((epoch - 3) / 11 * np.pi))
        lines.append(
            {
                "phase": phase,
                "epoch": epoch,
                "train_loss": loss,
                "val_loss": loss * 0.9 + 0.25,
                "val_top1": top1 + rng.normal(0, 0.004),
                "val_top5": min(0.95, top1 + 0.2),
                "lr": lr,
                "images_per_second": 900 + rng.normal(0, 20),
                "seconds": 1600.0,
            }
        )
    (run / "stage1" / "metrics.jsonl").write_text(
        "\n".join(json.dumps(line) for line in lines) + "\n"
    )
    write_json(
        run / "stage1" / "summary.json",
        {"made_from": {}, "checkpoint": "ab" * 32, "epoch": 12, "seconds": 22400.0},
    )


def _write_stage2(
    run: Path, taxonomy: Taxonomy, table: pandas.DataFrame, active: np.ndarray
) -> None:
    errors = table[table["stage1_class"] != table["class_index"]]
    hidden = errors.groupby("stage1_class")["class_index"].agg(
        lambda c: c.value_counts().index[:6].tolist()
    )
    categories = []
    for class_index, members in hidden.items():
        own = bool(active[class_index])
        heldout = {
            "active": own,
            "products": 12 + class_index % 30,
            "fixed": 5 if own else 1,
            "broken": 2,
            "gain": 0.05 if own else -0.01,
        }
        categories.append(
            {
                "class_index": int(class_index),
                "category_id": int(taxonomy.category_ids[class_index]),
                "members": [int(class_index), *map(int, members)],
                "decision": "own" if own else "pool",
                "heldout": heldout,
            }
        )
    manifest = {
        "schema": 1,
        "made_from": {},
        "files": {},
        "base_margin": True,
        "default": "pool",
        "categories": categories,
        "shift": {unit: {"temperature": 1.1, "strength": 0.6} for unit in ("image", "product")},
    }
    write_json(run / "stage2" / "manifest.json", manifest)
    write_json(
        run / "stage2" / "summary.json",
        {"seconds": {"read": 500.0, "pool": 200.0, "reclassify": 2400.0}},
    )
