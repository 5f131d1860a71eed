"""The test split on one page: what evaluation/metrics.json says, for a terminal and as evaluation/summary.txt."""

from typing import Any

SYSTEMS = {"stage1": "stage 1", "shifted": "shifted", "two_stage": "two-stage", "published": "published"}
CHANGES = {"two_stage_over_shifted": "two-stage over shifted", "published_over_stage1": "published over stage 1"}
METRICS = {"top1": "top-1", "top5": "top-5", "macro_f1": "macro F1"}
_LABEL, _COLUMN = 29, 25


def summary(metrics: dict[str, Any]) -> str:
    """Lines of at most 130 columns. An evaluation of an earlier version doesn't say what stage 2 was."""
    lines = [_stage2(metrics["stage2"])] if "stage2" in metrics else []
    lines.append(_row("test accuracy, 95% intervals", METRICS.values()))
    for unit in ("image", "product"):
        for mix in ("natural", "balanced"):
            lines += _mix(f"per {unit}, {mix} mix", metrics[unit][mix])
        lines += _unit(unit, metrics[unit])
    lines.append(f"seconds: {metrics['seconds']:.1f}")
    return "\n".join(lines)


def _stage2(found: dict[str, Any]) -> str:
    used, default = found["answers"]["own"], {"shared": "the shared reranker", "stage1": "stage 1"}[found["default"]]
    return f"stage 2: {found['sets']} confusion sets, {found['models']} reclassifiers, {used} used; elsewhere {default} answers"


def _mix(name: str, found: dict[str, Any]) -> list[str]:
    counts, changes = found["counts"], found["changes"]
    lines = [f"  {name} (n {counts['n']}, {counts['categories']} categories)"]
    for system, label in SYSTEMS.items():
        if system in found:
            lines.append(_row(f"{label:>{_LABEL}}", [_share(found[system][metric]) for metric in METRICS]))
    for change, label in CHANGES.items():
        if change in changes:
            lines.append(_row(f"{label:>{_LABEL}}", [_points(changes[change][metric]) for metric in METRICS]) + " points")
    return lines


def _row(label: str, values: Any) -> str:
    return f"{label:{_LABEL}} " + "".join(f"{value:{_COLUMN}}" for value in values).rstrip()


def _share(found: dict[str, float]) -> str:
    return f"{found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"


def _points(found: dict[str, float]) -> str:
    return f"{100 * found['value']:+.2f} [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"


def _unit(unit: str, found: dict[str, Any]) -> list[str]:
    fixed, broken, moved = found["fixed"], found["broken"], found["categories_changed"]
    enough = found["balanced"]["counts"]
    ece = ", ".join(f"{label} {found['ece'][system]:.4f}" for system, label in SYSTEMS.items() if system in found["ece"])
    return [
        f"  per {unit}: macro F1 in either mix is over the {enough['categories']} categories with at least "
        f"{enough['min_support']} evaluated {unit}s",
        f"  per {unit}: {fixed} {unit}s fixed, {broken} broken, net {fixed - broken:+}",
        f"  per {unit}: {len(moved['better'])} categories significantly better with stage 2, {len(moved['worse'])} worse",
        f"  per {unit}: expected calibration error, natural mix: {ece}",
    ]
