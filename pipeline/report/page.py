"""The analysts' report: one HTML file that opens offline, and beside it the same figures as SVG for
slides.

Scripts, style, data and thumbnails are inside the file. Everything it shows is in the run's
evaluation/ folder, where this module also stores what it computes itself
(pipeline.report.findings). Nothing named by a dump enters the HTML but through jinja2's autoescape
or, inside the base64 of the data, to be set as text by the scripts.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas
from markupsafe import Markup

from catalog.artifacts import fingerprint, write_text
from catalog.errors import ConfigError
from catalog.image_table import POSITIONS
from catalog.splits import SPLITS
from catalog.taxonomy import Taxonomy
from pipeline.report.columns import pack, plain, share, unsigned
from pipeline.report.comparison import Comparison, compare_runs
from pipeline.report.evaluated_run import SYSTEMS, EvaluatedRun
from pipeline.report.figures import write_figures
from pipeline.report.findings import Extras, write_findings
from pipeline.report.gallery import Gallery, Wanted, by_interest, make_gallery
from pipeline.report.photo_checks import KINDS
from pipeline.run_folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = (
    "dom",
    "data",
    "table",
    "chart",
    "picker",
    "viewer",
    "judgements",
    "evidence",
    "gallery",
    "overview",
    "plot",
    "category",
    "hierarchy",
    "confusions",
    "confidence",
    "whatif",
    "slices",
    "map",
    "problems",
    "review",
    "items",
    "training",
    "main",
)
LIMIT = 15_000_000
THUMBNAILS = 7_000_000
"""Most bytes of the page and of its thumbnails (before base64)."""
MARGIN = 300_000
"""For the HTML itself and the index of the thumbnails."""
REVIEW_ROWS = 2000
PROBLEM_ROWS = 500
"""Photos of each kind of problem that the page lists at most."""
ITEMS = 200_000
"""Items that the page lists at most; its counts are of all."""


def write_report(runs: Sequence[RunFolder], out: Path, extras: Extras | None = None) -> Path:
    """Writes `out`/index.html and `out`/figures/*.svg about the first run, compared with the
    others; returns the page's path.

    Raises ArtifactError where a run has no evaluation.
    """
    if not runs:
        raise ConfigError("report: expected at least one run, found none")
    run, *others = map(EvaluatedRun, runs)
    findings = write_findings(run, extras)
    review, evidence, problems, map_rows = (
        pandas.read_parquet(run.files.table_path(name))
        for name in ("review", "evidence", "problems", "map")
    )
    items = run.items[run.items["unit"] == run.unit].reset_index(drop=True)
    items = (
        items.iloc[by_interest(items)[:ITEMS]]
        .sort_values(["class_index", "item_id"], kind="stable")
        .reset_index(drop=True)
    )
    unit = _compared(run, others)
    compared = [compare_runs(run, other, unit) for other in others]
    columns = _category_columns(run, others) | _node_columns(run) | _pair_columns(run)
    columns |= _item_columns(items) | _review_columns(review) | _map_columns(map_rows)
    columns |= _evidence_columns(evidence) | _problem_columns(problems)
    for number, comparison in enumerate(compared, start=1):
        columns |= _compared_columns(comparison, number, items if unit == run.unit else None)
    keys = {"keys": _shop_keys(run, columns, findings)}
    data = pack(_values(run, others, findings, compared) | keys, columns)
    fixed = len(data) + sum(path.stat().st_size for path in TEMPLATES.iterdir())
    budget = max(0, min(THUMBNAILS, (LIMIT - fixed - MARGIN) * 3 // 4))
    gallery = make_gallery(run.store, Wanted(items, review, evidence, problems), budget)
    page = _render(run, findings, data, gallery)
    write_text(out / "index.html", page)
    write_figures(run, findings, out / "figures")
    return out / "index.html"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment


def percent(value: float | None) -> str:
    """A share as the page's scripts print it (dom.js)."""
    return "–" if value is None else f"{_one_decimal(100 * value)}%"


def points(value: float | None) -> str:
    """A change of a share as the page's scripts print it (dom.js)."""
    if value is None:
        return "–"
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{_one_decimal(100 * abs(value))}"


def _one_decimal(value: float) -> Decimal:
    """As JavaScript's toFixed(1): of the number's exact binary value, halves upwards."""
    return Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_UP)


def _render(run: EvaluatedRun, findings: dict, data: bytes, gallery: Gallery) -> str:
    index = {"product": gallery.product_id, "starts": gallery.starts, "offsets": gallery.offsets}
    script = "\n".join(
        ['"use strict";', *((TEMPLATES / f"{name}.js").read_text("utf-8") for name in SCRIPTS)]
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            run=run,
            unit=run.unit,
            about=_about(run),
            headline=_headline(run, findings),
            policy=_policy(script),
            style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            script=Markup(script),
            data=data.decode(),
            photo_index=pack({}, index).decode(),
            photos=base64.b64encode(gallery.data).decode(),
        )
    )


def _policy(script: str) -> str:
    """The content policy: only this script runs, nothing is fetched and nothing is sent."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _headline(run: EvaluatedRun, findings: dict) -> dict[str, Any]:
    """The figures at the top: the main unit on the natural mix."""
    natural = run.metrics[run.unit]["natural"]
    counts = {
        unit: run.metrics[unit]["natural"]["two_stage"]["top1"]["n"]
        for unit in ("product", "image")
        if unit in run.metrics
    }
    return {
        "systems": {system: natural[system] for system in SYSTEMS},
        "change": natural["changes"]["two_stage_over_shifted"]["top1"],
        "moved": findings[run.unit]["changes"]["two_stage_over_shifted"],
        "counts": counts,
        "macro": run.metrics[run.unit]["balanced"]["counts"],
    }


def _values(
    run: EvaluatedRun,
    others: list[EvaluatedRun],
    findings: dict,
    compared: list[Comparison],
) -> dict:
    """The part of the data that is not columns."""
    return plain(
        {
            "unit": run.unit,
            "splits": [*SPLITS, "not judged"],
            "problem_kinds": list(KINDS),
            "name": run.name,
            "findings": findings,
            "sets": run.sets,
            "default_answer": run.default_answer,
            "min_support": run.metrics[run.unit]["balanced"]["counts"]["min_support"],
            "has_stage2": run.has_stage2,
            "names": _names(run.taxonomy),
            "metrics": {
                unit: run.metrics[unit] for unit in ("product", "image") if unit in run.metrics
            },
            "apart": {key: run.metrics[key] for key in ("without_photo", "near_twins")},
            "cap": (run.store.settings.get("caps", {}).get("train") if run.store else None),
            "has_store": run.store is not None,
            "key": fingerprint(run.metrics.get("made_from", {})),
            "compared": (unit := _compared(run, others)),
            "runs": [
                _compared_run(run, run, unit, None),
                *(
                    _compared_run(other, run, unit, comparison)
                    for other, comparison in zip(others, compared, strict=True)
                ),
            ],
        }
    )


def _names(taxonomy: Taxonomy) -> dict[str, list]:
    """The names of each level; of level 2 also the index of its parent."""
    categories = taxonomy.categories
    pairs = list(dict.fromkeys((c.level1, c.level2) for c in categories))
    level1 = list(dict.fromkeys(c.level1 for c in categories))
    index = {name: i for i, name in enumerate(level1)}
    return {
        "level1": level1,
        "level2": [name for _, name in pairs],
        "parent": [index[parent] for parent, _ in pairs],
        "level3": [c.name for c in categories],
        "id": [c.category_id for c in categories],
    }


def _compared(run: EvaluatedRun, others: list[EvaluatedRun]) -> str:
    """The unit in which runs are compared: products where all of them have these."""
    return "product" if all(r.unit == "product" for r in [run, *others]) else "image"


def _compared_run(
    run: EvaluatedRun, first: EvaluatedRun, unit: str, comparison: Comparison | None
) -> dict[str, Any]:
    """One run of a comparison with the `first`, which has none with itself; `common`: how many of
    its evaluated items both have, in the same category."""
    evaluated = int((run.items["unit"] == unit).sum())
    return {
        "name": run.name,
        "backbone": run.backbone,
        "seconds": run.seconds,
        "metrics": run.metrics[unit],
        "other_store": run.evaluated_store != first.evaluated_store,
        "evaluated": evaluated,
        "common": comparison.figures["common"] if comparison else evaluated,
        "comparison": comparison.figures if comparison else None,
    }


def _compared_columns(
    comparison: Comparison, number: int, items: pandas.DataFrame | None
) -> dict[str, np.ndarray]:
    """A comparison's counts by category; and of the page's `items` the other run's answer, counted
    from 1, 0 where it has none."""
    columns = {
        f"run{number}.gained": unsigned(comparison.gained),
        f"run{number}.lost": unsigned(comparison.lost),
        f"run{number}.chance": comparison.chance,
    }
    if items is not None:
        answer = comparison.items.set_index("item_id")["other"].reindex(items["item_id"])
        columns[f"item.run{number}"] = unsigned(answer.fillna(-1).to_numpy(dtype=np.int64) + 1)
    return columns


def _about(run: EvaluatedRun) -> dict[str, str]:
    day = run.metrics.get("evaluated", "")
    return {
        "Run": run.name,
        "Model": run.backbone,
        "Evaluated": f"{datetime.fromisoformat(day):%d %B %Y}".lstrip("0")
        if day
        else "not recorded",
        "Code": run.revision,
        "Data": _data(run),
        **({"Columns read": ", ".join(run.columns)} if run.columns else {}),
    }


def _data(run: EvaluatedRun) -> str:
    if run.store is None:
        return "no store in the run"
    files = [Path(name).name for name in run.store.dump_sources()]
    count = run.store.counts().products
    return f"{', '.join(files) or 'no dump recorded'}: {count:,} products ({run.store.fingerprint})"


def _category_columns(run: EvaluatedRun, others: list[EvaluatedRun]) -> dict[str, np.ndarray]:
    families = run.taxonomy.families
    columns = {
        "category.level1": unsigned(families[:, 0]),
        "category.level2": unsigned(families[:, 1]),
    }
    for unit in (unit for unit in ("product", "image") if unit in run.metrics):
        rows = run.categories(unit)
        columns[f"{unit}.support"] = unsigned(rows["support"].to_numpy())
        for system in SYSTEMS:
            for name in ("precision", "recall", "f1"):
                columns[f"{unit}.{system}.{name}"] = rows[f"{system}_{name}"].to_numpy(
                    dtype=np.float64
                )
    catalogue = pandas.read_parquet(run.files.table_path("catalogue"))
    columns |= {
        f"category.{name}": unsigned(catalogue[name].to_numpy())
        for name in ("train_images", "images", "products")
        if name in catalogue
    }
    for number, other in enumerate(others, start=1):
        rows = other.categories(_compared(run, others))
        rows = rows.set_index(other.taxonomy.category_ids).reindex(run.taxonomy.category_ids)
        for name in ("recall", "f1"):
            columns[f"run{number}.{name}"] = rows[f"two_stage_{name}"].to_numpy(dtype=np.float64)
    return columns


def _node_columns(run: EvaluatedRun) -> dict[str, np.ndarray]:
    """The rows of hierarchy.parquet of the main unit: level 1, level 2, then the categories."""
    rows = pandas.read_parquet(run.files.table_path("hierarchy"))
    rows = rows[rows["unit"] == run.unit]
    counts = ["categories", "support", "fixed", "broken", *(f"{system}_lost" for system in SYSTEMS)]
    ends = [f"{system}_{name}" for system in SYSTEMS for name in ("low", "high")]
    columns = {f"node.{name}": unsigned(rows[name].to_numpy()) for name in counts}
    return columns | {f"node.{name}": rows[name].to_numpy(dtype=np.float64) for name in ends}


def _pair_columns(run: EvaluatedRun) -> dict[str, np.ndarray]:
    """Every pair of true and predicted class under any system, the diagonal included."""
    rows = run.confusion[run.confusion["unit"] == run.unit]
    stages = [
        rows[rows["system"] == s].set_index(["true_class", "predicted_class"])["count"].rename(s)
        for s in SYSTEMS
    ]
    table = pandas.concat(stages, axis=1).fillna(0).reset_index()
    table = table.sort_values(["two_stage", "shifted"], ascending=False, kind="stable")
    names = {"true": "true_class", "predicted": "predicted_class"} | {
        system: system for system in SYSTEMS
    }
    return {
        f"pair.{name}": unsigned(table[column].to_numpy().astype(np.int64))
        for name, column in names.items()
    }


def _item_columns(items: pandas.DataFrame) -> dict[str, np.ndarray]:
    columns = {
        "item.product": items["product_id"].to_numpy(dtype=np.float64),
        "item.true": unsigned(items["class_index"].to_numpy()),
    }
    if items["item_id"].ne(items["product_id"]).any():
        columns["item.position"] = unsigned((items["item_id"] % POSITIONS).to_numpy())
    for system in SYSTEMS:
        columns[f"item.{system}"] = unsigned(items[f"{system}_class"].to_numpy())
        columns[f"item.{system}.rank"] = unsigned(items[f"{system}_true_rank"].to_numpy())
        columns[f"item.{system}.confidence"] = share(items[f"{system}_confidence"].to_numpy())
    columns["item.own"] = share(items["two_stage_true_confidence"].to_numpy())
    columns["item.refined"] = unsigned(items["refined"].to_numpy())
    return columns


def _shop_keys(
    run: EvaluatedRun, columns: dict[str, np.ndarray], findings: dict
) -> list[tuple[int, str]]:
    """Number and key of each product on the page whose key is not its number itself."""
    if run.store is None:
        return []
    blank = [row["product_id"] for row in findings["health"]["blank_rows"]]
    listed = [columns[name] for name in columns if name.endswith((".product", ".shown", ".other"))]
    numbers = np.unique(np.concatenate([*listed, blank]).astype(np.int64))
    numbers = numbers[numbers >= 0]
    pairs = zip(numbers.tolist(), map(str, run.store.keys(numbers)), strict=True)
    return [(number, key) for number, key in pairs if str(number) != key]


def _evidence_columns(evidence: pandas.DataFrame) -> dict[str, np.ndarray]:
    return {
        "evidence.typical": unsigned((evidence["kind"] == "typical").to_numpy(dtype=np.int64)),
        "evidence.product": evidence["product_id"].to_numpy(dtype=np.float64),
        "evidence.class": unsigned(evidence["class_index"].to_numpy(dtype=np.int64)),
        "evidence.shown": evidence["shown"].to_numpy(dtype=np.float64),
        "evidence.cosine": share(evidence["cosine"].to_numpy(dtype=np.float64)),
    }


def _problem_columns(problems: pandas.DataFrame) -> dict[str, np.ndarray]:
    rows = problems.groupby("kind", sort=False).head(PROBLEM_ROWS)
    kinds = rows["kind"].map({kind: number for number, kind in enumerate(KINDS)})
    return {
        "problem.kind": unsigned(kinds.to_numpy(dtype=np.int64)),
        "problem.product": rows["product_id"].to_numpy(dtype=np.float64),
        "problem.position": unsigned((rows["image_id"] % POSITIONS).to_numpy(dtype=np.int64)),
        "problem.true": unsigned(rows["class_index"].to_numpy(dtype=np.int64)),
        "problem.value": rows["value"].to_numpy(dtype=np.float32),
        "problem.other": rows["other"].to_numpy(dtype=np.float64),
    }


def _map_columns(rows: pandas.DataFrame) -> dict[str, np.ndarray]:
    columns = {"map.product": rows["product_id"].to_numpy(dtype=np.float64)}
    return columns | {f"map.{axis}": rows[axis].to_numpy(np.float32) for axis in ("x", "y")}


def split_numbers(names: pandas.Series) -> np.ndarray:
    """Index in SPLITS of each split's name [N]; len(SPLITS) if it is not known."""
    number_of = {name: number for number, name in enumerate(SPLITS)}
    return names.map(number_of).fillna(len(SPLITS)).to_numpy(dtype=np.int64)


def _review_columns(review: pandas.DataFrame) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for kind in ("doubt", "conflict"):
        rows = review[review["kind"] == kind].head(REVIEW_ROWS)
        columns |= {
            f"{kind}.product": rows["product_id"].to_numpy(dtype=np.float64),
            f"{kind}.item": rows["item_id"].to_numpy(dtype=np.float64),
            f"{kind}.group": unsigned(rows["group"].to_numpy()),
            f"{kind}.split": unsigned(split_numbers(rows["split"])),
            f"{kind}.true": unsigned(rows["class_index"].to_numpy()),
            f"{kind}.suggested": rows["suggested_class"].to_numpy(dtype=np.int32),
            f"{kind}.own": share(rows["self_confidence"].to_numpy()),
            f"{kind}.confidence": share(rows["suggested_confidence"].to_numpy()),
        }
    return columns
