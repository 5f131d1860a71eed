"""The Makefile and the packaging say the same as the tree: targets, steps, pins, packages."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pipeline.cli import parser

ROOT = Path(__file__).parents[1]
INPUTS = ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt")
STEPS = ("ingest", "stage1", "features", "stage2", "evaluate", "report")
CHORES = (
    "setup",
    "demo",
    "score",
    "test",
    "test-bf16",
    "test-mutants",
    "test-slow",
    "lint",
    "bench",
    "doctor",
    "clean",
    "help",
)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make without what a surrounding make has put into the environment."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that `make setup` looks at, without a .venv."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in INPUTS:
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture
def installed(tree: Path) -> Path:
    """A tree with a real, empty .venv, marked as installed just now."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tree / ".venv"], check=True)
    version = "Python {}.{}".format(*sys.version_info)
    (tree / ".venv" / ".current").write_text(f"{os.path.realpath(tree)} {version}\n")
    return tree


@pytest.fixture
def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def installs(result: subprocess.CompletedProcess[str]) -> bool:
    return "pip install" in result.stdout


def remakes(result: subprocess.CompletedProcess[str]) -> bool:
    return "venv --clear .venv" in result.stdout


def steps_in(output: str) -> list[str]:
    return re.findall(r"^\.venv/bin/shelfsort (\w+)", output, re.MULTILINE)


def test_help_lists_every_target_and_variable(tree: Path) -> None:
    listed = [
        line.split()[0] for line in make(tree, "help").stdout.splitlines()[1:] if line.strip()
    ]
    assert sorted(listed) == sorted(
        [*STEPS, *CHORES, "RUN", "CONFIG", "BSON", "CATEGORIES", "OUT", "SET", "PYTHON", "FIGURES"]
    )


def test_steps_run_in_order_with_their_overrides(installed: Path) -> None:
    result = make(
        installed, "-n", "stage2", "RUN=runs/r", "CONFIG=c.yaml", "SET=a=1 b=[2,3]", "BSON=d.bson"
    )
    commands = [line for line in result.stdout.splitlines() if "shelfsort" in line]
    options = "--run 'runs/r' --config 'c.yaml' --set 'a=1' --set 'b=[2,3]'"
    assert commands == [
        f".venv/bin/shelfsort ingest {options} --dump d.bson "
        "--categories 'data/category_names.csv'",
        *(f".venv/bin/shelfsort {step} {options}" for step in STEPS[1:4]),
    ]


def test_paths_may_have_blanks_and_quotes(installed: Path) -> None:
    """Run for real, with a shelfsort that prints its arguments."""
    script = installed / ".venv/bin/shelfsort"
    script.write_text('#!/bin/sh\nprintf "%s|" "$@"; echo\n')
    script.chmod(0o755)
    run = installed / "my runs/l'été"
    (run / "stage2").mkdir(parents=True)
    (run / "stage2/manifest.json").write_text("{}")
    (installed / "my dump.bson").touch()
    paths = [
        "RUN=my runs/l'été",
        "CONFIG=my config.yaml",
        "CATEGORIES=the names.csv",
        "BSON=my dump.bson",
    ]
    where = "--run|my runs/l'été|--config|my config.yaml|"
    assert make(installed, "stage1", *paths).stdout.splitlines()[1::2] == [
        f"ingest|{where}--dump|my dump.bson|--categories|the names.csv|",
        f"stage1|{where}",
    ]
    out = "--run|my runs/l'été|--out|my runs/l'été/predictions|"
    assert make(installed, "score", *paths).stdout.splitlines()[-1] == f"score|my dump.bson|{out}"
    (installed / "b.bson").touch()
    for several in ("a.bson b.bson", "'a.bson' b.bs*"):
        assert (
            make(installed, "score", *paths[:-1], f"BSON={several}").stdout.splitlines()[-1]
            == f"score|a.bson|b.bson|{out}"
        )
    assert (
        make(installed, "report", *paths).stdout.splitlines()[-1] == "report|--run|my runs/l'été|"
    )


def test_report_runs_every_step_once(installed: Path) -> None:
    assert steps_in(make(installed, "-n", "report").stdout) == list(STEPS)


def test_every_command_is_one_that_shelfsort_takes(installed: Path) -> None:
    (installed / "runs/cdiscount/stage2").mkdir(parents=True)
    (installed / "runs/cdiscount/stage2/manifest.json").write_text("{}")
    output = make(installed, "-n", "demo", "report", "score", "doctor", "SET=a=1 b=2").stdout
    commands = [
        shlex.split(line)[1:]
        for line in output.splitlines()
        if line.startswith(".venv/bin/shelfsort")
    ]
    parsed = [
        parser().parse_args(command) for command in commands
    ]  # an argument it doesn't know exits
    assert [options.command for options in parsed] == ["demo", *STEPS, "score", "doctor"]
    assert {
        options.command for options in parsed if getattr(options, "set", None) == ["a=1", "b=2"]
    } == {*("demo", "ingest", "stage1", "features", "stage2", "evaluate", "score")}


def test_score_wants_a_finished_run_and_makes_none(installed: Path) -> None:
    refused = make(installed, "score", "RUN=runs/r", "BSON=new.bson")
    assert refused.returncode != 0
    assert (
        "runs/r/stage2/manifest.json: no such file; make it first with: make stage2 RUN='runs/r'\n"
        in refused.stderr
    )
    (installed / "runs/r/stage2").mkdir(parents=True)
    (installed / "runs/r/stage2/manifest.json").write_text("{}")
    command = ".venv/bin/shelfsort score new.bson --run 'runs/r' --out 'runs/r/predictions'"
    assert (
        make(installed, "-n", "score", "RUN=runs/r", "BSON=new.bson")
        .stdout.splitlines()[-1]
        .strip()
        == command
    )
    assert "score data/test.bson" in make(installed, "-n", "score", "RUN=runs/r").stdout


def test_setup_does_nothing_when_current(installed: Path) -> None:
    result = make(installed, "setup")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_setup_installs_again_when_a_pin_changes(installed: Path) -> None:
    later = (installed / ".venv/.current").stat().st_mtime + 10
    os.utime(installed / "constraints.txt", (later, later))
    result = make(installed, "-n", "setup")
    assert installs(result)
    assert not remakes(result)


def test_setup_remakes_a_broken_venv(installed: Path) -> None:
    for python in (installed / ".venv/bin").glob("python*"):
        python.unlink()
    (installed / ".venv/bin/python").symlink_to("/no/such/python")
    result = make(installed, "-n", "setup")
    assert remakes(result)
    assert installs(result)


def test_setup_remakes_a_half_installed_venv(installed: Path) -> None:
    (installed / ".venv/.current").unlink()
    assert remakes(make(installed, "-n", "setup"))


def test_setup_remakes_the_venv_of_a_moved_tree(installed: Path) -> None:
    moved = installed.rename(installed.with_name("moved"))
    assert remakes(make(moved, "-n", "setup"))


def test_setup_remakes_a_venv_of_another_python(installed: Path) -> None:
    assert not remakes(make(installed, "-n", "setup", f"PYTHON={sys.executable}"))
    other = installed / "python2.7"
    other.write_text("#!/bin/sh\necho $PWD Python 2.7\n")
    other.chmod(0o755)
    assert remakes(make(installed, "-n", "setup", f"PYTHON={other}"))


def test_setup_without_a_suitable_python_says_so_and_keeps_the_venv(installed: Path) -> None:
    result = make(installed, "setup", "PYTHON=/no/such/python")
    assert result.returncode != 0
    assert "error: no Python 3.11 or later" in result.stderr
    assert (installed / ".venv/bin/python").exists()


def test_constraints_pin_every_requirement_once(setup_cfg: ConfigParser) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)] == []
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names))
    wanted = [
        setup_cfg["options"]["install_requires"],
        *setup_cfg["options.extras_require"].values(),
    ]
    required = [
        re.split(r"[\[ ]", line)[0] for block in wanted for line in block.split("\n") if line
    ]
    assert len(required) > 25
    assert sorted(set(required) - set(names)) == []
    assert "distributed" in names  # what the extra of dask[distributed] stands for


def test_every_package_folder_is_declared(setup_cfg: ConfigParser) -> None:
    markers = [
        path
        for path in ROOT.glob("[a-z]*/**/__init__.py")
        if path.relative_to(ROOT).parts[0] != "tests"
    ]
    folders = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in markers)
    included = setup_cfg["options.packages.find"]["include"].split()
    assert all(any(fnmatch(name, pattern) for pattern in included) for name in folders)
    linted = setup_cfg["importlinter"]["root_packages"].split()
    assert sorted(linted) == [name for name in folders if "." not in name]
