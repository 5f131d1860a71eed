"""Two runs on one store, such as without and with a view: the paired change of both stages' top-1
per product, on the test split and on a labelled dump.

    python -m benchmarks.paired WITHOUT WITH --dump test.bson --labels CSV [--json FILE]

Both are evaluated and have scored the dump into RUN/paired, or do so now.
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
from pipeline.run_folder import RunFolder


def of_test(run: RunFolder) -> pandas.DataFrame:
    """A row for each product of the test split: whether it is `right`, and its `group`."""
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
    both = without.join(with_it, how="inner", rsuffix="_with")
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
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    options = parser.parse_args()
    runs = list(map(RunFolder, options.runs))
    test = [of_test(run) for run in runs]
    dump = [of_dump(run, options.dump, options.labels) for run in runs]
    every = [pandas.concat(parts, keys=["test", "dump"]) for parts in zip(test, dump, strict=True)]
    for table in every:
        table["group"] = [f"{kind} {group}" for (kind, _), group in table["group"].items()]
    figures = {"test": change(*test), "dump": change(*dump), "all": change(*every)}
    record.save(options.json, figures, precision="fp32")


if __name__ == "__main__":
    main()
