"""Categories that neither stage ever saw: added from a few photos (`shelfsort add-category`), and
flagged as unlike anything.

Some categories are left out of a labelled dump, and a run is made of the rest. Then each is added
by itself from 5, 10 and 20 of its photos, and another labelled dump is answered: how many of its
products get it, and how many of the known categories' products are still right.

    OMP_NUM_THREADS=1 python -m benchmarks.new_category --dump train.bson --categories CSV \\
        --test test.bson --labels CSV --folder F [--config CONFIG] [--set KEY=VALUE] [--json FILE]

Interrupted, the same command goes on. The run, in the folder, is that of the configuration.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bson
import numpy as np

from benchmarks import record
from catalog.artifacts import read_json, write_json
from catalog.errors import ImageError
from catalog.intervals import clustered_change, clustered_share
from catalog.labels import read_labels
from catalog.splits import sample_hash
from catalog.taxonomy import Taxonomy
from pipeline import steps
from pipeline.config import RunConfig, load_config
from pipeline.decisions import heldout
from pipeline.decisions.novelty import novelty
from pipeline.model import TwoStageModel, image_table
from pipeline.run_folder import RunFolder
from pipeline.shipped import config_path
from stage2_xgb.add_category import newcomers, trials, weighed
from stage2_xgb.addition import Addition, Additions, Known, with_added
from stage2_xgb.dataset import Views
from stage2_xgb.expert_rows import FITTED
from stage2_xgb.items import ItemBlock

LEFT_OUT, ENOUGH = 12, (60, 12)
"""Categories left out, of those with so many products in the dump and in the other one."""
SIZES = (5, 10, 20)
SHARES = (None, 0.02, 0.05)
"""Of the products, expected to be of the new category; None: as of a category on average."""
PRODUCTS = 8000
"""Of the known categories, at most."""
_PURPOSE = "new category"


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The products of a dump."""
    with open(path, "rb") as file:
        yield from bson.decode_file_iter(file)


def prepare(options: argparse.Namespace, folder: Path) -> list[int]:
    """Writes the dump and the categories without those left out, and photos of these; returns
    their ids."""
    done = folder / "left_out.json"
    if done.exists():
        return read_json(done, "")
    folder.mkdir(parents=True, exist_ok=True)
    of = {d["_id"]: d["category_id"] for d in documents(options.dump)}
    there, other = Counter(of.values()), Counter(read_labels(options.labels).values())
    eligible = [c for c, n in there.items() if n >= ENOUGH[0] and other[c] >= ENOUGH[1]]
    left_out = _drawn(np.array(sorted(eligible)), LEFT_OUT).tolist()
    names = Taxonomy.from_csv(options.categories)
    known = [c for c in names.categories if c.category_id not in left_out]
    Taxonomy(known).to_csv(folder / "category_names.csv")
    ids = np.array([product for product, c in of.items() if c not in left_out])
    kept = set(_drawn(ids, options.products).tolist())
    for c in left_out:
        own = np.array([product for product, category in of.items() if category == c])
        kept |= set(_drawn(own, max(SIZES)).tolist())
    photos: dict[int, int] = defaultdict(int)
    with open(folder / "known.bson", "wb") as file:
        for document in documents(options.dump):
            c = document["category_id"]
            if document["_id"] not in kept:
                continue
            if c not in left_out:
                file.write(bson.encode(document))
                continue
            path = folder / "photos" / str(c) / f"{photos[c]:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document["imgs"][0]["picture"])
            photos[c] += 1
    write_json(done, left_out)
    return left_out


def _drawn(ids: np.ndarray, count: int) -> np.ndarray:
    return ids[np.argsort(sample_hash(ids, _PURPOSE, 0), kind="stable")[:count]]


def make_run(run: RunFolder, config: RunConfig, folder: Path) -> None:
    """Every step up to stage 2."""
    names = folder / "category_names.csv"
    steps.ingest(run, config, [str(folder / "known.bson")], names, rebuild=False)
    for step in (steps.stage1, steps.features, steps.stage2):
        step(run, config, rebuild=False)
    run.save_config(config)


def photos_of(model: TwoStageModel, pictures: Sequence[bytes | ImageError]) -> ItemBlock:
    """Single photos, each a product of its own."""
    numbers = np.arange(len(pictures), dtype=np.int64)
    return model.read(pictures, image_table(numbers, numbers), batch_size=64)[0]


def measure(options: argparse.Namespace, run: RunFolder, left_out: list[int]) -> dict[str, Any]:
    """The figures."""
    model = TwoStageModel.open(run, "cpu", "fp32", "torch")
    labels = read_labels(options.labels)
    products = list(documents(options.test))[: options.limit]
    images = photos_of(model, [d["imgs"][0]["picture"] for d in products])
    truth = np.array([labels[products[row]["_id"]] for row in images.item_id.tolist()])
    log_probs = model.answer(images, "product").two_stage
    names = {c.category_id: c for c in Taxonomy.from_csv(options.categories).categories}
    old = ~np.isin(truth, left_out)
    before = model.taxonomy.category_ids[log_probs.argmax(axis=1)] == truth
    rows, pool = [], model.bundle.pool
    if pool is None:
        raise SystemExit("expected a pool of experts, found stage2.pool=false")
    views = Views([run.view(name).features for name in model.bundle.made_from["views"]])
    known, share = Known.of(pool, images), 1 / (len(model.taxonomy) + 1)
    distance = pool.distances(images)[0]
    for size in SIZES:
        shown = [photos_of(model, pictures(options.folder, c, size)) for c in left_out]
        new, tried = newcomers(views, pool, shown, FITTED), list(trials(views, pool, size, 0))
        for given in SHARES:
            pairs = zip(left_out, new, strict=True)
            every = [weighed(names[c], n, tried, given or share) for c, n in pairs]
            odds = np.stack([added.log_odds(known) for added in every], axis=1)
            groups = [[i] for i in range(len(every))] + [[*range(len(every))]] * (given is None)
            for group in groups:
                additions = Additions(tuple(every[i] for i in group))
                answer = with_added(log_probs, odds[:, group]).argmax(axis=1)
                ids = additions.taxonomy(model.taxonomy).category_ids
                right, own = ids[answer] == truth, np.isin(truth, additions.category_ids)
                rows.append(Trial(size, given, right, own, additions.each))
    return summary(rows, before, old, truth) | {"novel": novel(run, distance, old, truth)}


def pictures(folder: Path, category_id: int, count: int) -> list[bytes]:
    """The first photos of a category that was left out."""
    paths = sorted((folder / "photos" / str(category_id)).glob("*.jpg"))[:count]
    return [path.read_bytes() for path in paths]


def novel(run: RunFolder, distance: np.ndarray, old: np.ndarray, truth: np.ndarray) -> dict:
    """How many products are flagged as unlike every category: of known categories, and of those
    left out; and what held-out products had said of both."""
    flags = novelty(heldout.read(run.stage2))
    if flags is None:
        raise SystemExit(f"{run.stage2}: too few held-out products")
    flagged, ones = flags(distance), np.ones(len(distance))
    figures = {
        "known": clustered_share(flagged[old], ones[old], np.arange(int(old.sum()))).to_json(),
        "left_out": clustered_share(flagged[~old], ones[~old], truth[~old]).to_json(),
        "expected": flags.figures(),
    }
    print(figures, flush=True)
    return figures


class Trial(NamedTuple):
    """Categories added from `photos` each, with an expected `share`: which products of the other
    dump are right, and which are of these categories, bool [N]."""

    photos: int
    share: float | None
    right: np.ndarray
    own: np.ndarray
    added: tuple[Addition, ...]


def summary(
    trials: list[Trial], before: np.ndarray, old: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """For each number of photos and share: one category at a time, and all at once."""
    settings = dict.fromkeys((t.photos, t.share, len(t.added) == 1) for t in trials)
    figures = []
    for photos, share, alone in settings:
        setting = (photos, share, alone)
        some = [t for t in trials if (t.photos, t.share, len(t.added) == 1) == setting]
        new = np.concatenate([t.right[t.own] for t in some])
        of = np.concatenate([truth[t.own] for t in some])
        change = np.concatenate([t.right[old].astype(float) - before[old] for t in some])
        product = np.tile(np.flatnonzero(old), len(some))
        by_category = [new[of == c].mean() for c in np.unique(of)]
        expected = [added.expected for t in some for added in t.added]
        figures.append(
            {
                "photos": photos,
                "share": share,
                "added": len(some[0].added),
                "new": clustered_share(new, np.ones(len(new)), of).to_json(),
                "new_by_category": float(np.mean(by_category)),
                "old": clustered_change(change, np.ones(len(change)), product).to_json(),
                "expected": {
                    name: float(np.mean([by_name[name] for by_name in expected]))
                    for name in ("recognised", "taken")
                },
            }
        )
        print(figures[-1], flush=True)
    counted = np.ones(int(old.sum()))
    return {
        "left_out": len(set(truth[~old].tolist())),
        "old_before": clustered_share(before[old], counted, np.arange(len(counted))).to_json(),
        "rows": figures,
    }


def main() -> None:
    """The command line."""
    parser = record.parser(__doc__, smoke=None)
    for name in ("dump", "categories", "test", "labels", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--products", type=int, default=PRODUCTS)
    parser.add_argument("--limit", type=int, help="products of the other dump, at most")
    parser.add_argument("--config", type=config_path)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    left_out = prepare(options, options.folder)
    run, config = RunFolder(options.folder / "run"), load_config(options.config, options.set)
    make_run(run, config, options.folder)
    figures = measure(options, run, left_out)
    record.save(options.json, figures, precision="fp32")


if __name__ == "__main__":
    main()
