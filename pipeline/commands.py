"""What each command does with its options; pipeline/cli.py says which is which."""

import argparse
import functools
import os
import shlex
import sys
from typing import Any

from catalog.errors import ShelfsortError
from catalog.lock import run_lock


def _loaded(options: argparse.Namespace) -> tuple:
    from pipeline.config import load_config
    from pipeline.run_folder import Run

    run = Run(options.run)
    own = options.run / "config.yaml"
    path = options.config or (own if own.exists() else None)
    return run, load_config(path, options.set)


def ingest(options: argparse.Namespace) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    with run_lock(run.folder):
        steps.ingest(
            run,
            config,
            options.dump,
            options.categories,
            options.rebuild,
            options.corrections,
            _workers(options),
        )
        run.save_config(config)


def stage1(options: argparse.Namespace) -> None:
    """Under torchrun every process comes here, and one of them locks the run, writes it, and
    speaks. Started again after one of them died, they go on from the last checkpoint, also where
    the command said --rebuild and had begun to."""
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
            steps.stage1(*_loaded(options), options.rebuild, _silent, processes)


def _silent(line: str) -> None:
    pass


def features(options: argparse.Namespace) -> None:
    _step(options, "features", workers=_workers(options))


def stage2(options: argparse.Namespace) -> None:
    _step(options, "stage2", workers=_workers(options))


def evaluate(options: argparse.Namespace) -> None:
    _step(options, "evaluate")


def _step(options: argparse.Namespace, name: str, **more: Any) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    if not run.folder.is_dir():
        raise ShelfsortError(
            f"{run.folder}: no such run; make one with: {run.command('ingest', '--dump', 'FILE')}"
        )
    with run_lock(run.folder):
        getattr(steps, name)(run, config, options.rebuild, **more)
        run.save_config(
            config
        )  # only now: a refused step must not change what the others are checked against


def tune(options: argparse.Namespace) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    with run_lock(run.folder):
        if options.what == "stage1":
            steps.tune_stage1(run, config, options.epochs, options.photos)
        else:
            steps.tune_stage2(run, config)


def unpack(options: argparse.Namespace) -> None:
    from pipeline.exchange.image_folder import write_shards, write_tree
    from pipeline.run_folder import Run

    counts = (write_shards if options.shards else write_tree)(Run(options.run).store, options.out)
    print(
        f"unpack: {', '.join(f'{split} {n}' for split, n in counts.items())} photos -> {options.out}"
    )


def pack(options: argparse.Namespace) -> None:
    from pipeline.exchange.image_folder import pack

    products, photos = pack(options.folder, options.out)
    print(
        f"pack: {products} products, {photos} photos -> {options.out / 'train.bson'}, {options.out / 'category_names.csv'}"
    )


def compare(options: argparse.Namespace) -> None:
    from pipeline.config import load_config
    from pipeline.experiments.compare import compare, markdown
    from pipeline.run_folder import Run

    run, loaded = (
        Run(options.run),
        {path.stem: load_config(path, options.set) for path in options.configs},
    )
    configs = {name: config.stage1 for name, config in loaded.items()}
    precisions = {config.features.precision for config in loaded.values()}
    if len(configs) < len(options.configs):
        raise ShelfsortError(
            "compare: two configurations have one file name, which names the network in the table; rename one"
        )
    if len(precisions) > 1:
        found = " and ".join(sorted(precisions))
        raise ShelfsortError(
            f"compare: features.precision is {found}, expected one for all: --set features.precision=auto"
        )
    with run_lock(run.folder):
        rows = compare(run, configs, options.repeats, options.rebuild, precisions.pop())
    best = next(path for path in options.configs if path.stem == rows[0].network)
    overrides = [word for setting in options.set for word in ("--set", setting)]
    again = shlex.join(
        ["shelfsort", "stage1", "--run", str(run.folder), "--config", str(best), *overrides]
    )
    print(markdown(rows))
    print(
        f"compare: top-1, macro F1 and top-5 on {rows[0].images} images of validation -> {run.folder / 'compare'}"
    )
    print(f"  the best: {again}; then features, stage2, evaluate on test")


def report(options: argparse.Namespace) -> None:
    from pipeline import steps
    from pipeline.run_folder import Run

    runs = [Run(folder) for folder in ([options.run] if options.run else []) + options.runs]
    if not runs:
        raise ShelfsortError("no run given, expected shelfsort report DIR, or --run DIR")
    steps.report(runs[0], runs[1:])


def plot(options: argparse.Namespace) -> None:
    from pipeline.report.figures import plot

    run = options.run or options.folder
    if run is None:
        raise ShelfsortError("no run given, expected shelfsort plot FIGURE DIR, or --run DIR")
    if options.figure == "attention":
        from pipeline.experiments.attention import draw_attention
        from pipeline.run_folder import Run

        print(draw_attention(Run(run), options.out or run / "report" / "figures" / "attention.svg"))
        return
    print(
        plot(
            options.figure, run, options.out or run / "report" / "figures" / f"{options.figure}.svg"
        )
    )


def score(options: argparse.Namespace) -> None:
    from pipeline import steps

    for key, value in (("top", options.top), ("min_confidence", options.min_confidence)):
        options.set += [] if value is None else [f"score.{key}={value}"]
    for name in ("labels", "workers", "scheduler", "top", "min_confidence") if options.list else ():
        if getattr(options, name) is not None:
            raise ShelfsortError(
                f"--{name.replace('_', '-')} says nothing beside --list; leave it out"
            )
    run, config = _loaded(options)
    with run_lock(options.out):
        if options.list:
            steps.lookalikes(
                run, config, options.source, options.list, options.threshold, options.out
            )
            return
        steps.score(run, config, options.source, options.out, options.labels, _workers(options))


def _workers(options: argparse.Namespace) -> Any:
    """What `--workers` or `--scheduler` asks for: opens a client; None where this process is to do
    it alone."""
    if options.workers is None and options.scheduler is None:
        return None
    from pipeline.scoring.workers import connect

    return functools.partial(connect, options.workers, options.scheduler)


def similar(options: argparse.Namespace) -> None:
    from pipeline.retrieval.similar import Finder, find_similar, print_csv, table_text

    run, _ = _loaded(options)
    finder = Finder.open(run, rebuild=options.rebuild)
    found, unreadable = find_similar(finder, options.photo, options.top)
    for path, reason in unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    if options.csv:
        print_csv(found)
    else:
        print(table_text(found))


def export(options: argparse.Namespace) -> None:
    from pipeline.exchange.export import export
    from pipeline.model import Model
    from pipeline.run_folder import Run
    from pipeline.scoring.agreement import warn_of_other_arithmetic

    run = Run(options.run)
    exported = export(run, options.out)
    print(
        f"export: {exported.files} files, {exported.size / 1e6:.1f} MB -> {options.out}, to be read by its reader.py"
    )
    warn_of_other_arithmetic(run, Model.open(run, "cpu", "fp32", "onnx"))


def predict(options: argparse.Namespace) -> None:
    from pipeline.model import Model, predict_files
    from pipeline.scoring.agreement import warn_of_other_arithmetic

    run, config = _loaded(options)
    model = Model.open(run, config.stage1.device, config.features.precision)
    warn_of_other_arithmetic(run, model, photos=64)
    answer = predict_files(model, options.photo, options.top, options.text)
    for path, reason in answer.unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    for class_index, confidence in zip(answer.classes, answer.confidences, strict=True):
        category = model.taxonomy[class_index]
        names = " > ".join(
            name for name in (category.level1, category.level2, category.level3) if name
        )
        print(f"{confidence:6.1%}  {category.category_id}  {names}")


def config(options: argparse.Namespace) -> None:
    import yaml

    from pipeline.config import load_config

    config = _loaded(options)[1] if options.run else load_config(options.config, options.set)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")


def configs(_options: argparse.Namespace) -> None:
    from pipeline.shipped import CONFIGS, shipped_configs

    found = list(shipped_configs())
    width = max(len(name) for name, _ in found)
    print("\n".join(f"{name:<{width}}  {purpose}" for name, purpose in found))
    print(f"The files: {CONFIGS.resolve()}")


def synthetic(options: argparse.Namespace) -> None:
    from pipeline.demo import write_synthetic

    write_synthetic(
        options.out,
        products=options.products,
        categories=options.categories,
        side=options.side,
        seed=options.seed,
        titles=options.titles,
    )


def demo(options: argparse.Namespace) -> None:
    from pipeline.demo import demo

    demo(options.run, options.set)


def doctor(options: argparse.Namespace) -> int:
    from pipeline.doctor import checkup, render

    findings = checkup()
    print(render(findings))
    return int(any(finding.ok is False for finding in findings))
