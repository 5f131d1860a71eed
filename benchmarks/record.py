"""A benchmark's figures as JSON, beside the text it prints: with command, code and machine.

Not a benchmark itself. docs/results/ holds such files, and benchmarks.render makes docs/results.md
from them. A file has the FIELDS: `command` (one line for each, if there are several), `revision`
of the code, `date`, `processor` (name, whether it has bf16 arithmetic, cores, PyTorch's threads),
`precision` of the network (null if none runs), `rounds`, and `figures`.
"""

import argparse
import datetime
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from catalog.artifacts import write_json
from catalog.parallel import cores
from pipeline.run_folder import revision

FIELDS = ("command", "revision", "date", "processor", "precision", "rounds", "figures")
SMALL = "small and quick, to see that it works"
_CPUINFO = Path("/proc/cpuinfo")


def parser(description: str | None, *, smoke: str | None = SMALL) -> argparse.ArgumentParser:
    """A benchmark's parser: its docstring as it stands, --json for `save`, and --smoke, unless that
    is None."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if smoke:
        made.add_argument("--smoke", action="store_true", help=smoke)
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures to this JSON file too"
    )
    return made


def save(
    path: Path | None,
    figures: dict[str, Any],
    *,
    precision: str | None = None,
    rounds: int = 1,
    command: str | None = None,
) -> None:
    """Writes the file, if there is a `path`; with this process's own command, unless another is
    given."""
    if path is None:
        return
    header = {
        "command": command or own_command(),
        "revision": revision(),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "precision": precision,
        "rounds": rounds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, header | {"figures": figures})


def over_rounds(values: Sequence[float]) -> dict[str, Any]:
    """One figure: its median, and every round it is the median of."""
    return {"median": statistics.median(values), "rounds": list(values)}


def own_command() -> str:
    """This process's command, to be pasted: without --json and without the machine's folders."""
    threads = os.environ.get("OMP_NUM_THREADS")
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"python -m {module.name}" if module else f"python {Path(sys.argv[0]).name}"
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return prefix + " ".join([name, *map(shlex.quote, _portable(sys.argv[1:]))])


def _portable(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments without --json; absolute paths are cut to their last name."""
    pending = iter(arguments)
    for argument in pending:
        if argument == "--json":
            next(pending, None)
        elif not argument.startswith("--json="):
            option, equals, value = argument.rpartition("=")
            yield option + equals + (Path(value).name if value.startswith("/") else value)


def processor() -> dict[str, Any]:
    """Name, whether it has bf16 arithmetic, cores this process may use, PyTorch's threads."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "name": names[0] if names else platform.processor() or platform.machine(),
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }
