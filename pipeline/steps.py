"""The steps of the product, in order. Read this first.

    dump     --ingest-->    store.sqlite      products in splits, photos checked and copied
             --stage1-->    stage1/best.pt    a CNN over all categories
             --features-->  features.h5       what the CNN sees in each photo, once and for all
             --stage2-->    stage2/           a second opinion where the CNN confuses neighbours
             --evaluate-->  evaluation/       accuracy of both stages on the test split
             --report-->    report/           one HTML page for analysts

    another dump  --score-->  predictions/    the categories of its products, by a finished run

All of it lies in one run folder (`pipeline.run_folder`; docs/formats.md has every file), but for
predictions, which go where the caller wants them. A step takes that folder and the configuration,
and says in a few lines what it did.

Each artefact holds `made_from`, what it was made from: fingerprints of its inputs, and the settings
that shape it. So a step that writes one
- does nothing if the artefact is current, made from what is there now;
- raises ArtifactError, naming what differs, if it was made from something else: nothing is silently
  replaced, and nothing is silently built on something stale;
- resumes after an interruption, wherever the work takes long;
- builds it again if told to `rebuild`.
Where labels were corrected since, and nothing else differs, stage 1 and the photos' features stay,
and what is fitted or counted on labels in seconds to minutes is made again without being told.

A step imports what it needs when it runs: torch, xgboost and dask take seconds to load, which a
step that is current, `--help` and an error in the configuration shouldn't cost.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.artifacts import (
    read_sealed,
    require_same,
    sha256_file,
    write_json,
    write_text,
    writing,
)
from catalog.errors import ShelfsortError
from catalog.labels import read_labels
from catalog.parallel import cores, processes_fault
from catalog.splits import EXTRA
from pipeline import second_stage, training
from pipeline.config import ColumnsView, CoverView, FileView, RunConfig, TextView
from pipeline.run_folder import RunFolder, Say, Workers

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from catalog.store.ingest import IngestSummary
    from features.store import FeatureStore
    from pipeline.report.findings import Extras
    from stage1_cnn.processes import Processes
    from stage2_xgb.bundle import Bundle


def ingest(
    run: RunFolder,
    config: RunConfig,
    dumps: Sequence[str],
    categories: Path | None,
    rebuild: bool,
    corrections: Path | None = None,
    workers: Workers = None,
    accept_damage: bool = False,
    say: Say = print,
) -> None:
    """Dump -> store.sqlite: deals products to splits, checks photos and copies them.

    `categories` names the categories, `corrections` holds better labels from an analyst. Unlike the
    other steps it also brings a store up to date with a dump that has grown.
    """
    from catalog.store.ingest import ingest_dump

    started = time.perf_counter()
    with _checkers(config, workers) as (executor, jobs):
        summary = ingest_dump(
            run.store_path,
            dumps,
            categories,
            config.catalog,
            index_folder=run.folder / "dumps",
            jobs=jobs,
            corrections=read_labels(corrections) if corrections else {},
            executor=executor,
            rebuild=rebuild,
            accept_damage=accept_damage,
            access=config.access,
        )
    _write_ingest_summary(run, summary, {} if rebuild else run.labels_before())
    if corrections:
        for line in _correction_lines(run, summary):
            say(line)
    for line in _ingest_lines(run, config, summary, time.perf_counter() - started):
        say(line)


def _write_ingest_summary(
    run: RunFolder, summary: "IngestSummary", earlier: dict[int, int]
) -> None:
    """Writes taxonomy.json and ingest.json. A label that a correction replaced `earlier` is the one
    before any correction."""
    counts = summary.to_json()
    counts["labels_before"] = {str(i): c for i, c in (summary.labels_before | earlier).items()}
    write_json(run.taxonomy_path, run.store.taxonomy.to_json())
    made_from = {"store": run.store.fingerprint}
    write_json(run.ingest_summary, {"made_from": made_from, **counts})


@contextlib.contextmanager
def _checkers(config: RunConfig, workers: Workers) -> "Iterator[tuple[Executor | None, int]]":
    """What checks ingest's photos: dask workers, or None for processes of this machine; and how
    many work at once."""
    jobs = config.jobs or cores()
    if workers:
        from pipeline.cluster.steps import checking

        with workers() as client, checking(client) as pool:
            yield pool
        return
    if jobs > 1 and (fault := processes_fault()):
        raise ShelfsortError(fault)
    yield None, jobs


def stage1(
    run: RunFolder,
    config: RunConfig,
    rebuild: bool,
    say: Say = print,
    processes: "Processes | None" = None,
) -> None:
    """store.sqlite -> stage1/best.pt: trains the network, first its head, then all of it.

    Started by torchrun, several `processes` train it together.
    """
    training.train(run, config.stage1, rebuild, say, "stage1", processes, any_labels=True)


def features(
    run: RunFolder, config: RunConfig, rebuild: bool, say: Say = print, workers: Workers = None
) -> None:
    """stage1/best.pt -> features.h5: every photo's bottleneck features.

    Further views (section `views`) get a features.h5 of their own, in views/NAME/: those of another
    network, which is trained first; vectors of the products' texts, or of the words in the photos;
    codes of their catalogue columns; vectors from a file.
    """
    from pipeline.views import (
        columns_view,
        cover_view,
        file_view,
        network_view,
        text_readers,
        text_view,
    )

    readers = text_readers(config)  # what they lack is said now, not after a training
    for name in config.view_names:
        view_folder, view = run.view(name), config.view(name)
        if isinstance(view, TextView):
            text_view(view_folder, view, config.stage1.seed, rebuild, say)
        elif isinstance(view, CoverView):
            cover_view(view_folder, view, readers[name], config, rebuild, say, workers)
        elif isinstance(view, ColumnsView):
            columns_view(view_folder, view, rebuild, say)
        elif isinstance(view, FileView):
            file_view(view_folder, view, config.stage1.seed, rebuild, say)
        else:
            if view_folder.whole:
                training.train(view_folder, view, rebuild, say, f"view {name}", any_labels=True)
            network_view(view_folder, config, rebuild, say, workers)


def stage2(
    run: RunFolder,
    config: RunConfig,
    rebuild: bool,
    say: Say = print,
    workers: Workers = None,
    *,
    final: bool = False,
) -> None:
    """features.h5 -> stage2/: the pool of experts, the reclassifiers of confusable categories, and
    where these answer; also what it answers for held-out products.

    `final` then fits the experts on all labelled products, test included, into stage2/final/, which
    answers from then on; `evaluate` judges stage 2 without it.
    """
    views = second_stage.current_features(run, config, config.view_names)
    made_from = second_stage.stage2_origin(run, config, views)
    if run.relabelled_since(run.stage2_manifest, made_from, "stage2"):
        say("stage2: labels were corrected since; fitting it again")
        rebuild, final = True, final or run.answering != run.stage2
    current = not rebuild and run.current(run.stage2_manifest, made_from, "stage2")
    if not current:
        second_stage.fit(run, config, views, made_from, rebuild, say, workers)
    second_stage.ask_held_out(run, config, views)
    if current:
        say(f"stage2: current ({run.stage2})")
    if final:
        second_stage.fit_final(run, config, views, rebuild, say)


def evaluate(
    run: RunFolder, config: RunConfig, rebuild: bool, say: Say = print, *, rivals: bool = False
) -> dict[str, Any]:
    """The test split -> evaluation/: accuracy of each stage, with intervals; with `rivals`, that of
    simple systems on the same features too.

    Says and returns the figures, as metrics.json holds them, also if they are current.
    """
    from pipeline.evaluation.summary import summary
    from stage2_xgb.bundle import Bundle

    bundle = Bundle.open(run.stage2)
    bundle.verify()  # with a broken file stage 1 would answer, and its accuracy pass for stage 2's
    views = second_stage.current_features(run, config, bundle.made_from["views"])
    second_stage.require_learnt_from(views, bundle)
    if run.answering != run.stage2:
        say(f"evaluate: {run.stage2}, not the last fit in {run.answering}, which knows test")
    made_from = _evaluation_origin(run, config, bundle)
    metrics_path, summary_path = run.metrics_path, run.evaluation / "summary.txt"
    if not rebuild and metrics_path.exists() and summary_path.exists():
        metrics = read_sealed(metrics_path, "evaluate")
        recorded = dict(metrics["made_from"])
        has_rivals = recorded.pop("rivals", False)
        if _relabelled(run, recorded, made_from):
            say("evaluate: labels were corrected since; measuring again")
            return evaluate(run, config, rebuild=True, say=say, rivals=rivals or has_rivals)
        require_same(metrics_path, made_from, recorded, "evaluate")
        if has_rivals or not rivals:
            say(f"evaluate: current ({metrics_path})")
            say(summary(metrics))
            return metrics
    metrics = _measure(run, config, bundle, views, made_from, rivals, say)
    say(summary(metrics))
    return metrics


def _evaluation_origin(run: RunFolder, config: RunConfig, bundle: "Bundle") -> dict[str, Any]:
    """What an evaluation is made from, but for rivals."""
    from stage2_xgb.addition import checksums

    made_from = {
        "views": bundle.made_from["views"],
        "stage2": sha256_file(run.stage2_manifest),
        "config": config.evaluate.model_dump(mode="json"),
    }
    if added := checksums(run.stage2):
        made_from["added"] = added
    return made_from


def _measure(
    run: RunFolder,
    config: RunConfig,
    bundle: "Bundle",
    views: "Mapping[str, FeatureStore]",
    made_from: dict[str, Any],
    rivals: bool,
    say: Say,
) -> dict[str, Any]:
    """Measures the test split and writes evaluation/; summary.txt, written last, marks it as
    complete."""
    from pipeline.decisions import heldout
    from pipeline.evaluation.evaluate import evaluate_test
    from pipeline.evaluation.summary import summary

    held, path = heldout.read(run.stage2), run.evaluation / "summary.txt"
    run.store.verify()
    with writing(path):
        path.unlink(missing_ok=True)
    stores, before = list(views.values()), run.labels_before()
    others = second_stage.rivals(run, config, views, bundle, say) if rivals else {}
    made_from = made_from | ({"rivals": True} if rivals else {})
    metrics = evaluate_test(
        stores, run.store, bundle, held, config.evaluate, run.evaluation, made_from, before, others
    )
    write_text(path, summary(metrics) + "\n")
    return metrics


def _relabelled(run: RunFolder, recorded: dict[str, Any], made_from: dict[str, Any]) -> bool:
    """Whether an evaluation differs from one made now by corrected labels, and by the stage 2 that
    was fitted on them, alone."""
    stage2 = {"stage2": made_from["stage2"]}
    return (
        recorded["views"] != made_from["views"]
        and run.with_labels_of_now(recorded | stage2) == made_from
    )


def report(
    run: RunFolder,
    others: Sequence[RunFolder],
    extras: "Extras | None" = None,
    say: Say = print,
) -> None:
    """evaluation/ -> report/index.html: one page for analysts, on which `others` are compared with
    the run; `extras` are a user's own files for it. It is written again each time, which takes
    seconds."""
    from pipeline.report.page import write_report

    page = write_report([run, *others], run.report.parent, extras)
    say(f"report: {page}")


def score(
    run: RunFolder,
    config: RunConfig,
    paths: Sequence[str],
    out: Path,
    labels: Path | None = None,
    workers: Workers = None,
    accept_damage: bool = False,
    say: Say = print,
) -> None:
    """A dump, or another source of products -> predictions-*.parquet and rejects-*.parquet in
    `out`, every product accounted for.

    Finished parts are kept. Compares the predictions with `labels` if they are given. Raises
    DamagedSourceError if a file of the source is damaged, unless `accept_damage`.
    """
    from pipeline.scoring.accuracy import compare_with_labels
    from pipeline.scoring.job import ScoreJob
    from pipeline.scoring.outcome import Outcome
    from pipeline.scoring.score import SUMMARY, score_source
    from stage2_xgb.final import refitted_on

    job = ScoreJob.open(run, config, labels, say)
    started = time.perf_counter()
    source, truth = job.source(paths, out, accept_damage)
    with workers() if workers else contextlib.nullcontext() as client:
        scorer = job.scorer(source, client, config.jobs or cores())
        totals, decided = score_source(scorer, source, out, job.config.score)
    comparison = compare_with_labels(out, truth, job.model.taxonomy) if truth else None
    refitted = refitted_on(job.model.bundle)
    outcome = Outcome(totals, decided, comparison, refitted, time.perf_counter() - started)
    write_json(out / SUMMARY, outcome.figures())
    for line in outcome.lines(run, out):
        say(line)


def lookalikes(
    run: RunFolder,
    config: RunConfig,
    paths: Sequence[str],
    listed: Path,
    threshold: float,
    out: Path,
    accept_damage: bool = False,
    say: Say = print,
) -> None:
    """A dump, or another source of products, against a list of images -> lookalikes-*.parquet in
    `out`: each product's nearest listed image, a match from cosine `threshold` on."""
    from catalog.sources.damage import require_whole
    from catalog.sources.source import open_source
    from pipeline.networks import open_network
    from pipeline.retrieval.lookalikes import ListedImages, find_lookalikes
    from pipeline.retrieval.similar import LOOK_UPS

    run.stage1_checksum()
    predictor = open_network(run.checkpoint, **LOOK_UPS)
    images = ListedImages.read(listed, predictor)
    started = time.perf_counter()
    source = open_source(paths, out / "dumps", config.catalog, config.access)
    jobs = config.jobs or cores()
    require_whole(paths[0], len(source), source.rejects, accept_damage)
    most = config.catalog.max_pixels
    totals = find_lookalikes(predictor, source, images, threshold, out, config.score, jobs, most)
    compared = f"{totals.products} products against {len(images.names)} images"
    seconds = time.perf_counter() - started
    matches = f"{totals.matches} with a cosine of {threshold:g} or more"
    say(f"lookalikes: {compared} in {seconds:.1f} s: {matches} -> {out}")
    unreadable, rejected = totals.unreadable_images, totals.rejected
    say(f"  {unreadable} images and {rejected} documents of the dump could not be read")
    if lost := totals.unreachable_images:
        say(f"  {lost} of these images could not be reached; the same command tries them again")


def _correction_lines(run: RunFolder, summary: "IngestSummary") -> Iterator[str]:
    yield (
        f"corrections: changed {summary.corrected} labels; {summary.corrections} of the file's "
        "products are in the store"
    )
    if summary.corrected and run.features_path.exists():
        steps = [run.command(name) for name in ("features", "stage2", "evaluate", "report")]
        yield "to bring the run up to date: " + " && ".join(steps)


def _ingest_lines(
    run: RunFolder, config: RunConfig, summary: "IngestSummary", seconds: float
) -> Iterator[str]:
    categories = f"{summary.categories_in_use} of {summary.categories} categories"
    size = f"{summary.products} products, {summary.images} images, {categories}"
    if not summary.changed:
        yield f"ingest: current ({run.store_path}: {size})"
        return
    yield f"ingest: {size} in {seconds:.1f} s"
    if not summary.copied:
        yield "  nothing new: the store had these products already, or the caps leave them out"
    if config.catalog.text:
        yield f"  {summary.texts} of the kept products have a text in field {config.catalog.text}"
    for split, n in summary.kept.items():
        if split == EXTRA and not n["products"]:
            continue
        counts = f"{n['products']:8d} products {n['images']:8d} images"
        yield f"  {split:8s} {counts}, {n['fit']} may be fitted"
    yield (
        f"  dropped under caps {summary.dropped_products} products; "
        f"duplicates {summary.duplicate_images}, blank {summary.blank_images}, "
        f"undecodable but kept {summary.undecodable_images}; rejects: "
        + (", ".join(f"{reason} {n}" for reason, n in summary.rejects.items()) or "none")
    )
