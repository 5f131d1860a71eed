"""Two runs on one store, such as without and with a view: the paired change of both stages' top-1
per product, on held-out products, on the test split, and on a labelled dump.

    python -m benchmarks.paired WITHOUT WITH [--dump test.bson --labels CSV] [--json FILE]

Both are evaluated and have scored the dump into RUN/paired, or do so now. Held-out products are
those of val_b, and, answered out of fold, of reserve and val_a (`pipeline.decisions.heldout`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks import record
from catalog.intervals import clustered_change, clustered_share
from catalog.labels import read_labels
from pipeline import steps
from pipeline.config import load_config
from pipeline.decisions import heldout
from pipeline.run_folder import RunFolder
from stage2_xgb.out_of_fold import PRODUCTS_FILE, Products


def of_held_out(run: RunFolder) -> pandas.DataFrame:
    """A row for each held-out product: whether it is `right`, and its `group`."""
    held = heldout.read(run.stage2)
    right = held.answers.top_class[:, 0] == held.class_index
    return pandas.DataFrame({"right": right, "group": held.product_id}, index=held.product_id)


def of_out_of_fold(run: RunFolder) -> pandas.DataFrame:
    """The same of the products of reserve and val_a, by the pool alone; and their `class_index`."""
    products = Products.read(run.stage2 / PRODUCTS_FILE)
    right = products.top_class[:, 0] == products.class_index
    columns = {"right": right, "group": products.product_id, "class_index": products.class_index}
    return pandas.DataFrame(columns, index=products.product_id)


def of_test(run: RunFolder) -> pandas.DataFrame:
    """The same of the test split, whose groups share pictures."""
    config = load_config(run.folder / "config.yaml")
    steps.evaluate(run, config, rebuild=False, say=lambda _: None)
    items = pandas.read_parquet(run.evaluation / "items.parquet")
    items = items[items["unit"] == "product"].set_index("product_id")
    items["right"] = items["two_stage_class"] == items["class_index"]
    return items[["right", "group"]]


def of_dump(run: RunFolder, dump: Path, labels: Path) -> pandas.DataFrame:
    """The same of a labelled dump, whose products are groups of their own."""
    config, out = load_config(run.folder / "config.yaml"), run.folder / "paired"
    steps.score(run, config, [str(dump)], out, labels, say=lambda _: None)
    parts = map(pandas.read_parquet, sorted(out.glob("part-*.parquet")))
    table = pandas.concat(parts).set_index("product_id")
    truth = table.index.map(read_labels(labels))
    return pandas.DataFrame({"right": table["category_id"] == truth, "group": table.index})


def change(without: pandas.DataFrame, with_it: pandas.DataFrame) -> dict[str, Any]:
    """Top-1 of both, and the paired change, of the products that both answered."""
    both = without.join(with_it.add_suffix("_with"), how="inner")
    before, after = (both[name].to_numpy(dtype=float) for name in ("right", "right_with"))
    ones, group = np.ones(len(both)), np.unique(both["group"], return_inverse=True)[1]
    figures = {
        "without": clustered_share(before > 0, ones, group).to_json(),
        "with": clustered_share(after > 0, ones, group).to_json(),
        "change": clustered_change(after - before, ones, group).to_json(),
    }
    print(len(both), figures["change"], flush=True)
    return figures


def main() -> None:
    """The command line."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args()
    runs = list(map(RunFolder, options.runs))
    tables = {
        "held_out": [of_held_out(run) for run in runs],
        "test": [of_test(run) for run in runs],
    }
    if options.dump:
        tables["dump"] = [of_dump(run, options.dump, options.labels) for run in runs]
    every = [
        pandas.concat(frames, keys=list(tables)) for frames in zip(*tables.values(), strict=True)
    ]
    for table in every:
        table["group"] = [
            f"{table_name} {group}" for (table_name, _), group in table["group"].items()
        ]
    figures = {name: change(*pair) for name, pair in (tables | {"all": every}).items()}
    record.save(options.json, figures, precision="fp32")


if __name__ == "__main__":
    main()
