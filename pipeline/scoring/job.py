"""The step `score` around the scoring itself (score.py): what is opened and checked before it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalog.artifacts import sha256_file
from catalog.config import MAX_PIXELS
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import image_ids
from catalog.labels import read_labels
from catalog.sources.column_table import ColumnTable
from catalog.sources.damage import require_whole
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource, open_source
from pipeline.config import RunConfig
from pipeline.decisions import heldout
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.novelty import novelty
from pipeline.model import TwoStageModel
from pipeline.quantisation import keep_int8_networks
from pipeline.run_folder import RunFolder, Say
from pipeline.scoring.accuracy import labels_in, labels_of
from pipeline.scoring.agreement import require_agreement
from pipeline.scoring.lanes import Engine, Lanes
from pipeline.scoring.plan import DecisionInputs, named_mix, needs_held_out
from pipeline.scoring.score import Scorer
from stage2_xgb.addition import identity

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreJob:
    """A run that is to score: its configuration with absolute paths, its model, the sha256 of
    checkpoint and second stage, the category id of products that get no answer, the file of
    `labels` and what is `given` there, and what decisions rest on."""

    run: RunFolder
    config: RunConfig
    model: TwoStageModel
    checksums: dict[str, str]
    fallback: int
    labels: Path | None
    given: dict[Key, int]
    decision_inputs: DecisionInputs

    @classmethod
    def open(
        cls, run: RunFolder, config: RunConfig, labels: Path | None, say: Say = print
    ) -> "ScoreJob":
        """Quantises the networks if they are to answer in int8 and that isn't done. Raises
        ShelfsortError if they can't be, or the labels, the held-out answers, a file of weights or
        the model can't be read."""
        given = read_labels(labels) if labels else {}
        needed = needs_held_out(config.score)
        known = _held_out(run, needed)
        vectors = {name: str(Path(file).absolute()) for name, file in config.score.vectors.items()}
        config = config.model_copy(
            update={"score": config.score.model_copy(update={"vectors": vectors})}
        )
        if config.answer_precision == "int8":
            keep_int8_networks(run, config.view_names, say)
        model = TwoStageModel.open(
            run,
            config.stage1.device,
            config.answer_precision,
            config.score.runtime,
            vectors,
            config.catalog.max_pixels,
        )
        counts = run.store.natural_counts("product")
        mix, table = named_mix(config.score, counts, model.known), config.score.allowed
        allowed = Allowed.read(table, model.taxonomy) if table else None
        held, flags = known if needed else None, novelty(known) if known else None
        inputs = DecisionInputs(model.known, held, mix, allowed, model.added, flags)
        fallback = int(model.taxonomy.category_ids[int(counts.argmax())])
        checksums = {
            "checkpoint": run.stage1_checksum(),
            "stage2": identity(model.bundle.folder),
        }
        return cls(run, config, model, checksums, fallback, labels, given, inputs)

    def source(
        self, paths: Sequence[str], out: Path, accept_damage: bool
    ) -> tuple[ProductSource, dict[Key, int]]:
        """What is to be scored, and the true category ids of it that are known. Raises
        ShelfsortError if the labels are of other products, if the source has no readable product or
        lacks what a view reads, and if a file of it is damaged, unless `accept_damage`."""
        table = self.config.catalog.table.model_copy(update={"split": None, "group": None})
        needed = {"columns": self._columns_read, "table": table}
        needed |= {} if self.model.text_view else {"text": None}
        catalog = self.config.catalog.model_copy(update=needed)
        source = open_source(paths, out / "dumps", catalog, self.config.access)
        require_whole(paths[0], len(source), source.rejects, accept_damage)
        truth = (
            labels_in(source, self.given, self.labels, self.model.taxonomy)
            if self.labels
            else labels_of(source, self.model.taxonomy)
        )
        self._require_texts(source)
        self._warn_of_missing_columns(source)
        require_agreement(self.run, self.model)
        for file in self.model.vector_files:
            file.rows(
                image_ids(source.product_id, source.n_images)
            )  # a missing vector is reported now, not after hours
        return source, truth

    def _require_texts(self, source: ProductSource) -> None:
        """Raises ShelfsortError if a view reads the products' texts and none of the first products
        has one."""
        some = range(min(len(source), 100))
        if self.model.text_view and len(some) and not any(map(source.text, some)):
            raise ShelfsortError(
                f"{source.location(0, -1)[0]}: none of the first {len(some)} products has a text "
                f"in {self.config.catalog.text!r}, which view {self.model.text_view} reads; "
                "name the field or column: --set catalog.text=NAME"
            )

    @property
    def _columns_read(self) -> tuple[str, ...]:
        """The columns that are read from what is scored."""
        encoder = self.model.columns
        return encoder.names if encoder and not self.config.score.table else ()

    def _warn_of_missing_columns(self, source: ProductSource) -> None:
        """Logs it if a view reads columns and none of the first products has any."""
        names, some = self._columns_read, range(min(len(source), 100))
        read = (value for row in some for value in source.columns(row, names))
        if names and all(value is None for value in read):
            _log.warning(
                "%s: none of the first %d products has a column %s: they are answered from their "
                "photos; name a file that has the columns: --set score.table=FILE",
                source.location(0, -1)[0],
                len(some),
                " or ".join(names),
            )

    def _codes(self, source: ProductSource) -> np.ndarray | None:
        """The codes of the products' columns by `score.table`; None without one. Raises
        ShelfsortError if no view reads columns, or the file can't be read, lacks a column or has
        none of the products."""
        if not (path := self.config.score.table):
            return None
        if not (encoder := self.model.columns):
            raise ShelfsortError(f"score.table: {self.model.bundle.folder} reads no columns")
        table, keys = ColumnTable.read(path, encoder.names), list(source.keys)
        if not (known := table.known(keys)):
            raise ShelfsortError(f"score.table: {path} has none of the {len(keys)} products")
        if known < len(keys):
            missing = f"{len(keys) - known} of {len(keys)} products"
            _log.warning("%s lacks %s: they are answered from their photos", path, missing)
        return encoder.encode(table.values(keys))

    def scorer(self, source: ProductSource, client: Any, lanes: int) -> Scorer:
        """What scores: so many lanes of this process, or the dask workers of `client` if there is
        one."""
        vectors = self.config.score.vectors
        engine: Engine = (
            Lanes(self.model, lanes) if client is None else self._workers(source, client)
        )
        made_with = {f"vectors.{name}": sha256_file(path) for name, path in vectors.items()}
        made_with["precision"] = self.model.network.compute.precision
        made_with["runtime"] = ", ".join(sorted({*self.model.runtimes.values()}))
        codes = self._codes(source)
        if table := self.config.score.table:
            made_with["table"] = sha256_file(table)
        if self.model.max_pixels != MAX_PIXELS:
            made_with["max_pixels"] = str(self.model.max_pixels)
        checksums, digests = self.checksums | made_with, self.run.store.digests()
        return Scorer(engine, checksums, self.fallback, digests, self.decision_inputs, codes)

    def _workers(self, source: ProductSource, client: Any) -> Engine:
        from pipeline.scoring.workers import DaskWorkers, ModelLocation

        vectors, precision = self.config.score.vectors, self.model.network.compute.precision
        folder = str(self.run.folder.absolute())
        location = ModelLocation(
            folder,
            **self.checksums,
            device=self.config.stage1.device,
            precision=precision,
            runtimes=tuple(self.model.runtimes.items()),
            max_pixels=self.model.max_pixels,
        )
        return DaskWorkers(
            client,
            location,
            [*source.files, *((path, Path(path).stat().st_size) for path in vectors.values())],
        )


def _held_out(run: RunFolder, needed: bool) -> HeldOutAnswers | None:
    """What both stages answer for held-out products; None if that can't be read and isn't needed:
    then nothing flags products unlike every category."""
    try:
        return heldout.read(run.stage2)
    except ArtifactError:
        if needed:
            raise
        return None
