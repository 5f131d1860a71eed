"""What promised precisions come to on a labelled dump: how many of the accepted answers are right,
on which level, and how many products are left for review; and what an estimated class mix brings.

Claims: the mean over the runs is at or above the promise, and no run is further below it than its
interval allows; an estimated mix costs at most .2 points where nothing shifted.

    OMP_NUM_THREADS=1 python -m benchmarks.promises RUN [RUN ...] --dump test.bson --labels CSV \\
        [--mix natural estimate balanced] [--json FILE]

Each run is scored once, into a folder beside it if --folder names none; the same command goes on.
"""

from pathlib import Path
from typing import Any

from benchmarks import record
from pipeline.config import RunConfig, load_config
from pipeline.run_folder import RunFolder
from pipeline.scoring.accuracy import LabelComparison, compare_with_labels
from pipeline.scoring.job import ScoreJob
from pipeline.scoring.plan import Plan
from pipeline.scoring.score import Totals, score_source

PROMISES = (0.9, 0.95, 0.98)
MIXES = ("natural", "estimate", "balanced")


def measure(run: RunFolder, options: Any) -> dict[str, Any]:
    """All promises under all mixes, of one run."""
    config = load_config(run.folder / "config.yaml")
    out = options.folder / run.folder.name if options.folder else run.folder / "promised"
    rows, mixes = [], {}
    for mix in options.mix:
        for promise in PROMISES:
            totals, plan, comparison = scored(run, config, options, out, mix=mix, promise=promise)
            rows.append({"mix": mix, "promise": promise} | row(totals, plan, comparison))
            print(run.folder.name, rows[-1], flush=True)
        mixes[mix] = comparison.two_stage.to_json()
    novelty = plan.decider.novelty
    flagged = totals.novel / totals.predictions
    novel = {"flagged": flagged, **novelty.figures()} if novelty else None
    return {"seed": config.stage1.seed, "top1": mixes, "rows": rows, "novel": novel}


def scored(
    run: RunFolder, config: RunConfig, options: Any, out: Path, **keys: Any
) -> tuple[Totals, Plan, LabelComparison]:
    """One scoring; all but the first decide on its opinions again."""
    keyed = config.model_copy(update={"score": config.score.model_copy(update=keys)})
    job = ScoreJob.open(run, keyed, options.labels)
    source, truth = job.source([str(options.dump)], out, accept_damage=False)
    scorer = job.scorer(source, None, config.jobs or 1)
    totals, plan = score_source(scorer, source, out, job.config.score)
    return totals, plan, compare_with_labels(out, truth, job.model.taxonomy)


def row(totals: Totals, plan: Plan, comparison: LabelComparison) -> dict[str, Any]:
    """What was accepted, and what of it is right."""
    return {
        "held_out": plan.figures["promise"]["held_out_products"],
        "accepted": totals.accepted / totals.predictions,
        "review": totals.review / totals.predictions,
        "levels": [count / totals.predictions for count in totals.levels],
        "right": {name: estimate.to_json() for name, estimate in comparison.accepted.items()},
    }


def main() -> None:
    """The command line."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--mix", nargs="+", choices=MIXES, default=["natural"])
    parser.add_argument("--folder", type=Path, help="keeps the predictions of the runs here")
    options = parser.parse_args()
    seeds = [measure(RunFolder(run), options) for run in options.runs]
    record.save(options.json, {"seeds": seeds}, precision="fp32", rounds=len(seeds))


if __name__ == "__main__":
    main()
