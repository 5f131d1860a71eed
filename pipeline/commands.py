"""What each command does with its options; pipeline/cli.py maps a command's name to its function.

Imports are inside the functions, so that `--help` and a wrong option don't load torch, xgboost and
dask first; see pipeline/steps.py.
"""

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from catalog.artifacts import require_own
from catalog.errors import ShelfsortError
from catalog.lock import run_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from pipeline.config import RunConfig
    from pipeline.run_folder import RunFolder, Workers


_PREDICTIONS = (
    "part-*",
    "rejects-*",
    "features-*",
    "opinions-*",
    "lookalikes-*",
    *("kaggle.csv", "accepted.parquet", "review.parquet", "predictions.csv", "mix.csv"),
    *("summary.json", "_SUCCESS", "_LOOKALIKES"),
)
"""Files that `score` writes or removes in a folder of predictions."""


def _load(options: argparse.Namespace) -> "tuple[RunFolder, RunConfig]":
    """The run and its configuration: --config, or else the run's own config.yaml, and --set."""
    from pipeline.config import load_config
    from pipeline.run_folder import RunFolder

    run = RunFolder(options.run)
    own = run.config_path
    path = options.config or (own if own.exists() else None)
    return run, load_config(path, options.set)


def ingest(options: argparse.Namespace) -> None:
    """The only command that makes a run folder."""
    from pipeline import steps

    options.set += _columns(options.columns)
    options.set += [f"catalog.groups={options.groups}"] if options.groups else []
    run, config = _load(options)
    with run_lock(run.folder):
        steps.ingest(
            run,
            config,
            options.dump,
            options.categories,
            options.rebuild,
            options.corrections,
            _workers(options),
            accept_damage=options.accept_damage,
        )
        run.save_config(config)


def stage1(options: argparse.Namespace) -> None:
    """Under torchrun every process gets here; one of them locks the run, writes and prints.

    Restarted after one of them died, they resume from the last checkpoint, even with --rebuild if
    that rebuild had begun.
    """
    if "LOCAL_RANK" not in os.environ:
        _step(options, "stage1")
        return
    from pipeline import steps
    from stage1_cnn.processes import process_group

    with process_group(
        int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    ) as processes:
        if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
            not_begun = processes.total([(options.run / "stage1" / "summary.json").exists()])[0] > 0
            options.rebuild = options.rebuild and not_begun
        if processes.is_main:
            _step(options, "stage1", processes=processes)
        else:
            run, config = _load(options)
            steps.stage1(run, config, options.rebuild, _silent, processes)


def _silent(_line: str) -> None:
    pass


def _columns(text: str | None) -> list[str]:
    """`--columns product=sku,image=photo` as keys of the configuration."""
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair]
    for role, equals, name in pairs:
        if not (equals and name):
            raise ShelfsortError(f"--columns: expected ROLE=NAME, found {role!r}")
    return [f"catalog.table.{role.strip()}={name.strip()}" for role, _, name in pairs]


def features(options: argparse.Namespace) -> None:
    """The step features."""
    _step(options, "features", workers=_workers(options))


def stage2(options: argparse.Namespace) -> None:
    """The step stage2."""
    _step(options, "stage2", workers=_workers(options), final=options.final)


def evaluate(options: argparse.Namespace) -> None:
    """The step evaluate."""
    _step(options, "evaluate", rivals=options.rivals)


def _step(options: argparse.Namespace, name: str, **more: Any) -> None:
    from pipeline import steps

    run, config = _load(options)
    if not run.folder.is_dir():
        raise ShelfsortError(
            f"{run.folder}: no such run; make one with: {run.command('ingest', '--dump', 'FILE')}"
        )
    with run_lock(run.folder):
        getattr(steps, name)(run, config, options.rebuild, **more)
        # Only now: a refused step must not change what the other steps are checked against.
        run.save_config(config)


def tune(options: argparse.Namespace) -> None:
    """Searches settings of stage 1 or 2; leaves the run's configuration as it is."""
    from pipeline.experiments.tune import tune_stage1, tune_stage2

    run, config = _load(options)
    with run_lock(run.folder):
        if options.what == "stage1":
            tune_stage1(run, config, options.epochs, options.photos)
        else:
            tune_stage2(run, config)


def unpack(options: argparse.Namespace) -> None:
    """The store's photos as an ImageFolder tree, WebDataset shards or BSON dumps."""
    from pipeline.exchange.image_folder import write_bson, write_shards, write_tree
    from pipeline.run_folder import RunFolder

    write = write_bson if options.bson else write_shards if options.shards else write_tree
    counts = write(RunFolder(options.run).store, options.out)
    photos = ", ".join(f"{split} {n}" for split, n in counts.items())
    print(f"unpack: {photos} photos -> {options.out}")


def compare(options: argparse.Namespace) -> None:
    """Trains several networks on one store and prints how they compare on validation."""
    from pipeline.config import load_config
    from pipeline.experiments.compare import compare_networks, markdown
    from pipeline.run_folder import RunFolder

    run = RunFolder(options.run)
    loaded = {path.stem: load_config(path, options.set) for path in options.configs}
    if len(loaded) < len(options.configs):
        raise ShelfsortError(
            "compare: two configurations have the same file name, which names the network in the "
            "table; rename one"
        )
    precisions = sorted({config.features.precision for config in loaded.values()})
    if len(precisions) > 1:
        raise ShelfsortError(
            f"compare: features.precision is {' and '.join(precisions)}, expected one for all: "
            "--set features.precision=auto"
        )
    networks = {name: config.stage1 for name, config in loaded.items()}
    with run_lock(run.folder):
        rows = compare_networks(run, networks, options.repeats, options.rebuild, precisions[0])
    best = next(path for path in options.configs if path.stem == rows[0].network)
    overrides = [word for setting in options.set for word in ("--set", setting)]
    print(markdown(rows))
    measured = f"top-1, macro F1 and top-5 on {rows[0].images} images of validation"
    print(f"compare: {measured} -> {run.folder / 'compare'}")
    train_best = run.command("stage1", "--config", str(best), *overrides)
    print(f"  the best: {train_best}; then features, stage2, evaluate on test")


def report(options: argparse.Namespace) -> None:
    """The page of one run, or of several side by side."""
    from pipeline import steps
    from pipeline.report.findings import Extras
    from pipeline.run_folder import RunFolder

    runs = [RunFolder(folder) for folder in ([options.run] if options.run else []) + options.runs]
    if not runs:
        raise ShelfsortError("no run given, expected shelfsort report DIR, or --run DIR")
    steps.report(runs[0], runs[1:], Extras(options.slices, options.costs))


def plot(options: argparse.Namespace) -> None:
    """One figure of a run, as a file."""
    from pipeline.report.figures import plot
    from pipeline.run_folder import RunFolder

    folder = options.run or options.folder
    if folder is None:
        raise ShelfsortError("no run given, expected shelfsort plot FIGURE DIR, or --run DIR")
    run = RunFolder(folder)
    out = options.out or run.report.parent / "figures" / f"{options.figure}.svg"
    if options.figure == "attention":
        from pipeline.experiments.attention import draw_attention

        print(draw_attention(run, out))
    else:
        print(plot(options.figure, run, out))


def score(options: argparse.Namespace) -> None:
    """The categories of all products of a source; with --list, those that look like an image of
    it."""
    from pipeline import steps

    options.set += _columns(options.columns)
    keys = ("top", "mix", "promise", "min_confidence", "allowed", "csv")
    for key in keys:
        value = getattr(options, key)
        options.set += [] if value is None else [f"score.{key}={value}"]
    if options.list:
        spread = ("workers", "scheduler", "adapt", "cluster", "performance_report")
        for name in ("labels", *spread, *keys):
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ShelfsortError(f"{option} has no effect with --list; leave it out")
    run, config = _load(options)
    accept = options.accept_damage
    require_own(options.out, ["lock"], _PREDICTIONS)
    with run_lock(options.out):
        if options.list:
            wanted = options.list, options.threshold
            steps.lookalikes(run, config, options.source, *wanted, options.out, accept)
        else:
            given = options.labels, _workers(options)
            steps.score(run, config, options.source, options.out, *given, accept)


def _workers(options: argparse.Namespace) -> "Workers":
    """What `--workers`, `--adapt` or `--scheduler` asks for: opens a client of them. None without:
    this process works alone."""
    starts = options.workers is not None or options.adapt is not None
    if not starts and (options.cluster or options.cluster_options):
        raise ShelfsortError("--cluster: how many workers? expected --workers N or --adapt MIN:MAX")
    if options.cluster_options and not options.cluster:
        raise ShelfsortError("--cluster-options has no effect without --cluster; leave it out")
    if starts or options.scheduler is not None:
        return functools.partial(_connected, options)
    if options.performance_report:
        raise ShelfsortError(
            "--performance-report is of dask workers; expected --workers N, --adapt MIN:MAX or "
            "--scheduler ADDRESS"
        )
    return None


@contextlib.contextmanager
def _connected(options: argparse.Namespace) -> "Iterator[Client]":
    """The client; says where dask's dashboard is."""
    from pipeline.cluster.client import connect

    with connect(
        options.workers,
        options.scheduler,
        options.allow_version_mismatch,
        adapt=options.adapt,
        kind=options.cluster,
        options=options.cluster_options,
        report=options.performance_report,
    ) as client:
        needs = "" if importlib.util.find_spec("bokeh") else "; it needs: pip install bokeh"
        print(f"dask: dashboard at {client.dashboard_link}{needs}", file=sys.stderr)
        yield client


def similar(options: argparse.Namespace) -> None:
    """Products of the catalogue that look like some photos."""
    from pipeline.retrieval.similar import Finder, find_similar, print_csv, table_text

    run, config = _load(options)
    finder = Finder.open(run, rebuild=options.rebuild)
    products, unreadable = find_similar(finder, options.photo, options.top, config.access)
    for path, reason in unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    if options.csv:
        print_csv(products)
    else:
        print(table_text(products))


def export(options: argparse.Namespace) -> None:
    """Both stages as a folder that stands alone."""
    from pipeline.exchange.export import export_model
    from pipeline.model import TwoStageModel
    from pipeline.run_folder import RunFolder
    from pipeline.scoring.agreement import warn_of_other_arithmetic

    run = RunFolder(options.run)
    exported = export_model(run, options.out)
    size = f"{exported.files} files, {exported.size / 1e6:.1f} MB"
    print(f"export: {size} -> {options.out}, to be read by its reader.py")
    warn_of_other_arithmetic(run, TwoStageModel.open(run, "cpu", "fp32", "onnx"))


def add_category(options: argparse.Namespace) -> None:
    """A category from a few photos, until the next training."""
    from pipeline.new_category import add_category

    run, config = _load(options)
    with run_lock(run.folder):
        add_category(run, config, options.photos, options.name, options.id, options.share)


def predict(options: argparse.Namespace) -> None:
    """The likeliest categories of one product."""
    from pipeline.model import TwoStageModel, predict_files
    from pipeline.quantisation import keep_int8_networks
    from pipeline.scoring.agreement import warn_of_other_arithmetic

    run, config = _load(options)
    if config.answer_precision == "int8":
        keep_int8_networks(run, config.view_names, functools.partial(print, file=sys.stderr))
    model = TwoStageModel.open(
        run,
        config.stage1.device,
        config.answer_precision,
        config.score.runtime,
        max_pixels=config.catalog.max_pixels,
    )
    warn_of_other_arithmetic(run, model, photos=64)
    prediction = predict_files(
        model, options.photo, options.top, options.text, config.access, dict(options.column)
    )
    for path, reason in prediction.unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    for class_index, confidence in zip(prediction.classes, prediction.confidences, strict=True):
        category = model.taxonomy[class_index]
        levels = (category.level1, category.level2, category.level3)
        names = " > ".join(name for name in levels if name)
        print(f"{confidence:6.1%}  {category.category_id}  {names}")


def config(options: argparse.Namespace) -> None:
    """The whole configuration, as YAML."""
    import yaml

    from pipeline.config import load_config

    config = _load(options)[1] if options.run else load_config(options.config, options.set)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")


def configs(_options: argparse.Namespace) -> None:
    """The configurations that come with shelfsort."""
    from pipeline.shipped import CONFIGS, shipped_configs

    configurations = list(shipped_configs())
    width = max(len(name) for name, _ in configurations)
    print("\n".join(f"{name:<{width}}  {purpose}" for name, purpose in configurations))
    print(f"The files: {CONFIGS.resolve()}")


def synthetic(options: argparse.Namespace) -> None:
    """A synthetic dump with its CSV files."""
    from catalog.synthetic.dump import SyntheticSpec
    from pipeline.demo import write_synthetic

    spec = SyntheticSpec(
        products=options.products,
        categories=options.categories,
        side=options.side,
        seed=options.seed,
        label_noise=options.label_noise,
        titles=options.titles,
        covers=options.covers,
        columns=options.columns,
    )
    write_synthetic(options.out, spec)


def demo(options: argparse.Namespace) -> None:
    """Every step on synthetic data."""
    from pipeline.demo import run_demo

    run_demo(options.run, options.set)


def doctor(_options: argparse.Namespace) -> int:
    """Checks the installation; 1 if something fails that shelfsort needs."""
    from pipeline.doctor import checkup, render

    findings = checkup()
    print(render(findings))
    return int(any(finding.ok is False for finding in findings))
