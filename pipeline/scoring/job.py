"""The step `score` around the scoring itself (score.py): what is opened and checked before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.artifacts import sha256_file
from catalog.errors import ArtifactError, ShelfsortError
from catalog.image_table import image_ids
from catalog.labels import read_labels
from catalog.sources.damage import require_whole
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource, open_source
from pipeline.config import RunConfig
from pipeline.decisions import heldout
from pipeline.decisions.allowed import Allowed
from pipeline.decisions.heldout import HeldOutAnswers
from pipeline.decisions.novelty import novelty
from pipeline.model import TwoStageModel
from pipeline.run_folder import RunFolder
from pipeline.scoring.accuracy import labels_in, labels_of
from pipeline.scoring.agreement import warn_of_other_arithmetic
from pipeline.scoring.lanes import Engine, Lanes
from pipeline.scoring.plan import Judges, named_mix, needs_held_out
from pipeline.scoring.score import Scorer
from stage2_xgb.addition import identity


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
    judges: Judges

    @classmethod
    def open(cls, run: RunFolder, config: RunConfig, labels: Path | None) -> "ScoreJob":
        """Raises ShelfsortError if the labels, the held-out answers, a file of weights or the model
        can't be read."""
        given = read_labels(labels) if labels else {}
        needed = needs_held_out(config.score)
        known = _held_out(run, needed)
        vectors = {name: str(Path(file).absolute()) for name, file in config.score.vectors.items()}
        config = config.model_copy(
            update={"score": config.score.model_copy(update={"vectors": vectors})}
        )
        model = TwoStageModel.open(
            run, config.stage1.device, config.features.precision, config.score.runtime, vectors
        )
        counts = run.store.natural_counts("product")
        mix, table = named_mix(config.score, counts, model.known), config.score.allowed
        allowed = Allowed.read(table, model.taxonomy) if table else None
        held, flags = known if needed else None, novelty(known) if known else None
        judges = Judges(model.known, held, mix, allowed, model.added, flags)
        fallback = int(model.taxonomy.category_ids[int(counts.argmax())])
        checksums = {
            "checkpoint": run.stage1_checksum(),
            "stage2": identity(model.bundle.folder),
        }
        return cls(run, config, model, checksums, fallback, labels, given, judges)

    def source(
        self, paths: Sequence[str], out: Path, accept_damage: bool
    ) -> tuple[ProductSource, dict[Key, int]]:
        """What is to be scored, and the true category ids of it that are known. Raises
        ShelfsortError if the labels are of other products, if the source has no readable product or
        lacks what a view reads, and if a file of it is damaged, unless `accept_damage`."""
        table = self.config.catalog.table.model_copy(update={"split": None, "group": None})
        needed = {"columns": (), "table": table}
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
        warn_of_other_arithmetic(self.run, self.model)
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
                f"{source.place(0, -1)[0]}: none of the first {len(some)} products has a text in "
                f"{self.config.catalog.text!r}, which view {self.model.text_view} reads; "
                "name the field or column: --set catalog.text=NAME"
            )

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
        checksums, digests = self.checksums | made_with, self.run.store.digests()
        return Scorer(engine, checksums, self.fallback, digests, self.judges)

    def _workers(self, source: ProductSource, client: Any) -> Engine:
        from pipeline.scoring.workers import ModelPlace, Workers

        vectors, precision = self.config.score.vectors, self.model.network.compute.precision
        folder = str(self.run.folder.absolute())
        place = ModelPlace(
            folder,
            **self.checksums,
            device=self.config.stage1.device,
            precision=precision,
            runtimes=tuple(self.model.runtimes.items()),
        )
        return Workers(
            client,
            place,
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
