"""The doctor finds a sound installation sound, and names what is wrong with a broken one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import PROBES, Finding, checkup, render, unmet

ROOT = Path(__file__).parents[2]
REPORT = """
import dataclasses, json
from pipeline.doctor import checkup
print(json.dumps([dataclasses.asdict(finding) for finding in checkup()]))
"""


def findings_behind(*folders: Path, **environment: str) -> dict[str, Finding]:
    """A checkup by a fresh Python that finds `folders` before the installed packages."""
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, check=True)
    return {found["name"]: Finding(**found) for found in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def healthy() -> dict[str, Finding]:
    return {finding.name: finding for finding in checkup()}


def test_nothing_fails_where_the_tests_run(healthy: dict[str, Finding]) -> None:
    assert [finding for finding in healthy.values() if finding.ok is False] == []


def test_every_probe_reports_once(healthy: dict[str, Finding]) -> None:
    assert list(healthy) == [
        *("python", "packages", "torchvision", "bson", "jpeg", "xgboost", "hdf5", "sqlite"),
        *("gpu", "bf16", "threads", "allocator", "pretrained", "disk"),
    ]
    assert all(finding.detail and finding.remedy for finding in healthy.values())


def test_the_real_work_was_done(healthy: dict[str, Finding]) -> None:
    for name in ("torchvision", "bson", "jpeg", "xgboost", "hdf5", "sqlite"):
        assert healthy[name].ok is not False, healthy[name]
    assert "nms keeps [0, 2]" in healthy["torchvision"].detail
    assert "100%" in healthy["xgboost"].detail


def test_pretrained_networks_at_hand_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/resnet50-0676ba61.pth").touch()
    probe = next(probe for name, probe, _ in PROBES if name == "pretrained")
    ok, detail = probe()
    assert ok is True
    assert "resnet50" in detail and "resnet18" not in detail


def test_broken_packages_are_reported_and_the_others_still_checked(tmp_path: Path) -> None:
    (tmp_path / "bson.py").write_text("def dumps(document): ...\ndef loads(data): ...\n")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    found = findings_behind(tmp_path, OMP_NUM_THREADS="64", MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="1000000000")

    assert found["bson"].ok is False
    assert str(tmp_path / "bson.py") in found["bson"].detail
    assert "pip uninstall bson" in found["bson"].remedy

    assert found["torchvision"].ok is False
    assert found["torchvision"].detail == "RuntimeError: operator torchvision::nms does not exist"
    assert "one registry" in found["torchvision"].remedy

    assert found["threads"].ok is None
    assert "OMP_NUM_THREADS is 64" in found["threads"].detail
    assert found["allocator"].ok is True
    assert found["xgboost"].ok is True


def test_the_other_bson_is_reported_even_if_pymongos_files_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bson-0.5.10.dist-info").mkdir()
    (tmp_path / "bson-0.5.10.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: bson\nVersion: 0.5.10\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = next(finding for finding in checkup() if finding.name == "bson")
    assert found.ok is False
    assert "0.5.10" in found.detail


def test_unmet_names_package_version_and_bound() -> None:
    parts = unmet(["numpy>=999", "no-such-package-anywhere>=1", "numpy>=1", "numpy>=999; extra == 'dev'"])
    assert len(parts) == 2
    assert parts[0].startswith("numpy ")
    assert parts[0].endswith("is not >=999")
    assert parts[1] == "no-such-package-anywhere is missing"


def test_render_shows_remedies_of_what_is_not_in_order_and_counts() -> None:
    text = render(
        [
            Finding("python", True, "3.11", "unneeded advice"),
            Finding("gpu", None, "none", "buy one"),
            Finding("bson", False, "the wrong one " * 20, "uninstall it"),
        ]
    )
    assert "unneeded advice" not in text
    assert "-> buy one" in text
    assert "-> uninstall it" in text
    assert text.splitlines()[-1] == "1 ok, 1 notes, 1 failures"
    assert max(map(len, text.splitlines())) <= 110
    assert [line.split()[:2] for line in text.splitlines() if line[0:1].strip()][:3] == [
        ["ok", "python"],
        ["note", "gpu"],
        ["FAIL", "bson"],
    ]
