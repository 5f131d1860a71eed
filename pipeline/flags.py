"""The options of the commands, one function per group: first those that several commands share,
then each command's own."""

import argparse
from argparse import ArgumentParser
from pathlib import Path

from pipeline.shipped import config_path


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def _cosine(text: str) -> float:
    if not -1 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"expected a cosine from -1 to 1, found {value}")
    return value


def _share(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, found {value}")
    return value


def run(sub: ArgumentParser) -> None:
    """Which run."""
    sub.add_argument(
        "--run",
        "--run-folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="run folder, such as runs/first (under torchrun, which has a --run of its own: "
        "--run-folder)",
    )


def settings(sub: ArgumentParser) -> None:
    """The configuration."""
    sub.add_argument(
        "--config",
        type=config_path,
        metavar="CONFIG",
        help="YAML file, or a name that `shelfsort configs` lists; "
        "by default the run's own config.yaml",
    )
    _overrides(sub, "override one key, such as stage1.lr=3e-4")


def _overrides(sub: ArgumentParser, text: str) -> None:
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def rebuild(sub: ArgumentParser) -> None:
    """Whether what is current is built again."""
    sub.add_argument(
        "--rebuild", action="store_true", help="build the artefact again, even if it is current"
    )


def rivals(sub: ArgumentParser) -> None:
    """What the two stages are compared with."""
    text = "also fit and judge simple systems on the same features: stage 1's head refitted, a "
    text += "logistic regression, neighbours, the published second stage"
    sub.add_argument("--rivals", action="store_true", help=text)


def final(sub: ArgumentParser) -> None:
    """The last fit for production."""
    text = "also fit the experts on every labelled product, val_b and test included, for scoring; "
    text += "evaluate judges stage 2 without it"
    sub.add_argument("--final", action="store_true", help=text)


CLUSTERS = ("slurm", "pbs", "lsf", "sge", "htcondor", "kubernetes", "coiled")
"""Those of pipeline.cluster.clusters, which takes seconds to load."""


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        expected = "expected NAME=VALUE, such as brand=Alvar"
        raise argparse.ArgumentTypeError(f"{expected}, found {text!r}")
    return name, value


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        limits = int(least), int(most)
    except ValueError:
        limits = 0, 0
    if not 1 <= limits[0] <= limits[1]:
        raise argparse.ArgumentTypeError(f"expected MIN:MAX, such as 1:8, found {text!r}")
    return limits


def spread(sub: ArgumentParser) -> None:
    """Which processes do the work."""
    _workers(sub)
    sub.add_argument(
        "--cluster",
        choices=CLUSTERS,
        help="start the workers of --workers or --adapt there, not on this machine",
    )
    sub.add_argument(
        "--cluster-options",
        type=Path,
        metavar="YAML",
        help="with --cluster: arguments of its class, such as cores and memory",
    )
    sub.add_argument(
        "--performance-report",
        type=Path,
        metavar="FILE",
        help="write dask's performance report, an HTML page",
    )
    sub.add_argument(
        "--allow-version-mismatch",
        action="store_true",
        help="with --scheduler: go on if workers run other versions, whose answers may differ",
    )


def _workers(sub: ArgumentParser) -> None:
    """Three ways to have dask workers, of which a command takes one."""
    group = sub.add_mutually_exclusive_group()
    group.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="use N worker processes of dask on this machine",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of a dask scheduler, such as tcp://host:8786",
    )
    group.add_argument(
        "--adapt",
        type=_range,
        metavar="MIN:MAX",
        help="use dask workers, between so many, as there is work",
    )


def _accept_damage(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--accept-damage",
        action="store_true",
        help="go on without what a damaged file has lost, such as a dump that was cut short",
    )


def ingest(sub: ArgumentParser) -> None:
    """What is read into the store."""
    sub.add_argument(
        "--dump",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="BSON dumps, plain or .gz, or patterns; or a folder of photos; or a table (.csv, "
        ".tsv, .parquet); or archives (.tar, .zip); also as URLs",
    )
    columns(sub)
    sub.add_argument(
        "--categories",
        type=Path,
        metavar="CSV",
        help="category_names.csv; without it the ids, or names, of the source are the categories",
    )
    sub.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="products (key,group) that are dealt to one split together (catalog.groups)",
    )
    spread(sub)
    sub.add_argument(
        "--corrections", type=Path, metavar="CSV", help="better labels, as the report exports them"
    )
    _accept_damage(sub)


def columns(sub: ArgumentParser) -> None:
    """What the columns of a table are called."""
    sub.add_argument(
        "--columns",
        metavar="ROLE=NAME,...",
        help="a table's columns, such as product=sku,image=photo,category=path (catalog.table)",
    )


def report(sub: ArgumentParser) -> None:
    """Runs on one page."""
    sub.add_argument(
        "runs", nargs="*", type=Path, metavar="DIR", help="the run, and others to compare it with"
    )
    sub.add_argument(
        "--slices",
        type=Path,
        metavar="CSV",
        help="further columns of products, by product_id, whose slices are evaluated apart",
    )
    sub.add_argument(
        "--costs",
        type=Path,
        metavar="CSV",
        help="what mistakes cost, in columns true, predicted and cost; 1 where none is given",
    )
    _run_too(sub)


def _run_too(sub: ArgumentParser) -> None:
    sub.add_argument("--run", type=Path, metavar="DIR", help="the run, as for the other commands")


def plot(sub: ArgumentParser) -> None:
    """One figure."""
    sub.add_argument(
        "figure",
        help="per-category, confusion, hierarchy, coverage, reliability, distribution, training, "
        "promises, or attention",
    )
    sub.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="run folder, such as runs/first"
    )
    _run_too(sub)
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file to write; by default figures/FIGURE.svg in the run's report folder",
    )


def score(sub: ArgumentParser) -> None:
    """What is scored, where the predictions go, and what they are compared with."""
    sub.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="BSON dumps, plain or .gz, or patterns; or a folder of photos; or a table "
        "(.csv, .tsv, .parquet); also as URLs",
    )
    sub.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the predictions"
    )
    columns(sub)
    sub.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="true categories (_id,category_id) to compare the predictions with",
    )
    _look_for(sub)
    sub.add_argument(
        "--top", type=_positive, metavar="K", help="categories listed for each product (score.top)"
    )
    _decide(sub)
    _accept_damage(sub)
    spread(sub)


def _decide(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--mix",
        metavar="MIX",
        help="class mix of the products: natural, balanced, estimate (found in them), or a CSV "
        "category_id,weight (score.mix)",
    )
    rule = sub.add_mutually_exclusive_group()
    rule.add_argument(
        "--promise",
        type=float,
        metavar="P",
        help="accept as many as keep this precision, such as 0.95, into accepted.parquet; the "
        "others go to review.parquet",
    )
    rule.add_argument(
        "--min-confidence",
        type=float,
        metavar="X",
        help="split into accepted.parquet (confidence of at least X) and review.parquet",
    )
    sub.add_argument(
        "--allowed",
        metavar="CSV",
        help="categories that products may have (_id,category_id); those not named may have any",
    )
    sub.add_argument(
        "--csv",
        action="store_const",
        const=True,
        help="also write predictions.csv, for spreadsheets",
    )


def _look_for(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="look for these images instead: a folder, or a text file with one path per line",
    )
    sub.add_argument(
        "--threshold",
        type=_cosine,
        metavar="COSINE",
        default=0.95,
        help="with --list: least cosine similarity of a match (0.95)",
    )


def _photos(sub: ArgumentParser) -> None:
    sub.add_argument(
        "photo", nargs="+", metavar="PHOTO", help="photos of one product: files or URLs"
    )


def similar(sub: ArgumentParser) -> None:
    """A look-up of photos."""
    _photos(sub)
    sub.add_argument(
        "--top", type=_positive, default=10, metavar="N", help="products to print (10)"
    )
    sub.add_argument("--csv", action="store_true", help="print CSV")


def export(sub: ArgumentParser) -> None:
    """The folder to be made."""
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to be made")


def add_category(sub: ArgumentParser) -> None:
    """A new category."""
    sub.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder of 5 to 20 photos of it"
    )
    sub.add_argument(
        "--name", required=True, metavar="NAME", help="its name, or a path such as 'Shoes > Boots'"
    )
    sub.add_argument(
        "--id", type=_positive, metavar="ID", help="its id (the one after the largest)"
    )
    sub.add_argument(
        "--share",
        type=_share,
        metavar="SHARE",
        help="share of the products that are expected to be of it (as of a category on average)",
    )


def predict(sub: ArgumentParser) -> None:
    """One product."""
    _photos(sub)
    sub.add_argument(
        "--text", metavar="TEXT", help="its title, for a run that reads the products' texts"
    )
    sub.add_argument(
        "--column",
        type=_named,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a column of it, for a run that reads columns, such as brand=Alvar; may be repeated, "
        "and what is not given is missing",
    )
    sub.add_argument(
        "--top", type=_positive, default=5, metavar="N", help="categories to print (5)"
    )


def unpack(sub: ArgumentParser) -> None:
    """Where a store's photos go, and how."""
    export(sub)
    layout = sub.add_mutually_exclusive_group()
    layout.add_argument(
        "--shards", action="store_true", help="WebDataset shards in place of folders"
    )
    layout.add_argument("--bson", action="store_true", help="a BSON dump per split")


def compare(sub: ArgumentParser) -> None:
    """Which networks."""
    sub.add_argument(
        "configs",
        nargs="+",
        type=config_path,
        metavar="CONFIG",
        help="one YAML file per network, or a name that `shelfsort configs` lists; "
        "only section stage1 is used",
    )
    sub.add_argument(
        "--repeats",
        type=_positive,
        default=1,
        metavar="N",
        help="trainings of each network, with its seed and the following ones (1)",
    )
    _overrides(sub, "override one key in all of them")


def tune(sub: ArgumentParser) -> None:
    """What is searched, and how long."""
    sub.add_argument("what", choices=["stage1", "stage2"], help="what to tune")
    sub.add_argument(
        "--epochs",
        type=_positive,
        default=2,
        metavar="N",
        help="stage1: epochs of fine-tuning each run (2)",
    )
    sub.add_argument(
        "--photos",
        type=_positive,
        metavar="N",
        help="stage1: training photos of each run; by default all",
    )


def config(sub: ArgumentParser) -> None:
    """Whose configuration."""
    sub.add_argument(
        "--run", type=Path, metavar="DIR", help="a run, whose own config.yaml is printed"
    )


def synthetic(sub: ArgumentParser) -> None:
    """Where a dump is written, and what is in it."""
    sub.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for train.bson, test.bson, and their CSV files",
    )
    sub.add_argument("--products", type=int, default=2400, help="products in train.bson (2400)")
    sub.add_argument("--categories", type=int, default=24, help="categories (24)")
    sub.add_argument(
        "--side", type=int, default=64, help="width and height of a photo in pixels (64)"
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of the random products (0)")
    sub.add_argument(
        "--label-noise",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="share of products with a wrong category, to try corrections with (0.02)",
    )
    sub.add_argument(
        "--titles", action="store_true", help="with noisy titles, for catalog.text=title"
    )
    sub.add_argument(
        "--covers",
        action="store_true",
        help="with books and packets that differ by printed words only; take --side 180",
    )
    sub.add_argument(
        "--columns",
        action="store_true",
        help="with prices, materials and colours, for catalog.columns=[price,material,colour]",
    )


def demo(sub: ArgumentParser) -> None:
    """Changes to the demo."""
    _overrides(sub, "override one key of configs/demo.yaml")
