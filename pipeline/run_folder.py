"""A run folder: where each artefact lies, and whether it is current."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from catalog.artifacts import read_json, require_same, sha256_file, write_text
from catalog.errors import ArtifactError
from catalog.store.reader import Store
from features.schema import NO_NETWORK
from features.store import FeatureStore
from pipeline.config import RunConfig
from pipeline.installation import revision

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from distributed import Client

STAGE1 = "stage1"
"""Name of the first view."""
Say = Callable[[str], None]
"""Where a step reports what it did, a line at a time."""
Workers = Callable[[], "AbstractContextManager[Client]"] | None
"""Opens a client of dask workers for the time of a step; None if this process works alone."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run, and what is read there. A view within it, and a training of `compare`, is
    a folder of the same layout.

        run = RunFolder(Path("runs/first"))
        run.view("title").features_path  # runs/first/views/title/features.h5
    """

    folder: Path
    whole: "RunFolder | None" = None
    """The run that this folder is a view or a training of, whose store it uses."""

    @property
    def store_path(self) -> Path:
        """store.sqlite"""
        return self.folder / "store.sqlite"

    @property
    def config_path(self) -> Path:
        """config.yaml"""
        return self.folder / "config.yaml"

    @property
    def taxonomy_path(self) -> Path:
        """taxonomy.json"""
        return self.folder / "taxonomy.json"

    @property
    def ingest_summary(self) -> Path:
        """ingest.json"""
        return self.folder / "ingest.json"

    def labels_before(self) -> dict[int, int]:
        """Product id -> the category id that a correction replaced, of all ingests so far."""
        if not self.ingest_summary.exists():
            return {}
        stored = read_json(self.ingest_summary, "ingest").get("labels_before", {})
        return {int(product_id): category_id for product_id, category_id in stored.items()}

    @property
    def stage1(self) -> Path:
        """Folder of stage 1."""
        return self.folder / "stage1"

    @property
    def checkpoint(self) -> Path:
        """Stage 1's best checkpoint."""
        return self.stage1 / "best.pt"

    @property
    def stage1_summary(self) -> Path:
        """What stage 1's training came to; written last."""
        return self.stage1 / "summary.json"

    @property
    def training_log(self) -> Path:
        """A line per epoch."""
        return self.stage1 / "metrics.jsonl"

    @property
    def runtime_path(self) -> Path:
        """Which runtime was the fastest for stage 1's network."""
        return self.stage1 / "runtime.json"

    @property
    def features_path(self) -> Path:
        """features.h5"""
        return self.folder / "features.h5"

    @property
    def text_model(self) -> Path:
        """Vocabulary of a view of texts, or of words in photos; text.npz with its weights lies
        beside it."""
        return self.folder / "text.json"

    @property
    def view_head(self) -> Path:
        """Head of a view that is a file of vectors."""
        return self.folder / "head.npz"

    @property
    def columns_model(self) -> Path:
        """How the values of a view of catalogue columns become codes."""
        return self.folder / "columns.json"

    @property
    def stage2(self) -> Path:
        """Folder of stage 2."""
        return self.folder / "stage2"

    @property
    def stage2_manifest(self) -> Path:
        """manifest.json of stage 2; written last."""
        return self.stage2 / "manifest.json"

    @property
    def stage2_summary(self) -> Path:
        """What stage 2's training came to."""
        return self.stage2 / "summary.json"

    @property
    def answering(self) -> Path:
        """Folder of the bundle that scores: the last fit's if there is one (`stage2 --final`)."""
        final = self.stage2 / "final"
        return final if (final / "manifest.json").exists() else self.stage2

    @property
    def evaluation(self) -> Path:
        """Folder of the evaluation."""
        return self.folder / "evaluation"

    @property
    def metrics_path(self) -> Path:
        """metrics.json of the evaluation, which knows the checksums of its tables."""
        return self.evaluation / "metrics.json"

    def table_path(self, name: str) -> Path:
        """A table of the evaluation, or of the report: `items`, `per_category`, `review` ..."""
        return self.evaluation / f"{name}.parquet"

    @property
    def report(self) -> Path:
        """The page for analysts."""
        return self.folder / "report" / "index.html"

    @cached_property
    def store(self) -> Store:
        """The image store."""
        return self.whole.store if self.whole else Store(self.store_path)

    @cached_property
    def features(self) -> FeatureStore:
        """The bottleneck features."""
        return FeatureStore(self.features_path)

    def view(self, name: str) -> "RunFolder":
        """A view: `stage1` is the run itself, others have a folder of their own with checkpoint and
        features."""
        return self if name == STAGE1 else RunFolder(self.folder / "views" / name, self)

    def command(self, step: str, *words: str) -> str:
        """A command on this run, for messages, quoted for the shell."""
        folder = (self.whole or self).folder
        return shlex.join(["shelfsort", step, "--run", str(folder), *words])

    def current(
        self, manifest: Path, made_from: dict[str, Any], step: str, *, any_labels: bool = False
    ) -> bool:
        """Whether an artefact is current, made from `made_from`, or with `any_labels` from the same
        with earlier labels; False if it doesn't exist.

        Raises ArtifactError, naming what differs, if it was made from something else.
        """
        if not manifest.exists():
            return False
        recorded = read_json(manifest, step).get("made_from", {})
        recorded = self.with_labels_of_now(recorded) if any_labels else recorded
        require_same(manifest, made_from, recorded, step)
        return True

    def with_labels_of_now(self, made_from: dict[str, Any]) -> dict[str, Any]:
        """What an artefact was made from, as if the labels that were corrected since had been there
        before: each fingerprint of the store with earlier labels is replaced by today's."""
        if not (earlier := self.store.earlier_labels):
            return made_from
        text = json.dumps(made_from)
        for fingerprint in earlier:
            text = text.replace(json.dumps(fingerprint), json.dumps(self.store.fingerprint))
        return json.loads(text)

    def relabelled_since(self, manifest: Path, made_from: dict[str, Any], step: str) -> bool:
        """Whether an artefact is there and differs from one made now by corrected labels alone."""
        if not manifest.exists():
            return False
        recorded = read_json(manifest, step).get("made_from", {})
        return recorded != made_from and self.with_labels_of_now(recorded) == made_from

    def stage1_checksum(self) -> str:
        """sha256 of the checkpoint, from its summary. Raises ArtifactError if stage 1 isn't
        finished."""
        summary = self._stage1_summary()
        if not self.checkpoint.exists():
            raise ArtifactError(self.checkpoint, "no such file", "stage1")
        return summary["checkpoint"]

    def stage1_config(self) -> dict[str, Any]:
        """The settings that shaped stage 1's training; missing keys had their defaults."""
        return self._stage1_summary()["made_from"]["config"]

    def _stage1_summary(self) -> dict[str, Any]:
        path = self.stage1_summary
        if not path.exists() and (self.stage1 / "last.pt").exists():
            problem = "no such file, as the training isn't finished"
            raise ArtifactError(path, problem, "stage1", resume=True)
        return read_json(path, "stage1")

    def text_checksum(self) -> str:
        """sha256 of the text model's vocabulary, which holds that of its weights. Raises
        ArtifactError if it isn't there."""
        return _checksum(self.text_model)

    def columns_checksum(self) -> str:
        """sha256 of the encoding of columns. Raises ArtifactError if it isn't there."""
        return _checksum(self.columns_model)

    def require_features(self, source: str | None = None) -> None:
        """Raises ArtifactError unless the features were made from the store and the `source` that
        are there now: `checkpoint`, `text` or `cover` (a text model), `columns` or `file`; by
        default the one they name."""
        origin = self.features.made_from
        checksums: dict[str, Callable[[], str] | None] = {
            "checkpoint": self.stage1_checksum,
            "text": self.text_checksum,
            "cover": self.text_checksum,
            "columns": self.columns_checksum,
            "file": None,
        }
        source = source or next(name for name in checksums if name in origin)
        there_now = {"store": self.store.fingerprint}
        if (checksum := checksums[source]) is not None:
            there_now[source] = checksum()
        expected = origin | there_now
        if origin != expected and self.with_labels_of_now(origin) == expected:
            problem = "labels were corrected since it was made"
            raise ArtifactError(self.features_path, problem, "features", resume=True)
        self.features.require(expected)

    def require_precision(self, asked: str) -> None:
        """Raises ArtifactError if the features were computed in another precision than
        `features.precision` asks for; `auto` is fp32 on a processor and anything else on a GPU."""
        computed = self.features.computed_with
        as_auto = (computed["precision"] == "fp32") == (computed["device"] == "cpu")
        if computed["device"] == NO_NETWORK["device"] or (
            as_auto if asked == "auto" else computed["precision"] == asked
        ):
            return
        arithmetic = f"{computed['precision']} on {computed['device']}"
        problem = f"computed in {arithmetic}, features.precision is {asked}"
        raise ArtifactError(self.features_path, problem, "features")

    def save_config(self, config: RunConfig) -> None:
        """Writes config.yaml: the resolved configuration and the code's revision."""
        value = {"revision": revision(), **config.model_dump(mode="json")}
        write_text(self.config_path, yaml.safe_dump(value, sort_keys=False))


def _checksum(path: Path) -> str:
    if not path.exists():
        raise ArtifactError(path, "no such file", "features")
    return sha256_file(path)
