"""Where stage 2's gain comes from, row by row, on the test split of a finished run: each part
alone, and what it adds.

Nothing is chosen here: every row has the run's configuration but for what its name says. Run:
python -m benchmarks.stage2_rows runs/NAME [--resamples N]
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from features.store import FeatureStore
from pipeline.config import load_config
from pipeline.run_folder import RunFolder
from pipeline.second_stage import class_mixes
from stage1_cnn.head import normalise
from stage2_xgb.bundle import Bundle
from stage2_xgb.config import Stage2Config
from stage2_xgb.dataset import Views
from stage2_xgb.evidence import Evidence
from stage2_xgb.fit import ClassMixes, fit_stage2, gather
from stage2_xgb.gate import SHARED
from stage2_xgb.items import Pooled, compact, pool
from stage2_xgb.published import PUBLISHED
from stage2_xgb.refine import each_answer, refine

LEAST = 5
"""Test items of a category in the balanced mix."""


def main() -> None:
    """Prints a table of both units and both mixes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--resamples", type=int, default=2000)
    record.add_option(parser)
    options = parser.parse_args()
    run = RunFolder(options.run)
    names = list(Bundle.open(run.stage2).made_from["views"])
    config = load_config(run.folder / "config.yaml").stage2.model_copy(update={"published": False})
    stores = [run.view(name).features for name in names]
    figures: dict[str, Any] = {"split": "test"}
    for unit in ("image", "product"):
        figures[unit] = []
        print(
            f"\n| {unit} | natural | over shifted | balanced | over shifted |\n|---|---|---|---|---|"
        )
        shifted = None
        for name, predicted, truth, group in rows(stores, class_mixes(run), run, config, unit):
            right = predicted == truth
            shifted = right if name.startswith("shifted") else shifted
            weights = natural(truth), balanced(truth)
            found = [
                _figures(right, shifted, weight, group, options.resamples) for weight in weights
            ]
            print(
                f"| {name} | {' | '.join(cell for mix in found for cell in _cells(mix))} |",
                flush=True,
            )
            figures[unit].append(
                {"name": name, "n": len(right), "natural": found[0], "balanced": found[1]}
            )
    record.save(options.json, figures, precision=stores[0].computed_with["precision"])


def rows(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    run: RunFolder,
    config: Stage2Config,
    unit: str,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name of each row, and each test item's predicted class, true class and product."""
    material = gather(stores, mixes, run.store.taxonomy, config)
    images = list(Views(stores).blocks("test", fit_only=False))

    def pooled(sharpness: float) -> list[Pooled]:
        return [pool(x, sharpness) if unit == "product" else x for x in images]

    parts = pooled(material.sharpness)
    truth, group = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("class_index", "product_id")
    )
    shifts = material.shifts[unit]

    def all_of(answer: Any, parts: Sequence[Pooled] = parts) -> np.ndarray:
        return np.concatenate([answer(part).argmax(axis=1) for part in parts])

    def trained(views: int, changed: Stage2Config, everywhere: str | None = None) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            fit_stage2(stores[:views], mixes, run.store.taxonomy, changed, Path(folder), {}, jobs=2)
            bundle = Bundle.open(Path(folder))
            images = [_views(part, views) for part in pooled(bundle.sharpness)]
            if everywhere:
                return all_of(lambda part: each_answer(bundle, part, unit)[everywhere], images)
            return all_of(lambda part: refine(bundle, part, unit).two_stage, images)

    def changed(**changes: Any) -> Stage2Config:
        return config.model_copy(update=changes)

    def one_view(**changes: Any) -> Stage2Config:
        return changed(rerank=config.rerank.model_copy(update={"use": False}), **changes)

    yield "stage 1", all_of(lambda part: part.log_probs[0]), truth, group
    yield (
        "shifted to the target mix",
        all_of(lambda part: shifts[0](part.log_probs[0])),
        truth,
        group,
    )
    yield "published second stage", trained(1, PUBLISHED), truth, group
    yield "own reclassifiers alone, everywhere", trained(1, one_view(gate=False)), truth, group
    yield "own reclassifiers alone, gated", trained(1, one_view()), truth, group
    yield "shared reranker alone", trained(1, config, SHARED), truth, group
    yield (
        "shared reranker without neighbours",
        _without_neighbours(stores[:1], mixes, run, config, parts, unit),
        truth,
        group,
    )
    yield "both, gated", trained(1, config), truth, group
    if len(stores) > 1:
        blend = all_of(
            lambda part: normalise(
                sum(s(x) for s, x in zip(shifts, part.log_probs, strict=True) if s)
            )
        )
        yield "blend of the views' heads", blend, truth, group
        yield "shared reranker alone, all views", trained(len(stores), config, SHARED), truth, group
        yield "both, gated, all views", trained(len(stores), config), truth, group


def _views(part: Pooled, count: int) -> Pooled:
    return replace(part, log_probs=part.log_probs[:count], features=part.features[:count])


class _Blind(Evidence):
    """Evidence that knows nothing of neighbours and class means."""

    def __call__(self, items: Any, candidates: np.ndarray, log_prob: np.ndarray) -> np.ndarray:
        pairs = super().__call__(items, candidates, log_prob)
        likeness = [
            place
            for place, name in enumerate(self.names)
            if name.split("_")[0] in ("nearest", "class", "vote")
        ]
        likeness += [
            place for place, name in enumerate(self.names) if name.startswith("behind_nearest")
        ]
        pairs[:, :, likeness] = np.nan
        return pairs


def _without_neighbours(
    stores: Sequence[FeatureStore],
    mixes: ClassMixes,
    run: RunFolder,
    config: Stage2Config,
    parts: Sequence[Pooled],
    unit: str,
) -> np.ndarray:
    material = gather(stores, mixes, run.store.taxonomy, config)
    evidence = _Blind(
        material.evidence.banks, material.evidence.log_train, material.evidence.log_natural
    )
    _, reranker = replace(material, evidence=evidence).picker(config, threads=2)
    predicted = []
    for part in parts:
        items = compact(_views(part, 1), material.shifts[unit], material.projections)
        candidates, within = reranker.log_probs(items, evidence)
        predicted.append(candidates[np.arange(len(items)), within.argmax(axis=1)])
    return np.concatenate(predicted)


def natural(truth: np.ndarray) -> np.ndarray:
    """Every item counts the same."""
    return np.ones(len(truth))


def balanced(truth: np.ndarray) -> np.ndarray:
    """Every category with LEAST items or more counts the same."""
    support = np.bincount(truth)[truth]
    return np.where(support >= LEAST, 1 / support, 0)


def _figures(
    right: np.ndarray,
    shifted: np.ndarray | None,
    weight: np.ndarray,
    group: np.ndarray,
    resamples: int,
) -> dict[str, float]:
    """Top-1; and for the rows below `shifted` the change over it, with its 95% interval by the
    bootstrap over products."""
    top1 = float(np.average(right, weights=weight))
    if shifted is None or right is shifted:
        return {"top1": top1}
    change = (right.astype(float) - shifted) * weight
    _, product = np.unique(group, return_inverse=True)
    total, mass = np.bincount(product, change), np.bincount(product, weight)
    draws = np.random.default_rng(0).multinomial(
        len(total), np.full(len(total), 1 / len(total)), size=resamples
    )
    low, high = np.quantile((draws @ total) / (draws @ mass), [0.025, 0.975])
    return {
        "top1": top1,
        "change": float(change.sum() / weight.sum()),
        "low": float(low),
        "high": float(high),
    }


def _cells(found: dict[str, float]) -> tuple[str, str]:
    value, low, high = (100 * found.get(name, 0.0) for name in ("change", "low", "high"))
    return (
        f"{found['top1']:.4f}",
        f"{value:+.2f} [{low:+.2f}, {high:+.2f}]" if "change" in found else "",
    )


if __name__ == "__main__":
    main()
