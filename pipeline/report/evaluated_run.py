"""What the report reads of one run: the evaluation's tables, and beside them whatever else the run
folder holds."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import yaml

from catalog.artifacts import read_json, read_sealed, require_same, sha256_file
from catalog.errors import ArtifactError, TaxonomyError
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from pipeline.run_folder import RunFolder

SYSTEMS = ("stage1", "shifted", "two_stage")
_ITEM_COLUMNS = (
    "unit",
    "item_id",
    "product_id",
    "group",
    "class_index",
    "weight",
    "refined",
    "linked",
)
_SYSTEM_COLUMNS = ("class", "confidence", "true_rank", "true_confidence")


@dataclass(frozen=True)
class EvaluatedRun:
    """A run after `shelfsort evaluate`. What an unfinished or pruned run lacks (stage 2, store,
    training log) reads as empty; a missing evaluation raises ArtifactError."""

    files: RunFolder

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.files.folder.absolute().name

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The categories in class-index order."""
        path = self.files.taxonomy_path
        try:
            taxonomy = Taxonomy.from_json(read_json(path, "ingest"))
        except TaxonomyError as error:
            raise ArtifactError(path, str(error), "ingest") from error
        if self.store and self.store.meta("taxonomy") != taxonomy.fingerprint:
            raise ArtifactError(path, "not the taxonomy of store.sqlite", "ingest")
        return taxonomy

    @cached_property
    def metrics(self) -> dict:
        """evaluation/metrics.json. Raises ArtifactError if it is of another store or stage 2 than
        those that are there now."""
        path, manifest = self.files.metrics_path, self.files.stage2_manifest
        metrics = read_sealed(path, "evaluate")
        origin = now = metrics["made_from"]
        if self.store:
            now = now | {
                "views": {
                    name: view | {"store": self.store.fingerprint}
                    for name, view in origin["views"].items()
                }
            }
        if manifest.exists():
            now = now | {"stage2": sha256_file(manifest)}
        require_same(path, now, origin, "evaluate")
        return metrics

    @property
    def evaluated_store(self) -> str:
        """Fingerprint of the store whose test split was evaluated."""
        return self.metrics["made_from"]["views"]["stage1"]["store"]

    @property
    def unit(self) -> str:
        """What the page's details are about: products if they were evaluated, else images."""
        return "product" if "product" in self.metrics else "image"

    @cached_property
    def items(self) -> pandas.DataFrame:
        """evaluation/items.parquet."""
        columns = [
            *_ITEM_COLUMNS,
            *(f"{system}_{name}" for system in SYSTEMS for name in _SYSTEM_COLUMNS),
        ]
        return self._table("items", columns)

    @cached_property
    def per_category(self) -> pandas.DataFrame:
        """evaluation/per_category.parquet."""
        scores = (
            f"{system}_{name}"
            for system in SYSTEMS
            for name in ("precision", "recall", "f1", "predicted")
        )
        return self._table(
            "per_category",
            ["unit", "class_index", "category_id", "support", "train_images", *scores],
        )

    @cached_property
    def confusion(self) -> pandas.DataFrame:
        """evaluation/confusion.parquet."""
        return self._table(
            "confusion", ["unit", "system", "true_class", "predicted_class", "count"]
        )

    def _table(self, name: str, columns: list[str]) -> pandas.DataFrame:
        path, known = self.files.table_path(name), self.metrics.get("files", {})
        try:
            if path.name in known and sha256_file(path) != known[path.name]:
                problem = "its sha256 is not the one in metrics.json; the file is damaged"
                raise ArtifactError(path, problem, "evaluate")
            table = pyarrow.parquet.read_table(path)
        except FileNotFoundError:
            raise ArtifactError(path, "no such file", "evaluate") from None
        except (OSError, pyarrow.ArrowException) as error:
            raise ArtifactError(path, f"not readable as Parquet ({error})", "evaluate") from error
        if missing := [column for column in columns if column not in table.column_names]:
            raise ArtifactError(
                path,
                f"column {missing[0]} is missing; found {table.column_names}",
                "evaluate",
            )
        return table.select(columns).to_pandas()

    def categories(self, unit: str) -> pandas.DataFrame:
        """The rows of per_category of one unit, by class index; classes without a row have support
        0 and no scores."""
        rows = self.per_category[self.per_category["unit"] == unit].set_index("class_index")
        rows = rows.reindex(np.arange(len(self.taxonomy)))
        counts = ["support", *(f"{system}_predicted" for system in SYSTEMS)]
        return rows.assign(**{name: rows[name].fillna(0).astype(np.int64) for name in counts})

    @cached_property
    def train_images(self) -> np.ndarray:
        """Images that each class was trained on, int64 [K]. Classes that the evaluation leaves out
        are counted in the store."""
        counts = self.categories(self.unit)["train_images"]
        if self.store is not None:
            counts = counts.fillna(pandas.Series(self.store.image_counts("train")))
        return counts.fillna(0).to_numpy(dtype=np.int64)

    @cached_property
    def store(self) -> Store | None:
        """The run's store; None if the run has none."""
        return self.files.store if self.files.store_path.exists() else None

    @cached_property
    def config(self) -> dict:
        """config.yaml as plain values; empty if there is none."""
        path = self.files.config_path
        try:
            return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
        except yaml.YAMLError as error:
            raise ArtifactError(path, f"not readable as YAML ({error})", "ingest") from error

    @cached_property
    def epochs(self) -> list[dict]:
        """The lines of stage1/metrics.jsonl in order; empty if there are none."""
        path = self.files.training_log
        try:
            return (
                [
                    json.loads(line)
                    for line in path.read_text(encoding="utf-8").splitlines()
                    if line.strip()
                ]
                if path.exists()
                else []
            )
        except ValueError as error:
            raise ArtifactError(path, f"not readable as JSON lines ({error})", "stage1") from error

    @property
    def validation_images(self) -> int:
        """Images of val_a that each epoch was judged on; 0 if it is not recorded."""
        return int(_optional(self.files.stage1_summary, "stage1").get("images", {}).get("val_a", 0))

    @cached_property
    def sets(self) -> list[dict]:
        """Stage 2's confusion sets with their decisions, from its manifest; empty without a second
        stage."""
        return self._manifest.get("categories", [])

    @property
    def default_answer(self) -> str:
        """Who answers if no category's own reclassifier does: `pool` or `stage1`."""
        return self._manifest.get("default", "stage1")

    @cached_property
    def _manifest(self) -> dict:
        return _optional(self.files.stage2_manifest, "stage2")

    @property
    def has_stage2(self) -> bool:
        """Whether the run has a finished second stage."""
        return self.files.stage2_manifest.exists()

    @property
    def columns(self) -> list[str]:
        """The catalogue columns that stage 2 reads, and what they hold: `price (number)`."""
        views: dict = self._manifest.get("made_from", {}).get("views", {})
        read = (name for name, origin in views.items() if "columns" in origin)
        models = (_optional(self.files.view(name).columns_model, "features") for name in read)
        return [f"{c['name']} ({c['kind']})" for one in models for c in one.get("columns", [])]

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Wall time of each step that recorded it; stage 2 records its parts."""
        paths = {
            "stage1": self.files.stage1_summary,
            "stage2": self.files.stage2_summary,
            "evaluate": self.files.metrics_path,
        }
        recorded = {step: _optional(path, step).get("seconds") for step, path in paths.items()}
        totals = {
            step: sum(value.values()) if isinstance(value, dict) else value
            for step, value in recorded.items()
        }
        return {step: float(value) for step, value in totals.items() if value is not None}

    @property
    def backbone(self) -> str:
        """Name of stage 1's network, or `unknown`."""
        return str(self.config.get("stage1", {}).get("backbone", "unknown"))

    @property
    def revision(self) -> str:
        """The code's git revision that made the run, or `unknown`."""
        return str(self.config.get("revision") or self.config.get("git_revision") or "unknown")


def _optional(path: Path, step: str) -> dict:
    return read_json(path, step) if path.exists() else {}
