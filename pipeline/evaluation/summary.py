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


def corrected_lines(found: dict[str, Any] | None) -> list[str]:
    """How much of top-1 stands on corrected test labels; no line without any."""
    if not found:
        return []
    now, before = found["top1"], found["top1_by_labels_before"]
    gain = 100 * (now["value"] - before["value"])
    lines = [
        f"corrected labels: {found['test_products']} test products; two-stage top-1 per product "
        f"{_share(now)} by the labels now,",
        f"  {_share(before)} by those before: {gain:+.1f} percentage points stand on corrected "
        "test labels",
    ]
    if found["previous"]:
        lines.append(f"  the evaluation before this one had {_share(found['previous'])}")
    return lines


def _novel(found: dict[str, Any] | None) -> list[str]:
    """How many products are flagged as unlike every category; no line if nothing flags them."""
    if not found:
        return []
    return [
        f"unlike every category: {_share(found['alarms'])} of test's products, and "
        f"{_share(found['power'])} if their own is left out"
    ]


def _added(found: dict[str, Any] | None) -> list[str]:
    """What categories that were added without a training take of the others; no line without
    any."""
    if not found:
        return []
    return [
        f"added without a training: {', '.join(found['categories'])}; test has no product of them, "
        f"they take {_share(found['taken'])}:",
        f"  two-stage top-1 per product {_points(found['top1_change'])} points",
    ]


def _stage2(found: dict[str, Any]) -> str:
    default = {"pool": "the pool of experts", "stage1": "stage 1"}[found["default"]]
    return (
        f"stage 2: {found['sets']} confusion sets, {found['models']} reclassifiers, "
        f"{found['answers']['own']} used; elsewhere {default} answers"
    )


def _mix(unit: str, mix: str, found: dict[str, Any]) -> list[str]:
    counts, changes = found["counts"], found["changes"]
    size = f"n {counts['n']}, {counts['categories']} categories"
    size += (
        f", {counts['groups']} independent"
        if mix == "natural"
        else f" of >= {counts['min_support']} independent products"
    )
    lines = [f"  per {unit}, {mix} mix ({size})"]
    for system, label in (SYSTEMS | RIVALS).items():
        if system in found:
            lines.append(
                _row(f"{label:>{_LABEL}}", [_share(found[system][metric]) for metric in METRICS])
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


def _share(found: dict[str, Any]) -> str:
    return (
        NOTHING
        if found["value"] is None
        else f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
    )


def _points(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return NOTHING
    return f"{100 * found['value']:+.2f} [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"


def _unit(unit: str, found: dict[str, Any]) -> list[str]:
    fixed, broken = found["fixed"], found["broken"]
    ece = ", ".join(
        f"{label} {_error(found['ece'][system])}"
        for system, label in SYSTEMS.items()
        if system in found["ece"]
    )
    ece += f"; by chance {_error(found['ece_by_chance']['two_stage'])}"
    return [
        f"  per {unit}: {fixed} {unit}s fixed, {broken} broken, net {fixed - broken:+}",
        *_changed(unit, found["categories_changed"]),
        f"  per {unit}: expected calibration error: {ece}",
        *_by_link(unit, found["linked"]),
    ]


def _error(error: float | None) -> str:
    return NOTHING if error is None else f"{error:.4f}"


def _changed(unit: str, found: dict[str, Any]) -> list[str]:
    return [
        f"  per {unit}: {len(found['better'])} categories significantly better with stage 2, "
        f"{len(found['worse'])} worse",
        f"  per {unit}: of {found['moved']} categories that moved, one would have been called "
        f"worse from {found['needed']} of {found['needed']} products broken; "
        f"{found['noticeable']} have so many",
    ]


def _by_link(unit: str, found: dict[str, Any]) -> list[str]:
    """No line if no item is linked: the figures above are then already those of unlinked items."""
    if not found["with"]["two_stage"]["n"]:
        return []
    names = {"without": "sharing no picture with other splits", "with": "sharing one"}
    two_stage = {key: found[key]["two_stage"] for key in names}
    return [
        f"  per {unit}: two-stage top-1 of {two_stage[k]['n']} {what}: {_share(two_stage[k])}"
        for k, what in names.items()
    ]


def _promises(found: list[dict[str, Any]]) -> list[str]:
    """What promised precisions come to on the test split."""
    lines = []
    for row in found:
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


def _share_of(found: dict[str, Any]) -> str:
    return NOTHING if found["value"] is None else f"{found['value']:.1%}"


def _without_photo(count: int) -> list[str]:
    reason = "test products are not counted: none of their photos can be read and shows something"
    return [f"{count} {reason}"] if count else []


def _near_twins(found: dict[str, Any]) -> list[str]:
    share = found["share"]
    criterion = f"cosine > {found['cosine']:.3f} in {found['networks']} network(s)"
    lines = [
        f"near twins: {_percent(share)} of {share['n']} sampled test photos have one among other "
        f"products' fitted ({criterion})"
    ]
    if found["suspicious"]:
        lines += [
            "  WARNING: if twins show one thing or come from one round through the shop, new "
            "products will be sorted less well;",
            f"  two-stage top-1 per image: {_share(found['top1_with'])} with a twin, "
            f"{_share(found['top1_without'])} without",
        ]
    return lines


def _percent(found: dict[str, Any]) -> str:
    return (
        NOTHING
        if found["value"] is None
        else f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"
    )
