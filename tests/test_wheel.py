"""The wheel works from any folder, next to folders that are named as our packages are.

It is built and installed without network into an environment of its own, which borrows the packages
that shelfsort requires from the one that runs the tests.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from pipeline.exchange.export import ANSWERS
from pipeline.installation import PACKAGES
from tests.conftest import SmallDump

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-index"]


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command without the PYTHONPATH of the tests."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this tree, built from a copy."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    skipped = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "configs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=skipped)
    words = ["wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", str(out), str(tree)]
    built = run(*PIP, *words, cwd=out)
    assert built.returncode == 0, built.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what the wheel requires comes after it in sys.path."""
    folder = tmp_path_factory.mktemp("wheel") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["install", *OFFLINE, "--no-compile", str(wheel)]
    installed = run(*PIP, "--python", str(python), *install, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A working folder with packages of somebody else, named as ours are."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not of shelfsort')\n")
    return tmp_path


def test_it_holds_what_is_no_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} < names
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"pipeline/{name}" for name in configs} < names
    templates = (ROOT / "pipeline/report/templates").iterdir()
    assert {str(path.relative_to(ROOT)) for path in templates} < names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_commands_run_beside_packages_of_the_same_names(environment: Path, crowded: Path) -> None:
    shelfsort = environment / "bin" / "shelfsort"
    for words in (["demo", "--help"], ["config", "--config", "photos"]):
        assert run(shelfsort, *words, cwd=crowded).returncode == 0
    listed = run(shelfsort, "configs", cwd=crowded).stdout
    assert "\nphotos " in listed and "\nnetworks/resnet50 " in listed
    assert listed.splitlines()[-1].startswith(f"The files: {environment.resolve()}")


def test_a_shipped_configuration_serves(
    environment: Path, small_dump: SmallDump, tmp_path: Path
) -> None:
    words = ["--run", "first", "--config", "photos", "--dump", str(small_dump.path)]
    done = run(environment / "bin" / "shelfsort", "ingest", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    saved = (tmp_path / "first" / "config.yaml").read_text()
    assert saved.startswith("revision: 0.1.0\n"), "no checkout, so the version"


@pytest.mark.slow
def test_torchrun_starts_the_installed_code(environment: Path, crowded: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "--no-python"]
    # torchrun itself must not import from the working folder, as its script does not.
    done = run(
        environment / "bin" / "python",
        "-P",
        *launch,
        environment / "bin" / "shelfsort",
        *("stage1", "--run-folder", "none"),
        cwd=crowded,
    )
    assert "none: no such run; make one with: shelfsort ingest" in done.stderr
    assert "not of shelfsort" not in done.stderr


def test_it_holds_the_code_that_export_copies(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {*ANSWERS, "pipeline/exchange/reader.py"} <= names


@pytest.mark.parametrize("name", [name for name in PACKAGES if name != "pipeline"])
def test_it_refuses_packages_of_others(environment: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").mkdir()
    foreign = tmp_path / "other" / f"{name}.py"
    foreign.write_text("raise SystemExit('not of shelfsort')\n")
    shelfsort = environment / "bin" / "shelfsort"
    done = run(shelfsort, "configs", cwd=tmp_path, PYTHONPATH=str(foreign.parent))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"shelfsort: {foreign}: stands in for shelfsort's package {name}")
