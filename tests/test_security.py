"""What the sources may not do, read from their syntax trees: pickles, code from text, shells, YAML
objects, SQL from values."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import SmallDump

ROOT = Path(__file__).parents[1]
PACKAGES = ("catalog", "stage1_cnn", "features", "stage2_xgb", "pipeline")
FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.load",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
WITH = {
    "torch.load": ("weights_only", True),
    "torch.hub.load_state_dict_from_url": ("check_hash", True),
}
"""Keywords without which a call is unsafe."""
NEVER = {("shell", True), ("allow_pickle", True)}
SQL = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
CHOSEN_HERE = {"USED", "marks", "amount", "','.join('?' * len(values))"}
"""What may stand in the text of a query: names of tables and columns that the code itself chooses,
and question marks."""


def unsafe(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every call or query that isn't allowed."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            known = {
                (k.arg, k.value.value) for k in node.keywords if isinstance(k.value, ast.Constant)
            }
            if name in FORBIDDEN or known & NEVER or (name in WITH and WITH[name] not in known):
                yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) for part in node.values if isinstance(part, ast.Constant)
            )
            inside = {
                ast.unparse(part.value)
                for part in node.values
                if isinstance(part, ast.FormattedValue)
            }
            if text.lstrip().startswith(SQL) and inside - CHOSEN_HERE:
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unsafe_stands_in_the_sources(package: str) -> None:
    sources = sorted((ROOT / package).rglob("*.py"))
    assert sources
    assert [
        (path.name, *place)
        for path in sources
        for place in unsafe(path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "yaml.load(file)",
        "pickle.loads(data)",
        "subprocess.run(text, shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "torch.hub.load_state_dict_from_url(url)",
        "connection.execute(f'SELECT * FROM images WHERE product_id = {name}')",
    ],
)
def test_what_is_unsafe_is_seen(source: str) -> None:
    assert len(list(unsafe(source))) == 1


def test_sql_stands_in_the_store_alone() -> None:
    outside = [
        (path.relative_to(ROOT).as_posix(), node.lineno)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.parent != ROOT / "catalog" / "store"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lstrip().startswith(SQL)
    ]
    assert outside == []


def test_files_are_made_with_the_users_umask(small_dump: SmallDump, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert (
            main(
                [
                    "ingest",
                    "--run",
                    str(tmp_path / "run"),
                    "--dump",
                    str(small_dump.path),
                    "--set",
                    "jobs=1",
                ]
            )
            == 0
        )
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(made) >= 5
    assert [path.name for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
