"""The steps of the product, in order; read this first.

Each step takes a run directory and the configuration, says in a line what it did, and does nothing
where its artefact is current. An artefact that was made from something else is an error that names
what differs; `rebuild` makes it anew.
"""

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.artifacts import read_sealed, require_same, sha256_file, write_json, write_text
from catalog.errors import ConfigError
from catalog.labels import read_labels
from catalog.parallel import cores
from features.store import FeatureStore
from features.writer import discard
from pipeline.config import FileView, RunConfig, TextView
from pipeline.run_folder import Run
from stage1_cnn.config import Stage1Config

if TYPE_CHECKING:
    from stage1_cnn.processes import Processes

log = logging.getLogger(__name__)
Say = Callable[[str], None]
Workers = Callable[[], AbstractContextManager] | None
"""Opens a client of dask workers for the time of a step; None where this process does it alone."""


def ingest(
    run: Run,
    config: RunConfig,
    dumps: Sequence[str],
    categories: Path | None,
    rebuild: bool,
    corrections: Path | None = None,
    workers: Workers = None,
    say: Say = print,
) -> None:
    """Dump -> store.sqlite: products dealt to splits, photos checked and copied; `corrections` are
    an analyst's better labels."""
    from catalog.store.ingest import ingest as ingest_dump

    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        executor, jobs = None, config.jobs or cores()
        if workers:
            from pipeline.cluster.steps import checking

            executor, jobs = stack.enter_context(checking(stack.enter_context(workers())))
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
        )
    taxonomy = run.store.taxonomy
    write_json(run.folder / "taxonomy.json", taxonomy.to_json())
    write_json(
        run.ingest_summary, {"made_from": {"store": run.store.fingerprint}, **summary.to_json()}
    )
    what = f"{summary.products} products, {summary.images} images, {summary.categories_in_use} of {summary.categories} categories"
    if not summary.changed:
        say(f"ingest: current ({run.store_path}: {what})")
        return
    say(f"ingest: {what} in {time.perf_counter() - started:.1f} s")
    if config.catalog.text:
        say(f"  {summary.texts} of the kept products have a text in field {config.catalog.text}")
    for split, n in summary.kept.items():
        say(
            f"  {split:8s} {n['products']:8d} products {n['images']:8d} images, {n['fit']} may be fitted"
        )
    rejects = ", ".join(f"{reason} {n}" for reason, n in summary.rejects.items()) or "none"
    say(
        f"  dropped under caps {summary.dropped_products} products; duplicates {summary.duplicate_images}, "
        f"blank {summary.blank_images}, undecodable but kept {summary.undecodable_images}; rejects: {rejects}"
    )


def stage1(
    run: Run,
    config: RunConfig,
    rebuild: bool,
    say: Say = print,
    processes: "Processes | None" = None,
) -> None:
    """store.sqlite -> stage1/best.pt: the network, head first, then whole; by several `processes`
    where torchrun started them."""
    train(run, config.stage1, rebuild, say, "stage1", processes)


def train(
    part: Run,
    config: Stage1Config,
    rebuild: bool,
    say: Say,
    name: str,
    processes: "Processes | None" = None,
) -> None:
    """Trains stage 1, the network of a further view, or one to be compared."""
    made_from = _training(part, config)
    if not rebuild and part.current(part.stage1 / "summary.json", made_from, "stage1"):
        say(f"{name}: current ({part.checkpoint})")
        return
    from pipeline.networks import prepare_training
    from stage1_cnn.processes import SINGLE_PROCESS
    from stage1_cnn.training.trainer import check_training, train_stage1

    processes = processes or SINGLE_PROCESS
    part.store.verify()
    if rebuild:
        check_training(config, len(part.store.taxonomy), processes)
        _require_outside(part.stage1, config)
        if processes.is_main:
            for file in (
                "last.pt",
                "before.pt",
                "summary.json",
            ):  # without the last of them a restart knows that this has begun
                (part.stage1 / file).unlink(missing_ok=True)
            shutil.rmtree(part.stage1, ignore_errors=True)
        processes.wait()
    prepare_training(config, processes)
    summary = train_stage1(part.store, config, part.stage1, made_from, processes)
    best, images = summary.best, summary.images["val_a"]
    judged = "val_a has no images"
    if images:
        judged = (
            f"val_a top-1 {best['val_top1']:.4f}, top-5 {best['val_top5']:.4f} ({images} images)"
        )
    say(
        f"{name}: {part.checkpoint} in {summary.seconds:.0f} s; best {best['phase']} epoch {best['epoch']}: {judged}"
    )


def _require_outside(folder: Path, config: Stage1Config) -> None:
    """Raises ConfigError where a training starts from a file within `folder`, which is to be
    removed."""
    for key, path in _starting_files(config).items():
        if path.resolve().is_relative_to(folder.resolve()):
            problem = f"expected a file outside of {folder}, which --rebuild removes, found {path}; copy it elsewhere first"
            raise ConfigError(f"stage1.{key}: {problem}")


def _starting_files(config: Stage1Config) -> dict[str, Path]:
    """The files that a training of stage 1 starts from, by their key. Raises ConfigError where one
    is missing."""
    weights = None if config.weights in ("imagenet", "none") else Path(config.weights)
    files = {
        key: path for key, path in (("weights", weights), ("landmarks", config.landmarks)) if path
    }
    for key, path in files.items():
        if not path.is_file():
            expected = "imagenet, none, or a file" if key == "weights" else "a file, or null"
            raise ConfigError(f"stage1.{key}: no such file: {path}; expected {expected}")
    return files


def _training(part: Run, config: Stage1Config) -> dict[str, Any]:
    """What a training of stage 1 is made from."""
    return {
        "store": part.store.fingerprint,
        "config": config.shaping() | _by_content(_starting_files(config)),
    }


def _by_content(files: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of each file, whose content may change under its name."""
    return {key: sha256_file(path) for key, path in files.items()}


def features(
    run: Run, config: RunConfig, rebuild: bool, say: Say = print, workers: Workers = None
) -> None:
    """stage1/best.pt -> features.h5: every photo's bottleneck features; further views likewise,
    whose networks are trained first."""
    from pipeline.views import file_view, text_view

    for name in config.view_names:
        part, view = run.view(name), config.view(name)
        if isinstance(view, TextView):
            text_view(part, view, config.stage1.seed, rebuild, say)
        elif isinstance(view, FileView):
            file_view(part, view, config.stage1.seed, rebuild, say)
        else:
            if part.whole:
                train(part, view, rebuild, say, f"view {name}")
            _extract(part, config, rebuild, say, workers)


def _extract(part: Run, config: RunConfig, rebuild: bool, say: Say, workers: Workers) -> None:
    if part.features_path.exists() and not rebuild:
        part.require_features("checkpoint")
        part.require_precision(config.features.precision)
        made = part.features.computed_with
        how = f"computed in {made['precision']} on {made['device']}"
        say(f"features: current ({part.features_path}: {len(part.features)} images, {how})")
        return
    from features.extract import extract
    from pipeline.networks import open_network

    started = time.perf_counter()
    part.store.verify()
    part.stage1_checksum()  # its best.pt may be one of a training that was stopped
    predictor = open_network(
        part.checkpoint, device=config.stage1.device, precision=config.features.precision
    )
    size = config.features.batch_size
    with contextlib.ExitStack() as stack:
        elsewhere = None
        if workers:
            from pipeline.cluster.steps import extraction

            precision = predictor.compute.precision
            elsewhere = extraction(
                stack.enter_context(workers()), part, size, config.stage1.device, precision
            )
        if rebuild:
            discard(part.features_path)
        unreadable = extract(
            predictor, part.store, part.features_path, batch_size=size, elsewhere=elsewhere
        )
    seconds, n = time.perf_counter() - started, len(part.features)
    rate = f"{n} images x {part.features.width} in {seconds:.1f} s ({n / seconds:.0f} img/s, {predictor.compute.precision})"
    say(f"features: {rate}, {unreadable} unreadable -> {part.features_path}")


def stage2(
    run: Run, config: RunConfig, rebuild: bool, say: Say = print, workers: Workers = None
) -> None:
    """features.h5 -> stage2/: the pool of experts, the reclassifiers, and where these are used."""
    views = _current_features(run, config, config.view_names)
    made_from = {
        "views": {name: view.made_from for name, view in views.items()},
        "store": run.store.fingerprint,
        "computed_with": {name: view.computed_with for name, view in views.items()},
        "config": config.stage2.model_dump(mode="json") | _prior(config.stage2.target_prior),
        **({} if run.store.settings["drop_blank"] else {"drop_blank": False}),
    }
    if not rebuild and run.current(run.stage2 / "manifest.json", made_from, "stage2"):
        _cover(run, config, list(views.values()))
        say(f"stage2: current ({run.stage2})")
        return
    from stage2_xgb.fit import UNITS, fit_stage2
    from stage2_xgb.published import FOLDER, PUBLISHED

    stores, mixes, taxonomy, jobs = (
        list(views.values()),
        class_mixes(run),
        run.store.taxonomy,
        config.jobs or cores(),
    )
    for unit in UNITS:
        mixes.target(config.stage2, unit, taxonomy)  # may be a file that can't be read
    with contextlib.ExitStack() as stack:
        if workers:
            from pipeline.cluster.steps import training

            stack.enter_context(training(stack.enter_context(workers()), run))
        if rebuild:
            shutil.rmtree(run.stage2, ignore_errors=True)
        if config.stage2.published:
            summary = fit_stage2(
                [run.features], mixes, taxonomy, PUBLISHED, run.stage2 / FOLDER, made_from, jobs
            )
            say(f"published recipe, {summary.text()}")
        summary = fit_stage2(stores, mixes, taxonomy, config.stage2, run.stage2, made_from, jobs)
    say(summary.text())
    _cover(run, config, stores)


def _current_features(run: Run, config: RunConfig, names: Iterable[str]) -> dict[str, FeatureStore]:
    """The features of some views. Raises ArtifactError where they are of other data or networks
    than are there now, or were computed in another precision than the configuration asks for."""
    for part in run.views(names):
        part.require_features()
        part.require_precision(config.features.precision)
    return {name: run.view(name).features for name in names}


def _prior(target: str | Path) -> dict[str, str]:
    """What a file of class weights holds, in the place of its name; nothing where the class mix is
    no file."""
    if not isinstance(target, Path):
        return {}
    if not target.is_file():
        raise ConfigError(
            f"stage2.target_prior: {target}: expected a CSV with columns category_id,weight, found no such file"
        )
    return _by_content({"target_prior": target})


def _cover(run: Run, config: RunConfig, stores: Sequence[Any]) -> None:
    """Measures what each threshold of confidence costs, unless that is known. Raises ArtifactError
    where stage 2 is damaged."""
    from pipeline.scoring import coverage
    from stage2_xgb.bundle import Bundle

    bundle = Bundle.open(run.stage2)
    bundle.verify()
    if not coverage.is_current(run.stage2):
        target = class_mixes(run).target(config.stage2, "product", run.store.taxonomy)
        coverage.save(run.stage2, coverage.measure(stores, bundle, target, config.stage2))


def class_mixes(run: Run) -> Any:
    """How many images and products each class has in the catalogue; and in an epoch of stage 1's
    training, as far as its answers take that mix for granted: sampling changes it, a logit
    adjustment takes it away."""
    from stage1_cnn.sampler import Sampler
    from stage2_xgb.fit import ClassMixes

    store, table, rows = run.store, run.features.table, run.features.of_split("train")
    trained = Stage1Config(**run.stage1_config())
    shown = Sampler(table.class_index[rows][table.fit[rows]], np.zeros(0), trained).targets(
        len(store.taxonomy)
    )
    train = shown if not trained.logit_adjustment else shown ** (1.0 - trained.logit_adjustment)
    return ClassMixes({unit: store.natural_counts(unit) for unit in ("image", "product")}, train)


def tune_stage1(
    run: Run, config: RunConfig, epochs: int, photos: int | None, say: Say = print
) -> None:
    """Short runs over learning rates, trainable blocks and validation shares, judged on val_a ->
    tune/stage1.csv, .svg."""
    from pipeline.experiments.tune_figure import draw
    from pipeline.networks import prepare_training
    from stage1_cnn.training.tune import Search, steepest

    folder = run.folder / "tune" / "stage1"
    search = Search(
        run.store,
        config.stage1,
        folder,
        _training(run, config.stage1),
        epochs=epochs,
        photos=photos,
    )
    prepare_training(config.stage1)
    range_rows = search.range_test()
    advised = steepest(range_rows)
    rows = [
        asdict(outcome.trial) | asdict(outcome) | {"epochs": epochs} for outcome in search.run()
    ]
    names = (
        "what",
        "lr",
        "trainable_blocks",
        "validation_share",
        "epochs",
        "epoch",
        "train_images",
        "val_images",
        "val_top1",
        "low",
        "high",
        "val_loss",
        "seconds",
    )
    lines = [
        ",".join(names),
        *(",".join("" if row[name] is None else f"{row[name]}" for name in names) for row in rows),
    ]
    path = folder.with_name("stage1.csv")
    write_text(path, "\n".join(lines) + "\n")
    draw(rows, range_rows, advised, path.with_suffix(".svg"))
    best = max(rows, key=lambda row: row["val_top1"])
    for row in rows:
        say(
            f"  {row['what']} {row[row['what']]}: {row['val_top1']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        )
    say(
        f"tune: {len(rows)} runs of {epochs} epochs, top-1 on {best['val_images']} images of val_a -> {path}, stage1.svg"
    )
    say(
        f"  best: --set stage1.lr={best['lr']:g} --set stage1.trainable_blocks={best['trainable_blocks']}"
    )
    if advised:
        say(f"  range test: the loss falls fastest at a learning rate of {advised:.2g}")


def tune_stage2(run: Run, config: RunConfig, say: Say = print) -> None:
    """The published grid over the reclassifiers, cross-validated on reserve and val_a ->
    tune/stage2.csv."""
    from stage2_xgb.fit import gather
    from stage2_xgb.tune import search

    stores = list(_current_features(run, config, config.view_names).values())
    jobs = config.jobs or cores()
    material = gather(stores, class_mixes(run), run.store.taxonomy, config.stage2, jobs)
    trials = search(material.sets, material.picker(config.stage2), config.stage2, jobs)
    names = ("max_depth", "n_estimators", "learning_rate", "items", "before", "after")
    lines = [
        ",".join([*names, "gain"]),
        *(",".join([*(str(getattr(t, n)) for n in names), f"{t.gain:.5f}"]) for t in trials),
    ]
    path = run.folder / "tune" / "stage2.csv"
    write_text(path, "\n".join(lines) + "\n")
    say("\n".join(lines[:6]))
    say(f"tune: the five best of {len(trials)}; all of them in {path}")


def evaluate(run: Run, config: RunConfig, rebuild: bool, say: Say = print) -> dict[str, Any]:
    """The test split -> evaluation/: accuracy of each stage, with intervals."""
    from pipeline.evaluation.evaluate import evaluate as evaluate_test
    from pipeline.evaluation.summary import summary
    from stage2_xgb.bundle import Bundle

    bundle = Bundle.open(run.stage2)
    bundle.verify()  # where a file is broken stage 1 answers, which is no figure of stage 2
    views = _current_features(run, config, bundle.made_from["views"])
    learnt_from = {key: bundle.made_from.get(key, {}) for key in ("views", "computed_with")}
    there_now = {
        "views": {name: view.made_from for name, view in views.items()},
        "computed_with": {name: view.computed_with for name, view in views.items()},
    }
    require_same(run.stage2, there_now, learnt_from, "stage2")
    made_from = {
        "views": bundle.made_from["views"],
        "stage2": sha256_file(run.stage2 / "manifest.json"),
        "config": config.evaluate.model_dump(mode="json"),
    }
    path = run.evaluation / "metrics.json"
    if (
        not rebuild
        and path.exists()
        and read_sealed(path, "evaluate")["made_from"] == json.loads(json.dumps(made_from))
    ):
        metrics = read_sealed(path, "evaluate")
    else:
        run.store.verify()
        metrics = evaluate_test(
            list(views.values()), run.store, bundle, config.evaluate, run.evaluation, made_from
        )
    text = summary(metrics)
    write_text(run.evaluation / "summary.txt", text + "\n")
    say(text)
    return metrics


def report(run: Run, others: Sequence[Run], say: Say = print) -> None:
    """evaluation/ -> report/index.html, for analysts."""
    from pipeline.report.page import write_report

    page = write_report([run.folder, *(other.folder for other in others)], run.report.parent)
    say(f"report: {page}")


def score(
    run: Run,
    config: RunConfig,
    paths: Sequence[str],
    out: Path,
    labels: Path | None = None,
    workers: Workers = None,
    say: Say = print,
) -> None:
    """A dump or other source -> predictions/*.parquet, every product accounted for; compared with
    `labels` where given."""
    from pipeline.scoring.job import ScoreJob
    from pipeline.scoring.score import score as score_source

    job = ScoreJob.open(run, config, labels)
    started = time.perf_counter()
    source, truth = job.source(paths, out)
    with workers() if workers else contextlib.nullcontext() as client:
        scorer = job.scorer(source, client, config.jobs or cores())
        totals = score_source(scorer, source, out, job.config.score)
    for line in job.said(totals, out, truth, time.perf_counter() - started):
        say(line)


def lookalikes(
    run: Run,
    config: RunConfig,
    paths: Sequence[str],
    listed: Path,
    threshold: float,
    out: Path,
    say: Say = print,
) -> None:
    """A dump or other source against a list of images -> lookalikes-*.parquet: each product's
    nearest listed image."""
    from catalog.sources.source import open_source
    from pipeline.networks import open_network
    from pipeline.retrieval.lookalikes import ListedImages, find_lookalikes
    from pipeline.retrieval.similar import LOOK_UPS

    run.stage1_checksum()
    predictor = open_network(run.checkpoint, **LOOK_UPS)
    images = ListedImages.read(listed, predictor)
    started = time.perf_counter()
    source = open_source(paths, out / "dumps")
    totals = find_lookalikes(
        predictor, source, images, threshold, out, config.score, config.jobs or cores()
    )
    say(
        f"lookalikes: {totals.products} products against {len(images.names)} images in {time.perf_counter() - started:.1f} s: "
        f"{totals.matches} with a cosine of {threshold:g} or more -> {out}"
    )
    say(
        f"  {totals.unreadable_images} images could not be read, {totals.rejected} documents of the dump neither"
    )
    if lost := totals.unreachable_images:
        say(
            f"  {lost} of them could not be reached; the same command makes the parts that they are in again"
        )
