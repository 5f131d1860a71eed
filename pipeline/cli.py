"""The command line: one screen maps command to function."""

import argparse
import functools
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from catalog.artifacts import run_lock
from catalog.errors import ShelfsortError

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit code 0 well, 2 a user's error, 1 a bug, 130 interrupted."""
    options = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return options.function(options) or 0
    except ShelfsortError as error:
        if options.debug:
            traceback.print_exc()
        print(f"shelfsort {options.command}: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print(f"\nstopped; go on with: {_again(arguments or sys.argv[1:])}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print(
            "This is a bug in shelfsort: please report it with the lines above and what `shelfsort doctor` prints.",
            file=sys.stderr,
        )
        return BUG


def _again(arguments: Sequence[str]) -> str:
    """The command that resumes; torchrun's where it started this process. Without --rebuild, which would begin anew."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    start = ["torchrun", f"--nproc-per-node={processes}", "-m", "pipeline"] if processes else ["shelfsort"]
    words = [word for word in arguments if not (len(word) > 3 and "--rebuild".startswith(word))]
    if processes:
        words = [re.sub(r"^--run(?=$|=)", "--run-folder", word) for word in words]
    return shlex.join([*start, *words])


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def _cosine(text: str) -> float:
    if not -1 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a cosine from -1 to 1, found {value}")
    return value


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="shelfsort", description="Sorts the products of a catalogue into categories by their photos."
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of errors, and log more")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable, text: str, *, run: bool = True, config: bool = True, rebuild: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=function)
        if run:
            folder = "run directory, such as runs/first (torchrun takes --run for an option of its own: say --run-folder there)"
            sub.add_argument("--run", "--run-folder", type=Path, required=True, metavar="DIR", help=folder)
        if config:
            sub.add_argument("--config", type=Path, metavar="FILE", help="YAML file; by default the run's own config.yaml")
            sub.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, such as stage1.lr=3e-4"
            )
        if rebuild:
            sub.add_argument("--rebuild", action="store_true", help="make the artefact anew, even where it is current")
        return sub

    def spread(sub: argparse.ArgumentParser) -> None:
        where = sub.add_mutually_exclusive_group()
        where.add_argument("--workers", type=_positive, metavar="N", help="use N worker processes of dask on this machine")
        where.add_argument("--scheduler", metavar="ADDRESS", help="use the workers of a dask scheduler, such as tcp://host:8786")

    step = command("ingest", _ingest, "dump -> store: splits, checks, copies photos", rebuild=True)
    step.add_argument(
        "--dump", nargs="+", required=True, metavar="FILE", help="BSON dump, plain or .gz; several files or patterns"
    )
    step.add_argument("--categories", type=Path, metavar="CSV", help="category_names.csv; without it the ids alone are used")
    spread(step)
    step.add_argument("--corrections", type=Path, metavar="CSV", help="better labels, as the report exports them")
    command("stage1", _stage1, "store -> stage1: trains the network", rebuild=True)
    spread(command("features", _features, "stage1 -> features.h5: extracts bottleneck features", rebuild=True))
    spread(command("stage2", _stage2, "features -> stage2: trains the reclassifiers", rebuild=True))
    command("evaluate", _evaluate, "accuracy on the test split, of each stage", rebuild=True)
    step = command("report", _report, "evaluation -> one HTML page for analysts", run=False, config=False)
    step.add_argument("runs", nargs="*", type=Path, metavar="DIR", help="the run, and others to compare it with")
    step.add_argument("--run", type=Path, metavar="DIR", help="the run, as the other commands have it")
    step = command("plot", _plot, "draws one figure of a run: SVG, PNG or PDF", run=False, config=False)
    step.add_argument(
        "figure", help="per-category, confusion, hierarchy, coverage, reliability, distribution, training, or attention"
    )
    step.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="run directory, such as runs/first")
    step.add_argument("--run", type=Path, metavar="DIR", help="the run, as the other commands have it")
    step.add_argument(
        "--out", type=Path, metavar="FILE", help="where to; by default figures/FIGURE.svg in the run's report folder"
    )
    step = command("score", _score, "the categories of all products of a dump, a folder or a table of photos")
    step.add_argument(
        "source", nargs="+", metavar="SOURCE",
        help="BSON dumps, plain or .gz, or patterns; or a folder of photos; or a .csv or .parquet table of photos; also as URLs",
    )  # fmt: skip
    step.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the predictions")
    step.add_argument(
        "--labels", type=Path, metavar="CSV", help="true categories (_id,category_id) to compare the predictions with"
    )
    step.add_argument(
        "--list", type=Path, metavar="FILE", help="look for these images instead: a folder, or a text file with a path a line"
    )
    step.add_argument(
        "--threshold", type=_cosine, metavar="COSINE", default=0.95, help="with --list: likeness that is a match (0.95)"
    )
    step.add_argument("--top", type=_positive, metavar="K", help="categories listed for each product (score.top)")
    step.add_argument(
        "--min-confidence", type=float, metavar="X", help="split into accepted.parquet, from X on, and review.parquet"
    )
    spread(step)
    step = command("similar", _similar, "products of the catalogue that look like some photos", rebuild=True)
    step.add_argument("photo", nargs="+", metavar="PHOTO", help="photos of one product: files or URLs")
    step.add_argument("--top", type=_positive, default=10, metavar="N", help="products to print (10)")
    step.add_argument("--csv", action="store_true", help="print CSV")
    step = command("export", _export, "both stages as one folder that needs neither shelfsort nor PyTorch", config=False)
    step.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to be made")
    step = command("predict", _predict, "the category of one product, from its photos")
    step.add_argument("photo", nargs="+", metavar="PHOTO", help="photos of one product: files or URLs")
    step.add_argument("--text", metavar="TEXT", help="its title, for a run that reads the products' texts")
    step.add_argument("--top", type=_positive, default=5, metavar="N", help="categories to print (5)")
    step = command("unpack", _unpack, "store -> photos in folders (ImageFolder) or WebDataset shards", config=False)
    step.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to be made")
    step.add_argument("--shards", action="store_true", help="WebDataset shards in place of folders")
    step = command("pack", _pack, "photos in folders (ImageFolder) -> a dump to ingest", run=False, config=False)
    step.add_argument("folder", type=Path, metavar="DIR", help="a folder a category, or folders of such")
    step.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for train.bson and category_names.csv")
    step = command("compare", _compare, "trains several networks on one store and compares them on validation", config=False,
                   rebuild=True)  # fmt: skip
    step.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="a YAML file a network; section stage1 counts")
    step.add_argument("--repeats", type=_positive, default=1, metavar="N", help="trainings of each, from its seed on (1)")
    step.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key in all of them")
    step = command("tune", _tune, "searches the published grids on held-out data, never on test")
    step.add_argument("what", choices=["stage1", "stage2"], help="what to tune")
    step.add_argument("--epochs", type=_positive, default=2, metavar="N", help="stage1: epochs of fine-tuning each run (2)")
    step.add_argument("--photos", type=_positive, metavar="N", help="stage1: training photos of each run; by default all")
    step = command("config", _config, "prints the whole configuration, of a run or with every default", run=False)
    step.add_argument("--run", type=Path, metavar="DIR", help="a run, whose own config.yaml is printed")
    step = command("synthetic", _synthetic, "writes a synthetic dump to try things with", run=False, config=False)
    step.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for train.bson, test.bson, and their CSV files"
    )
    step.add_argument("--products", type=int, default=2400, help="products in train.bson (2400)")
    step.add_argument("--categories", type=int, default=24, help="categories (24)")
    step.add_argument("--side", type=int, default=64, help="pixels a side (64)")
    step.add_argument("--seed", type=int, default=0, help="another seed, other products (0)")
    step.add_argument("--titles", action="store_true", help="with noisy titles, for catalog.text=title")
    step = command("demo", _demo, "the whole product on synthetic data, in minutes", config=False)
    step.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of configs/demo.yaml")
    command("doctor", _doctor, "checks the installation", run=False, config=False)
    return top


def _loaded(options: argparse.Namespace) -> tuple:
    from pipeline.config import load_config
    from pipeline.runs import Run

    run = Run(options.run)
    own = options.run / "config.yaml"
    path = options.config or (own if own.exists() else None)
    return run, load_config(path, options.set)


def _ingest(options: argparse.Namespace) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    with run_lock(run.folder):
        steps.ingest(run, config, options.dump, options.categories, options.rebuild, options.corrections, _workers(options))
        run.save_config(config)


def _stage1(options: argparse.Namespace) -> None:
    """Under torchrun every process comes here, and one of them locks the run, writes it, and speaks. Started again after one of
    them died, they go on from the last checkpoint, also where the command said --rebuild."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # stage1.deterministic needs it before CUDA starts
    if "LOCAL_RANK" not in os.environ:
        _step(options, "stage1")
        return
    from pipeline import steps
    from stage1_cnn.processes import joined

    options.rebuild = options.rebuild and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    with joined(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])) as processes:
        if processes.writes:
            _step(options, "stage1", processes=processes)
        else:
            steps.stage1(*_loaded(options), options.rebuild, _silent, processes)


def _silent(line: str) -> None:
    pass


def _features(options: argparse.Namespace) -> None:
    _step(options, "features", workers=_workers(options))


def _stage2(options: argparse.Namespace) -> None:
    _step(options, "stage2", workers=_workers(options))


def _evaluate(options: argparse.Namespace) -> None:
    _step(options, "evaluate")


def _step(options: argparse.Namespace, name: str, **more: Any) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    if not run.folder.is_dir():
        raise ShelfsortError(f"{run.folder}: no such run; make one with: shelfsort ingest --run {run.folder}")
    with run_lock(run.folder):
        getattr(steps, name)(run, config, options.rebuild, **more)
        run.save_config(config)  # only now: a refused step must not change what the others are checked against


def _tune(options: argparse.Namespace) -> None:
    from pipeline import steps

    run, config = _loaded(options)
    with run_lock(run.folder):
        if options.what == "stage1":
            steps.tune_stage1(run, config, options.epochs, options.photos)
        else:
            steps.tune_stage2(run, config)


def _unpack(options: argparse.Namespace) -> None:
    from pipeline.image_tree import write_shards, write_tree
    from pipeline.runs import Run

    counts = (write_shards if options.shards else write_tree)(Run(options.run).store, options.out)
    print(f"unpack: {', '.join(f'{split} {n}' for split, n in counts.items())} photos -> {options.out}")


def _pack(options: argparse.Namespace) -> None:
    from pipeline.image_tree import pack

    products, photos = pack(options.folder, options.out)
    print(f"pack: {products} products, {photos} photos -> {options.out / 'train.bson'}, {options.out / 'category_names.csv'}")


def _compare(options: argparse.Namespace) -> None:
    from pipeline.compare import compare, markdown
    from pipeline.config import load_config
    from pipeline.runs import Run

    run, configs = Run(options.run), {path.stem: load_config(path, options.set).stage1 for path in options.configs}
    if len(configs) < len(options.configs):
        raise ShelfsortError("compare: two configurations have one file name, which names the network in the table; rename one")
    with run_lock(run.folder):
        rows = compare(run, configs, options.repeats, options.rebuild)
    best = next(path for path in options.configs if path.stem == rows[0].network)
    overrides = [word for setting in options.set for word in ("--set", setting)]
    again = shlex.join(["shelfsort", "stage1", "--run", str(run.folder), "--config", str(best), *overrides])
    print(markdown(rows))
    print(f"compare: top-1, macro F1 and top-5 on {rows[0].images} images of validation -> {run.folder / 'compare'}")
    print(f"  the best: {again}; then features, stage2, evaluate on test")


def _report(options: argparse.Namespace) -> None:
    from pipeline import steps
    from pipeline.runs import Run

    runs = [Run(folder) for folder in ([options.run] if options.run else []) + options.runs]
    if not runs:
        raise ShelfsortError("no run given, expected shelfsort report DIR, or --run DIR")
    steps.report(runs[0], runs[1:])


def _plot(options: argparse.Namespace) -> None:
    from pipeline.charts import plot

    run = options.run or options.folder
    if run is None:
        raise ShelfsortError("no run given, expected shelfsort plot FIGURE DIR, or --run DIR")
    if options.figure == "attention":
        from pipeline.attention import draw_attention
        from pipeline.runs import Run

        print(draw_attention(Run(run), options.out or run / "report" / "figures" / "attention.svg"))
        return
    print(plot(options.figure, run, options.out or run / "report" / "figures" / f"{options.figure}.svg"))


def _score(options: argparse.Namespace) -> None:
    from pipeline import steps

    for key, value in (("top", options.top), ("min_confidence", options.min_confidence)):
        options.set += [] if value is None else [f"score.{key}={value}"]
    for name in ("labels", "workers", "scheduler", "top", "min_confidence") if options.list else ():
        if getattr(options, name) is not None:
            raise ShelfsortError(f"--{name.replace('_', '-')} says nothing beside --list; leave it out")
    run, config = _loaded(options)
    with run_lock(options.out):
        if options.list:
            steps.lookalikes(run, config, options.source, options.list, options.threshold, options.out)
            return
        steps.score(run, config, options.source, options.out, options.labels, _workers(options))


def _workers(options: argparse.Namespace) -> Any:
    """What `--workers` or `--scheduler` asks for: opens a client; None where this process is to do it alone."""
    if options.workers is None and options.scheduler is None:
        return None
    from pipeline.cluster import connect

    return functools.partial(connect, options.workers, options.scheduler)


def _similar(options: argparse.Namespace) -> None:
    from pipeline.similar import Finder, find_similar, print_csv, table_text

    run, config = _loaded(options)
    finder = Finder.open(run, device=config.stage1.device, precision=config.stage1.precision, rebuild=options.rebuild)
    found, unreadable = find_similar(finder, options.photo, options.top)
    for path, reason in unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    if options.csv:
        print_csv(found)
    else:
        print(table_text(found))


def _export(options: argparse.Namespace) -> None:
    from pipeline.export import export
    from pipeline.runs import Run

    exported = export(Run(options.run), options.out)
    print(f"export: {exported.files} files, {exported.size / 1e6:.1f} MB -> {options.out}, to be read by its reader.py")


def _predict(options: argparse.Namespace) -> None:
    from pipeline.predict import Model, predict_files

    run, config = _loaded(options)
    model = Model.open(run, config.stage1.device, config.stage1.precision)
    answer = predict_files(model, options.photo, options.top, options.text)
    for path, reason in answer.unreadable.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
    for class_index, confidence in zip(answer.classes, answer.confidences, strict=True):
        category = model.taxonomy[class_index]
        names = " > ".join(name for name in (category.level1, category.level2, category.level3) if name)
        print(f"{confidence:6.1%}  {category.category_id}  {names}")


def _config(options: argparse.Namespace) -> None:
    import yaml

    from pipeline.config import load_config

    config = _loaded(options)[1] if options.run else load_config(options.config, options.set)
    print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")


def _synthetic(options: argparse.Namespace) -> None:
    from pipeline.demo import write_synthetic

    write_synthetic(
        options.out, products=options.products, categories=options.categories, side=options.side, seed=options.seed,
        titles=options.titles,
    )  # fmt: skip


def _demo(options: argparse.Namespace) -> None:
    from pipeline.demo import demo

    demo(options.run, options.set)


def _doctor(options: argparse.Namespace) -> int:
    from pipeline.doctor import checkup, render

    findings = checkup()
    print(render(findings))
    return int(any(finding.ok is False for finding in findings))
