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

import numpy as np

from benchmarks import catalogue, record
from features.store import FeatureStore
from stage2_xgb.config import Stage2Config
from stage2_xgb.fit import ClassMixes, fit_stage2
from stage2_xgb.published import PUBLISHED


def main() -> None:
    """Prints seconds a model of both, and the median ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--categories", type=int, default=20)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--cap", type=int, default=300, help="training photos of a category")
    parser.add_argument(
        "--rounds", type=int, default=3, help="pairs of runs; the median ratio counts"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--smoke", action="store_true", help="small and quick, to see that it works"
    )
    record.add_option(parser)
    options = parser.parse_args()
    if options.smoke:
        options.categories, options.width, options.cap, options.rounds = 10, 64, 40, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        catalogue.write(path, categories=options.categories, width=options.width, cap=options.cap)
        taxonomy, counts = (
            catalogue.taxonomy(options.categories),
            catalogue.counts(options.categories, options.cap),
        )
        mixes = ClassMixes({"image": counts, "product": counts}, np.minimum(counts, options.cap))
        ratios, rounds = [], []
        for number in range(options.rounds):
            seconds, parts = {}, {}
            for name, config in (("published", PUBLISHED), ("ours", Stage2Config())):
                started = time.perf_counter()
                out = Path(folder) / f"{name}-{number}"
                summary = fit_stage2(
                    [FeatureStore(path)], mixes, taxonomy, config, out, {}, options.jobs
                )
                seconds[name] = (time.perf_counter() - started) / max(summary.models, 1)
                parts[name] = {
                    "models": summary.models,
                    "seconds_per_model": seconds[name],
                    "seconds": summary.seconds,
                }
                print(
                    f"{name}: {summary.models} models, {seconds[name]:.3f} s a model; "
                    f"{summary.seconds}",
                    flush=True,
                )
            ratios.append(seconds["published"] / seconds["ours"])
            rounds.append(parts)
        print(
            f"published / ours, seconds a model: median {statistics.median(ratios):.1f} "
            f"of {[round(r, 1) for r in ratios]}"
        )
        figures = {"width": options.width, "ratio": record.over_rounds(ratios), "rounds": rounds}
        record.save(options.json, figures, rounds=options.rounds)


if __name__ == "__main__":
    main()
