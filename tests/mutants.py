"""Mutation testing in small: does a test fail when one operator, number or condition of a module is
changed?

    python -m tests.mutants                       # all of MODULES; prints what survives
    python -m tests.mutants catalog/splits.py --sample 20

Exits 1 where fewer than 90% of a module's mutants are noticed, or one survives that SURVIVORS does
not explain. Each mutant is one change in the syntax tree; the module's own tests run on it in a
forked process, which gets the changed module in place of the file. Nothing is written. The tests
run on the unchanged module first: where they fail, they would seem to notice every mutant.
"""

import ast
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas  # noqa: F401  (the children find it loaded)
import PIL.Image  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pytest
import scipy.stats  # noqa: F401
import xgboost  # noqa: F401

from benchmarks import record

ROOT = Path(__file__).parents[1]
OURS = ("catalog", "features", "pipeline", "stage1_cnn", "stage2_xgb", "benchmarks")
MODULES = {
    "catalog/intervals.py": ("tests/catalog/test_intervals.py",),
    "catalog/splits.py": ("tests/catalog/test_splits.py",),
    "catalog/store/reader.py": ("tests/catalog/store/test_reader.py",),
    "stage2_xgb/confusion.py": ("tests/stage2_xgb/test_confusion.py",),
    "stage2_xgb/crossfit.py": ("tests/stage2_xgb/test_crossfit.py",),
    "stage2_xgb/gate.py": ("tests/stage2_xgb/test_gate.py",),
    "stage2_xgb/heldout.py": ("tests/stage2_xgb/test_heldout.py",),
    "stage2_xgb/items.py": ("tests/stage2_xgb/test_dataset.py",),
    "stage2_xgb/prior.py": ("tests/stage2_xgb/test_prior.py",),
    "stage2_xgb/train_reclassifier.py": ("tests/stage2_xgb/test_train_reclassifier.py",),
    "stage2_xgb/refine.py": ("tests/stage2_xgb/test_refine.py",),
}
"""Each module and its own tests, which take seconds per mutant. Other modules' tests would hide
what these don't notice."""
_SPEED = "a matter of speed or memory alone"
_NEVER_ZERO = "a mean of exactly zero is one of nothing changed, which nobody proves"
_ALL = "all of a class are in, whatever their hash"
_NO_NUMBER = "a number of sixteen digits is no product id"
_EMPTY = "a group or cell more, that nothing is in"
SURVIVORS: dict[str, dict[str, str]] = {
    "catalog/intervals.py": {
        "cells * groups <= _DENSE * len(key) -> cells * groups < _DENSE * len(key)": _SPEED,
        "cells * groups -> cells + groups": _SPEED,
        "_DENSE * len(key) -> _DENSE + len(key)": _SPEED,
        "np.clip(np.bincount(cell, weight * right, cells) / mass, 0, 1)"
        " -> np.clip(np.bincount(cell, weight * "
        "right, cells) / mass, 0, 2)": "rounding alone could exceed 1",
        "initial=0 -> initial=1": _EMPTY,
        "int(group.max(initial=0)) + 1 -> int(group.max(initial=0)) + 2": _EMPTY,
        "clustered_shares(right, weight, group, np.zeros(len(right), dtype=np.int64), 1)"
        " -> clustered_shares(right, weight, group, "
        "np.zeros(len(right), dtype=np.int64), 2)": _EMPTY,
    },
    "catalog/splits.py": {
        "np.where(np.asarray(share) < 1, share, 0.0) -> np.where(np.asarray(share) < 1, share, 1.0)"
        "": _ALL,
        "np.asarray(share) < 1 -> np.asarray(share) <= 1": _ALL,
        "np.asarray(share) < 1 -> np.asarray(share) < 2": _ALL,
        "sample_hash(product_ids, purpose, seed) < below.astype(np.uint64)"
        " -> sample_hash(product_ids, purpose, seed) <= below.astype(np.uint64)": "a single hash",
        "-1 -> --1": _EMPTY,
        "int(class_index.max(initial=-1)) + 1 -> int(class_index.max(initial=-1)) + 2": _EMPTY,
    },
    "catalog/store/reader.py": {
        "uri=True -> uri=False": "Debian builds SQLite so that it reads URIs unasked",
        "getattr(error, 'sqlite_errorcode', 0) -> getattr(error, 'sqlite_errorcode', 1)": "neither"
        " says that another program writes it",
        "len(t) < 16 -> len(t) <= 16": _NO_NUMBER,
        "len(t) < 16 -> len(t) < 17": _NO_NUMBER,
        "directed=False -> directed=True": "weakly connected components are the same",
    },
    "stage2_xgb/gate.py": {
        "mean > 0 -> mean >= 0": _NEVER_ZERO,
        "posterior_means(votes[deciders], classes) > 0"
        " -> posterior_means(votes[deciders], classes) >= 0": _NEVER_ZERO,
        "max(excess / spread, 0.0) if spread > 0 else 0.0"
        " -> max(excess / spread, 0.0) if spread > 0 else 1.0": "with a single category the mean"
        " is its own gain, whatever the variance",
    },
    "stage2_xgb/heldout.py": {
        "tables[0] -> tables[1]": "tables of images and of products have the same columns",
        ":0 -> :1": "a further item decides nothing",
    },
    "stage2_xgb/items.py": {
        "-1 -> -2": "numpy finds the size of a dimension for any number below zero",
    },
    "stage2_xgb/prior.py": {
        "1 / self.temperature -> 1 * self.temperature": "its range is symmetric: 1/4 to 4",
        "np.ones(2) -> np.ones(3)": "the third is not used",
        "(0.0, np.zeros(2)) -> (1.0, np.zeros(2))": "the same for all that are compared",
        ":10 -> :11": "how much of a wrong value an error shows",
        "shares / shares.sum() -> shares * shares.sum()": "they sum to 1 but for a billionth",
    },
    "stage2_xgb/train_reclassifier.py": {
        "nthread=1 -> nthread=2": _SPEED,
    },
}
"""Of a module: the mutants that no test can tell, without their line numbers, and why."""
SHARE = 0.9
"""Of a module's mutants: what must be noticed."""
LIMIT = 300
"""Seconds for the tests on the unchanged module. A mutant that runs on for a minute and ten times
as long counts as noticed."""
_SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitXor: ast.BitOr,
}


def places(tree: ast.Module) -> list[ast.AST]:
    """The nodes that can be changed, in the order of the file.

    Not annotations, which do nothing; not `frozen` and `strict`, which guard against changes that
    nobody makes; not the numbers that a module names at its top, which were chosen by measurement:
    a test of them would only repeat them.
    """
    skipped = {id(number) for number in _named_numbers(tree)}
    for node in ast.walk(tree):
        notes = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        skipped |= {id(inner) for note in notes if note for inner in ast.walk(note)}
        if isinstance(node, ast.keyword) and node.arg in ("frozen", "strict"):
            skipped.add(id(node.value))
    found = [node for node in ast.walk(tree) if id(node) not in skipped and changes(node)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _named_numbers(tree: ast.Module) -> Iterator[ast.AST]:
    """Constants in assignments to upper-case names at the top of a module."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]).isupper():
            yield from ast.walk(statement.value)


def changes(node: ast.AST) -> bool:
    """Whether `change` does something to a node."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float))
    if isinstance(node, (ast.If, ast.IfExp)):
        return isinstance(
            node.test, (ast.Name, ast.Attribute, ast.Call)
        )  # comparisons are changed themselves
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.Not, ast.USub))
    return isinstance(node, (ast.Compare, ast.BinOp, ast.BoolOp))


def change(node: ast.AST) -> None:
    """Changes a node in place."""
    if isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node, ast.Compare):
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif isinstance(node, (ast.BinOp, ast.BoolOp)):
        node.op = _SWAPS.get(type(node.op), ast.Sub)()
    elif isinstance(node, (ast.If, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp):
        node.operand = ast.UnaryOp(node.op, node.operand)


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """Each mutant: the line with its number, before and after, and the whole tree."""
    tree = ast.parse(source)
    for number, node in enumerate(places(tree)):
        changed = copy.deepcopy(tree)
        twin = places(changed)[number]
        change(twin)
        yield (
            f"{node.lineno}: {shown(tree, node)} -> {shown(changed, twin)}",
            ast.fix_missing_locations(changed),
        )


def shown(tree: ast.Module, node: ast.AST) -> str:
    """The source of a node; of a number with what is around it, so that SURVIVORS means one and not
    all."""
    if isinstance(node, ast.Constant):
        outer = next(outer for outer in ast.walk(tree) if node in ast.iter_child_nodes(outer))
        if isinstance(outer, ast.Dict) and node in outer.values:
            return f"{ast.unparse(outer.keys[outer.values.index(node)])}: {ast.unparse(node)}"
        return ast.unparse(outer)
    return ast.unparse(getattr(node, "test", node))


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree in place of its file."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self.name, self.path, self.tree = path.removesuffix(".py").replace("/", "."), path, tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """The module, where it is asked for."""
        return (
            importlib.util.spec_from_loader(name, self, origin=self.path)
            if name == self.name
            else None
        )

    def exec_module(self, module: object) -> None:
        """Runs the tree."""
        module.__file__ = str(ROOT / self.path)
        exec(
            compile(self.tree, self.path, "exec"), module.__dict__
        )  # our own source, changed in one place


def survives(path: str, tree: ast.Module, tests: Sequence[str], limit: float) -> bool:
    """Whether all tests pass on a mutant within `limit` seconds."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]  # what is loaded already would hide the change
        sys.meta_path.insert(0, Changed(path, tree))
        try:
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=no", *tests])
        except BaseException:
            code = 1
        os._exit(int(code))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def run(path: str, sample: int | None = None) -> tuple[int, list[str]]:
    """Mutants tried (of `sample` drawn ones, or all), and those that survive."""
    source, tests, started = (
        (ROOT / path).read_text(encoding="utf-8"),
        MODULES[path],
        time.monotonic(),
    )
    if not survives(path, ast.parse(source), tests, LIMIT):
        sys.exit(
            f"{path}: its tests fail, or take more than {LIMIT} s, before "
            f"anything is changed: pytest {' '.join(tests)}"
        )
    limit = 60 + 10 * (time.monotonic() - started)
    every = list(mutants(source))
    if sample is not None and sample < len(every):
        every = [
            every[place]
            for place in np.sort(np.random.default_rng(0).permutation(len(every))[:sample])
        ]
    return len(every), [text for text, tree in every if survives(path, tree, tests, limit)]


def main() -> int:
    """Runs and prints."""
    parser = record.parser(__doc__, smoke=None)
    parser.add_argument("paths", nargs="*", default=list(MODULES), help="modules; by default all")
    parser.add_argument("--sample", type=int, help="try so many of each module's mutants")
    options = parser.parse_args()
    os.chdir(ROOT)
    good, modules = True, []
    for path in options.paths:
        started, why = time.monotonic(), SURVIVORS.get(path, {})
        tried, survivors = run(path, options.sample)
        noticed, seconds = tried - len(survivors), time.monotonic() - started
        print(
            f"{path}: {noticed} of {tried} mutants noticed, {noticed / tried:.1%}, {seconds:.0f} s",
            flush=True,
        )
        reasons = {text: why.get(text.partition(": ")[2], "NOT EXPLAINED") for text in survivors}
        for text, reason in reasons.items():
            print(f"  {path}:{text}  ({reason})", flush=True)
        good &= noticed >= SHARE * tried and "NOT EXPLAINED" not in reasons.values()
        modules.append(
            {
                "module": path,
                "changes": tried,
                "noticed": noticed,
                "seconds": round(seconds),
                "unnoticed": "; ".join(sorted(set(reasons.values()))),
            }
        )
    record.save(options.json, {"modules": modules})
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
