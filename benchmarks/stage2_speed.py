"""Stage 2's training against the published recipe, on the same features and cores.

Claim: at 2,048 dimensions at least 50 times faster. Both train every reclassifier of the same
generated catalogue, sets mined by each one's own rule; reading the features is in both times. Run:
python -m benchmarks.stage2_speed [--rounds N] [--smoke]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import catalogue, record
from features.store import FeatureStore
from stage2_xgb.config import Stage2Config
from stage2_xgb.fit import fit_stage2
from stage2_xgb.inputs import ClassMixes
from stage2_xgb.published import PUBLISHED


def main() -> None:
    """Prints seconds a model of both, and the median ratio."""
    parser = record.parser(__doc__)
    parser.add_argument("--categories", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--cap", type=int, default=300, help="training photos of a category")
    parser.add_argument(
        "--rounds", type=int, default=3, help="pairs of runs; the median ratio counts"
    )
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.smoke:
        options.categories, options.width, options.cap, options.rounds = 10, 64, 40, 1
    with tempfile.TemporaryDirectory() as folder:
        rounds = [measure(Path(folder) / str(number), options) for number in range(options.rounds)]
    ratios = [
        parts["published"]["seconds_per_model"] / parts["ours"]["seconds_per_model"]
        for parts in rounds
    ]
    print(
        f"published / ours, seconds a model: median {statistics.median(ratios):.1f} "
        f"of {[round(r, 1) for r in ratios]}"
    )
    figures = {"width": options.width, "ratio": record.over_rounds(ratios), "rounds": rounds}
    record.save(options.json, figures, rounds=options.rounds)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Fits both once: name -> models, seconds per model, and the seconds of each part."""
    path, categories = folder / "features.h5", options.categories
    folder.mkdir()
    catalogue.write(path, categories=categories, width=options.width, cap=options.cap)
    taxonomy, counts = catalogue.taxonomy(categories), catalogue.counts(categories, options.cap)
    mixes = ClassMixes({"image": counts, "product": counts}, np.minimum(counts, options.cap))
    parts = {}
    for name, config in (("published", PUBLISHED), ("ours", Stage2Config())):
        started, stores = time.perf_counter(), [FeatureStore(path)]
        summary = fit_stage2(stores, mixes, taxonomy, config, folder / name, {}, options.jobs)
        seconds = (time.perf_counter() - started) / max(summary.models, 1)
        parts[name] = {
            "models": summary.models,
            "seconds_per_model": seconds,
            "seconds": summary.seconds,
        }
        figures = f"{summary.models} models, {seconds:.3f} s a model; {summary.seconds}"
        print(f"{name}: {figures}", flush=True)
    return parts


if __name__ == "__main__":
    main()
