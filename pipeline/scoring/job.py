"""The step `score` around the scoring itself (score.py): what is opened and checked before, and
what is said after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.artifacts import sha256_file
from catalog.errors import ShelfsortError
from catalog.image_table import image_ids
from catalog.labels import read_labels
from catalog.sources.damage import require_whole
from catalog.sources.keys import Key
from catalog.sources.source import ProductSource, open_source
from pipeline.config import RunConfig
from pipeline.model import TwoStageModel
from pipeline.run_folder import RunFolder
from pipeline.scoring import coverage
from pipeline.scoring.accuracy import compare, labels_in, labels_of
from pipeline.scoring.agreement import warn_of_other_arithmetic
from pipeline.scoring.lanes import Engine, Lanes
from pipeline.scoring.score import Scorer, Totals
from stage2_xgb.final import refitted_on


@dataclass(frozen=True)
class ScoreJob:
    """A run that is to score: its configuration with absolute paths, its model, the sha256 of
    checkpoint and second stage, the category id of products that get no answer, the file of
    `labels` and what is `given` there, and what each threshold of confidence costs (empty where
    none was asked for)."""

    run: RunFolder
    config: RunConfig
    model: TwoStageModel
    checksums: dict[str, str]
    fallback: int
    labels: Path | None
    given: dict[Key, int]
    costs: list[coverage.Cost]

    @classmethod
    def open(cls, run: RunFolder, config: RunConfig, labels: Path | None) -> "ScoreJob":
        """Raises ShelfsortError where the labels, the costs or the model can't be read."""
        given = read_labels(labels) if labels else {}
        sure = config.score.min_confidence is not None
        costs = coverage.read(run.stage2) if sure else []
        vectors = {name: str(Path(file).absolute()) for name, file in config.score.vectors.items()}
        config = config.model_copy(
            update={"score": config.score.model_copy(update={"vectors": vectors})}
        )
        model = TwoStageModel.open(
            run, config.stage1.device, config.features.precision, config.score.runtime, vectors
        )
        fallback = int(
            model.taxonomy.category_ids[int(run.store.natural_counts("product").argmax())]
        )
        checksums = {
            "checkpoint": run.stage1_checksum(),
            "stage2": sha256_file(model.bundle.folder / "manifest.json"),
        }
        return cls(run, config, model, checksums, fallback, labels, given, costs)

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
        source = open_source(paths, out / "dumps", catalog)
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
            )  # a missing vector is said now, not after hours
        return source, truth

    def _require_texts(self, source: ProductSource) -> None:
        """Raises ShelfsortError where a view reads the products' texts and none of the first ones
        has one."""
        some = range(min(len(source), 100))
        if self.model.text_view and len(some) and not any(map(source.text, some)):
            raise ShelfsortError(
                f"{source.place(0, -1)[0]}: none of the first {len(some)} products has a text in {self.config.catalog.text!r}, "
                f"which view {self.model.text_view} reads; name the field or column: --set catalog.text=NAME"
            )

    def scorer(self, source: ProductSource, client: Any, lanes: int) -> Scorer:
        """What scores: so many lanes of this process, or the dask workers of `client`, where there
        is one."""
        vectors = self.config.score.vectors
        engine: Engine = (
            Lanes(self.model, lanes) if client is None else self._workers(source, client)
        )
        made_with = {f"vectors.{name}": sha256_file(path) for name, path in vectors.items()}
        made_with["precision"] = self.model.network.compute.precision
        made_with["runtime"] = ", ".join(sorted({*self.model.runtimes.values()}))
        return Scorer(engine, self.checksums | made_with, self.fallback, self.run.store.digests())

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

    def said(
        self, totals: Totals, out: Path, truth: dict[Key, int], seconds: float
    ) -> Iterator[str]:
        """What became of it, in lines; compares with the truth."""
        yield (
            f"score: {totals.products} products = {totals.predictions} predictions + {totals.rejected_products} rejects, "
            f"{totals.images} images in {seconds:.1f} s -> {out}"
        )
        for what, reasons in (("products", totals.reasons), ("photos", totals.image_reasons)):
            if reasons:
                yield f"  rejected {what}: {', '.join(f'{r} {n}' for r, n in reasons.items())}"
        if totals.repaired_images:
            yield f"  {totals.repaired_images} JPEGs lack their end marker and were read all the same"
        learnt = (
            "; answers to those that it learnt from are no check of their labels"
            if totals.known_images
            else ""
        )
        yield f"  overlap: {totals.known_images} of these images stand, byte for byte, in the run's own store{learnt}"
        if said := refitted_on(self.model.bundle):
            yield f"  {said}"
        if totals.unreachable:
            yield f"  {totals.unreachable} photos could not be reached; the same command scores the parts that they are in again"
        if totals.min_confidence is not None:
            yield f"  {coverage.text_at(self.costs, totals.min_confidence)}"
            yield f"  here: {totals.accepted} products in accepted.parquet, {totals.review} in review.parquet"
        if truth:
            yield f"  {compare(out, truth, self.model.taxonomy).text()}"
        if totals.broken:
            mend = self.run.command("stage2", "--rebuild")
            yield f"  stage 2 answered without {', '.join(totals.broken)}; rebuild it with: {mend}"
