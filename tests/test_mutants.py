"""The mutation tests: that tests notice when one operator, number or condition of a core module is
changed."""

import ast
import subprocess
import sys

import pytest

from tests import mutants

SOURCE = '''
LIMIT: int = 3
def f(x: "list[3]") -> bool:
    """7"""
    if x:
        return not len(x) < LIMIT and x[0] + 1
    return False
'''


def test_every_operator_number_and_condition_is_changed_once() -> None:
    found = [text for text, _ in mutants.mutants(SOURCE)]
    assert found == [
        "2: LIMIT: int = 3 -> LIMIT: int = 4",
        "5: x -> not x",
        "6: not len(x) < LIMIT and x[0] + 1 -> not len(x) < LIMIT or x[0] + 1",
        "6: not len(x) < LIMIT -> not not len(x) < LIMIT",
        "6: len(x) < LIMIT -> len(x) <= LIMIT",
        "6: x[0] + 1 -> x[0] - 1",
        "6: x[0] -> x[1]",
        "6: x[0] + 1 -> x[0] + 2",
        "7: return False -> return True",
    ]
    assert all(
        ast.unparse(tree) != ast.unparse(ast.parse(SOURCE)) for _, tree in mutants.mutants(SOURCE)
    )


def test_known_survivors_are_mutants() -> None:
    for path, survivors in mutants.SURVIVORS.items():
        every = {
            text.partition(": ")[2]
            for text, _ in mutants.mutants((mutants.ROOT / path).read_text(encoding="utf-8"))
        }
        assert set(survivors) <= every


def test_a_survivor_that_nothing_explains_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(
        mutants.MODULES, "catalog/labels.py", ("tests/catalog/store/test_image_checks.py",)
    )
    monkeypatch.setattr(sys, "argv", ["mutants", "catalog/labels.py", "--sample", "1"])
    assert mutants.main() == 1
    assert (
        "catalog/labels.py: 0 of 1 mutants noticed, 0.0%" in (said := capsys.readouterr().out)
        and "NOT EXPLAINED" in said
    )


def test_tests_that_fail_anyway_notice_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mutants.MODULES, "catalog/labels.py", ("tests/absent.py",))
    with pytest.raises(
        SystemExit, match="its tests fail, or take more than 300 s, before anything is changed"
    ):
        mutants.run("catalog/labels.py")


@pytest.mark.slow
@pytest.mark.mutants
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", mutants.MODULES)
def test_nine_of_ten_mutants_are_noticed(path: str) -> None:
    command = [sys.executable, "-m", "tests.mutants", path]
    result = subprocess.run(command, cwd=mutants.ROOT, capture_output=True, text=True, timeout=3500)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
