"""What a scoring came to, for the terminal and as summary.json: the same figures, shares in percent
with one decimal, differences in points."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.intervals import Estimate
from pipeline.run_folder import RunFolder
from pipeline.scoring.accuracy import LabelComparison
from pipeline.scoring.plan import Plan
from pipeline.scoring.predictions import NOT_ALLOWED
from pipeline.scoring.score import Totals

SCHEMA = 1


@dataclass(frozen=True)
class Outcome:
    """What became of the products, how it was decided, the comparison with true categories (None
    without any), what the experts were fitted on if that is more than was evaluated (`refitted`),
    and the seconds it took."""

    totals: Totals
    decided: Plan
    comparison: LabelComparison | None
    refitted: str | None
    seconds: float

    def lines(self, run: RunFolder, out: Path) -> Iterator[str]:
        """For the terminal."""
        totals = self.totals
        yield (
            f"score: {totals.products} products = {totals.predictions} predictions + "
            f"{totals.rejected_products} rejects, {totals.images} images in {self.seconds:.1f} s "
            f"-> {out}"
        )
        for unit, reasons in (("products", totals.reasons), ("photos", totals.image_reasons)):
            if reasons:
                yield f"  rejected {unit}: {', '.join(f'{r} {n}' for r, n in reasons.items())}"
        if totals.repaired_images:
            yield (
                f"  {totals.repaired_images} JPEGs lack their end marker and were read all the same"
            )
        yield f"  overlap: {self._overlap()}"
        if self.refitted:
            yield f"  {self.refitted}"
            if self.totals.promise is not None:
                yield "  promised by out-of-fold answers of the fit before; the last has seen all"
        if totals.unreachable:
            yield (
                f"  {totals.unreachable} photos could not be reached; the same command scores the "
                "parts that they are in again"
            )
        for line in self.decided.lines:
            yield f"  {line}"
        if self.decided.decider.rules:
            yield f"  here: {self._accepted()}"
        if count := self.totals.review_reasons.get(NOT_ALLOWED):
            yield f"  of {count} products no allowed category is likely: they are for review"
        if novelty := self.decided.decider.novelty:
            yield f"  {novelty.text(self.totals.novel, self.totals.predictions)}"
        yield from self._added()
        if self.comparison:
            yield from (f"  {line}" for line in self.comparison.lines())
        if totals.broken:
            rebuild = run.command("stage2", "--rebuild")
            broken = ", ".join(totals.broken)
            yield f"  stage 2 answered without {broken}; rebuild it with: {rebuild}"

    def _overlap(self) -> str:
        known = self.totals.known_images
        learnt = "; answers to those that it learnt from are no check of their labels"
        return (
            f"{known} of these images stand, byte for byte, in the run's own store"
            f"{learnt if known else ''}"
        )

    def _added(self) -> Iterator[str]:
        """What names categories that were added without a training."""
        names = {str(c.category_id): c.name for c in self.decided.decider.every.categories}
        counts = [f"{names[number]} {count}" for number, count in self.totals.added.items()]
        if counts:
            yield (
                "  added without a training, an experiment that no rule accepts: "
                f"{', '.join(counts)}"
            )

    def _accepted(self) -> str:
        """What the rule accepts of these products."""
        totals = self.totals
        levels = [
            f"{self._percent(count)}% on level {level}"
            for level, count in reversed(list(enumerate(totals.levels, start=1)))
            if count
        ]
        by_level = f" ({', '.join(levels)})" if totals.promise is not None and levels else ""
        return (
            f"{totals.accepted} products in accepted.parquet, {self._percent(totals.accepted)}%"
            f"{by_level}; {totals.review} in review.parquet"
        )

    def _percent(self, count: int) -> float:
        return round(100 * count / max(self.totals.predictions, 1), 1)

    def figures(self) -> dict[str, Any]:
        """For summary.json."""
        counts = asdict(self.totals)
        counts |= {"broken": list(self.totals.broken), "levels": list(self.totals.levels)}
        figures = {"schema": SCHEMA, "seconds": round(self.seconds, 1), "counts": counts}
        figures["decisions"] = self.decided.figures
        if novelty := self.decided.decider.novelty:
            percent = self._percent(self.totals.novel)
            figures["novel"] = {"flagged_percent": percent, **novelty.figures()}
        if self.decided.decider.rules:
            figures["accepted_percent"] = self._percent(self.totals.accepted)
            figures["review_percent"] = self._percent(self.totals.review)
            figures["level_percent"] = {
                str(level): self._percent(count)
                for level, count in enumerate(self.totals.levels, start=1)
            }
        if self.comparison:
            figures["top1_percent"] = {
                name: hundredfold(estimate) for name, estimate in self.comparison.systems().items()
            }
            figures["two_stage_over_shifted_points"] = hundredfold(self.comparison.change, 2)
            if self.comparison.accepted:
                figures["right_percent"] = {
                    name: hundredfold(estimate)
                    for name, estimate in self.comparison.accepted.items()
                }
        return figures


def hundredfold(estimate: Estimate, digits: int = 1) -> dict[str, Any]:
    """An estimate in percent, or in points, rounded."""
    bounds = zip(("value", "low", "high"), estimate[:3], strict=True)
    rounded = {name: None if x is None else round(100 * x, digits) for name, x in bounds}
    return rounded | {"n": estimate.n}
