"""Scoring on adapting dask workers of which one is killed again and again, against the same
undisturbed.

Claims: with one of two workers killed every 20 seconds the files are the same to the bit, and it
takes at most 1.5 times as long. A killed worker costs the part that it had, and some seconds until
the next one has loaded everything. MobileNetV2 at 96 px with random weights, both stages. Run:
python -m benchmarks.killed [--products N] [--every SECONDS] [--folder DIR] [--smoke]
"""

import hashlib
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from distributed import Client

from benchmarks import record
from benchmarks.scoring import CASES, make_dump, make_run
from pipeline import steps
from pipeline.cluster.client import connect
from pipeline.config import RunConfig, load_config
from pipeline.run_folder import RunFolder

CLAIM = 1.5
_WORKERS = (1, 2)


def main() -> None:
    """Prints both times, and whether the files are the same; 1 if they aren't."""
    parser = record.parser(__doc__)
    parser.add_argument("--products", type=int, default=60_000)
    parser.add_argument("--every", type=float, default=20, help="seconds between two kills")
    parser.add_argument("--part-mb", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="keep the network here, or use what is there")
    options = parser.parse_args()
    backbone = "mobilenet_v2"
    if options.smoke:
        options.products, options.every, options.part_mb = 3000, 2, 1
        backbone = "shufflenet_v2_x0_5"
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        size, side, _ = CASES[backbone]
        run = make_run(folder / f"{backbone}-fp32", backbone, size, side)
        dump = make_dump(Path(name) / "dump.bson", options.products, side)
        config = load_config(None, [f"score.part_mb={options.part_mb}"])
        figures = measure(run, config, dump, Path(name), options.every)
    record.save(options.json, figures, precision="fp32")
    if not figures["same_files"]:
        raise SystemExit("the files differ")


def measure(
    run: RunFolder, config: RunConfig, dump: Path, folder: Path, every: float
) -> dict[str, Any]:
    """Seconds undisturbed and disturbed, the number of kills, and whether the files are the
    same."""
    plain, _ = scored(run, config, dump, folder / "plain", None)
    killed, kills = scored(run, config, dump, folder / "killed", every)
    same = digests(folder / "plain") == digests(folder / "killed")
    print(
        f"undisturbed {plain:.1f} s; one of two workers killed every {every:g} s, {kills} times: "
        f"{killed:.1f} s, {killed / plain:.2f} times as long (claim {CLAIM}); the files are "
        f"{'the same' if same else 'DIFFERENT'}",
        flush=True,
    )
    return {
        "every": every,
        "kills": kills,
        "seconds": {"undisturbed": plain, "killed": killed},
        "ratio": killed / plain,
        "claim": CLAIM,
        "same_files": same,
    }


def scored(
    run: RunFolder, config: RunConfig, dump: Path, out: Path, every: float | None
) -> tuple[float, int]:
    """Seconds of a scoring on adapting workers that had started, and how many were killed."""
    with connect(None, None, adapt=_WORKERS) as client, Killer(client, every) as killer:

        class Connected:
            """The client, for a step that opens one."""

            def __enter__(self) -> Client:
                return client

            def __exit__(self, *_error: object) -> None:
                """It is closed outside."""

        started = time.perf_counter()
        steps.score(run, config, [str(dump)], out, workers=Connected, say=lambda _: None)
        return time.perf_counter() - started, killer.kills


class Killer:
    """Kills a worker, another one in turn, every so many seconds; never, if `every` is None."""

    def __init__(self, client: Client, every: float | None) -> None:
        self.kills = 0
        self._client, self._every, self._done = client, every, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        while self._every and not self._done.wait(self._every):
            try:
                processes = sorted(self._client.run(os.getpid).items())
            except (OSError, TimeoutError, ValueError):
                continue  # one is just ending
            if processes:
                os.kill(processes[self.kills % len(processes)][1], signal.SIGKILL)
                self.kills += 1


def digests(out: Path) -> dict[str, str]:
    """sha256 of what was scored and decided, by name."""
    paths = [path for path in out.glob("*.*") if path.name != "summary.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


if __name__ == "__main__":
    main()
