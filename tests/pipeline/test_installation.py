"""Whose code runs, and of which revision."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import checkup
from pipeline.installation import ROOT, other_owners, require_own_packages, revision, version


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("first\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_our_packages_are_our_own() -> None:
    require_own_packages()


def test_packages_elsewhere_are_refused(tmp_path: Path) -> None:
    expected = f"^{ROOT / 'catalog' / '__init__.py'}: stands in for shelfsort's package catalog"
    with pytest.raises(ImportError, match=expected):
        require_own_packages(tmp_path)


def test_the_revision_is_the_checkouts(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=12", "HEAD").strip()
    assert revision(checkout) == commit
    (checkout / "code.py").write_text("second\n")
    assert revision(checkout) == f"{commit}+"


def test_a_repository_around_the_code_is_not_its_revision(checkout: Path) -> None:
    packages = checkout / ".venv" / "site-packages"
    packages.mkdir(parents=True)
    assert revision(packages) == (version() or "unknown")


def test_a_distribution_that_brings_a_package_of_our_name_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pip leaves it: its folder of metadata, with the list of its files."""
    assert other_owners() == {}
    folder = tmp_path / "shopfeatures-1.0.dist-info"
    folder.mkdir()
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").touch()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shopfeatures\nVersion: 1.0\n")
    (folder / "RECORD").write_text(
        "features/__init__.py,,\nshopfeatures-1.0.dist-info/METADATA,,\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.invalidate_caches()
    assert other_owners() == {"features": ["shopfeatures"]}
    code = next(finding for finding in checkup() if finding.name == "code")
    assert code.ok is False and "features also comes with shopfeatures" in code.detail
