"""The test split on one page: what evaluation/metrics.json says, for a terminal and as
evaluation/summary.txt."""

from collections.abc import Iterable
from typing import Any

SYSTEMS = {
    "stage1": "stage 1",
    "shifted": "adjusted",
    "two_stage": "two-stage",
    "published": "published",
}
CHANGES = {
    "two_stage_over_shifted": "two-stage over adjusted",
    "published_over_stage1": "published over stage 1",
    "two_stage_over_published": "two-stage over published",
}
RIVALS = {
    "head_train": "head refitted on train",
    "head_all": "refitted on all",
    "logistic": "logistic, all views",
    "logistic_columns": "logistic, and columns",
    "neighbours": "neighbours",
}
METRICS = {"top1": "top-1", "top5": "top-5", "macro_f1": "macro F1"}
NOTHING = "no items"
_WORDS = (
    "macro F1 in either mix is over the categories of the balanced mix; "
    "adjusted: stage 1 weighted to the target mix, without stage 2"
)
_LABEL, _COLUMN = 29, 25


def summary(metrics: dict[str, Any]) -> str:
    """Lines of at most 130 columns."""
    lines = [_stage2(metrics["stage2"]), _row("test split, 95% intervals", METRICS.values())]
    for unit in ("image", "product"):
        for mix in ("natural", "balanced"):
            lines += _mix(unit, mix, metrics[unit][mix])
        lines += _unit(unit, metrics[unit])
    lines += _rivals(metrics["image"]["natural"])
    lines.append(_WORDS)
    lines += _promises(metrics["promises"])
    lines += _novel(metrics.get("novel")) + _added(metrics.get("added"))
    lines += corrected_lines(metrics.get("corrected_labels"))
    lines += _without_photo(metrics["without_photo"]) + _near_twins(metrics["near_twins"])
    lines.append(f"seconds: {metrics['seconds']:.1f}")
    return "\n".join(lines)


def corrected_lines(figures: dict[str, Any] | None) -> list[str]:
    """How much of top-1 stands on corrected test labels; no line without any."""
    if not figures:
        return []
    now, before = figures["top1"], figures["top1_by_labels_before"]
    gain = 100 * (now["value"] - before["value"])
    lines = [
        f"corrected labels: {figures['test_products']} test products; two-stage top-1 per product "
        f"{_share(now)} by the labels now,",
        f"  {_share(before)} by those before: {gain:+.1f} percentage points stand on corrected "
        "test labels",
    ]
    if figures["previous"]:
        lines.append(f"  the evaluation before this one had {_share(figures['previous'])}")
    return lines


def _novel(figures: dict[str, Any] | None) -> list[str]:
    """How many products are flagged as unlike every category; no line if nothing flags them."""
    if not figures:
        return []
    return [
        f"unlike every category: {_share(figures['alarms'])} of test's products, and "
        f"{_share(figures['power'])} if their own is left out"
    ]


def _added(figures: dict[str, Any] | None) -> list[str]:
    """What categories that were added without a training take of the others; no line without
    any."""
    if not figures:
        return []
    return [
        f"added without a training: {', '.join(figures['categories'])}; test has no product of "
        f"them, they take {_share(figures['taken'])}:",
        f"  two-stage top-1 per product {_points(figures['top1_change'])} points",
    ]


def _stage2(figures: dict[str, Any]) -> str:
    default = {"pool": "the pool of experts", "stage1": "stage 1"}[figures["default"]]
    return (
        f"stage 2: {figures['sets']} confusion sets, {figures['models']} reclassifiers, "
        f"{figures['answers']['own']} used; elsewhere {default} answers"
    )


def _mix(unit: str, mix: str, figures: dict[str, Any]) -> list[str]:
    counts, changes = figures["counts"], figures["changes"]
    size = f"n {counts['n']}, {counts['categories']} categories"
    size += (
        f", {counts['groups']} independent"
        if mix == "natural"
        else f" of >= {counts['min_support']} independent products"
    )
    lines = [f"  per {unit}, {mix} mix ({size})"]
    for system, label in (SYSTEMS | RIVALS).items():
        if system in figures:
            lines.append(
                _row(f"{label:>{_LABEL}}", [_share(figures[system][metric]) for metric in METRICS])
            )
    over = {f"two_stage_over_{rival}": f"two-stage over {rival}" for rival in RIVALS}
    for change, label in (CHANGES | over).items():
        if change in changes:
            lines.append(
                _row(f"{label:>{_LABEL}}", [_points(changes[change][metric]) for metric in METRICS])
                + " points"
            )
    return lines


def _rivals(natural: dict[str, Any]) -> list[str]:
    """What the rivals are, if there are any."""
    if not natural.keys() & RIVALS.keys():
        return []
    return [
        "rivals, each adjusted to the target mix on val_b: head_train, head_all: a logistic "
        "regression in the place of stage 1's",
        "  head, fitted on train or on all that the pool saw; logistic: on all views, and on the "
        "columns too;",
        "  neighbours: their votes",
    ]


def _row(label: str, values: Iterable[str]) -> str:
    return f"{label:{_LABEL}} " + "".join(f"{value:{_COLUMN}}" for value in values).rstrip()


def _share(estimate: dict[str, Any]) -> str:
    return (
        NOTHING
        if estimate["value"] is None
        else f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"
    )


def _points(change: dict[str, Any]) -> str:
    if change["value"] is None:
        return NOTHING
    return f"{100 * change['value']:+.2f} [{100 * change['low']:+.2f}, {100 * change['high']:+.2f}]"


def _unit(unit: str, figures: dict[str, Any]) -> list[str]:
    fixed, broken = figures["fixed"], figures["broken"]
    ece = ", ".join(
        f"{label} {_error(figures['ece'][system])}"
        for system, label in SYSTEMS.items()
        if system in figures["ece"]
    )
    ece += f"; by chance {_error(figures['ece_by_chance']['two_stage'])}"
    return [
        f"  per {unit}: {fixed} {unit}s fixed, {broken} broken, net {fixed - broken:+}",
        *_changed(unit, figures["categories_changed"]),
        f"  per {unit}: expected calibration error: {ece}",
        *_by_link(unit, figures["linked"]),
    ]


def _error(error: float | None) -> str:
    return NOTHING if error is None else f"{error:.4f}"


def _changed(unit: str, figures: dict[str, Any]) -> list[str]:
    return [
        f"  per {unit}: {len(figures['better'])} categories significantly better with stage 2, "
        f"{len(figures['worse'])} worse",
        f"  per {unit}: of {figures['moved']} categories that moved, one would have been called "
        f"worse from {figures['needed']} of {figures['needed']} products broken; "
        f"{figures['noticeable']} have so many",
    ]


def _by_link(unit: str, figures: dict[str, Any]) -> list[str]:
    """No line if no item is linked: the figures above are then already those of unlinked items."""
    if not figures["with"]["two_stage"]["n"]:
        return []
    names = {"without": "sharing no picture with other splits", "with": "sharing one"}
    two_stage = {key: figures[key]["two_stage"] for key in names}
    return [
        f"  per {unit}: two-stage top-1 of {two_stage[k]['n']} {label}: {_share(two_stage[k])}"
        for k, label in names.items()
    ]


def _promises(promises: list[dict[str, Any]]) -> list[str]:
    """What promised precisions come to on the test split."""
    lines = []
    for row in promises:
        levels = [
            f"{_share_of(level['accepted'])} on level {level['level']}"
            for level in row["levels"]
            if level["threshold"] is not None
        ]
        accepted = f"{_share_of(row['accepted'])} of products accepted ({', '.join(levels)})"
        if not levels:
            accepted = "too few held-out products are surely right, nothing accepted"
        right = f", of which {_percent(row['right'])} are right" if levels else ""
        lines.append(f"promised {row['precision']:.0%}: {accepted}{right}")
    return lines


def _share_of(estimate: dict[str, Any]) -> str:
    return NOTHING if estimate["value"] is None else f"{estimate['value']:.1%}"


def _without_photo(count: int) -> list[str]:
    reason = "test products are not counted: none of their photos can be read and shows something"
    return [f"{count} {reason}"] if count else []


def _near_twins(figures: dict[str, Any]) -> list[str]:
    share = figures["share"]
    criterion = f"cosine > {figures['cosine']:.3f} in {figures['networks']} network(s)"
    lines = [
        f"near twins: {_percent(share)} of {share['n']} sampled test photos have one among other "
        f"products' fitted ({criterion})"
    ]
    if figures["suspicious"]:
        lines += [
            "  WARNING: if twins show one thing or come from one round through the shop, new "
            "products will be sorted less well;",
            f"  two-stage top-1 per image: {_share(figures['top1_with'])} with a twin, "
            f"{_share(figures['top1_without'])} without",
        ]
    return lines


def _percent(estimate: dict[str, Any]) -> str:
    return (
        NOTHING
        if estimate["value"] is None
        else f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"
    )
