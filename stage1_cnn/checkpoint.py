"""Checkpoints of stage 1: dictionaries of tensors and plain values, written atomically, loaded
without pickles.

best.pt, head.pt and last.pt have the keys of docs/formats.md; each scores alone. last.pt also
resumes the training, and before.pt, the previous last.pt, does so if last.pt is damaged.
"""

import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from catalog.artifacts import atomic_path, unreadable
from catalog.errors import ArtifactError

SCHEMA = 1
KEYS = (
    "made_from",
    "config",
    "transform",
    "taxonomy",
    "network",
    "train_images",
    "epoch",
    "phase",
    "metrics",
)
RESUME_KEYS = ("optimizer", "scheduler", "scaler", "step", "tally", "history", "best", "seconds")

LAST, BEFORE = "last.pt", "before.pt"

_log = logging.getLogger(__name__)


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically; `content` has KEYS and, for last.pt, RESUME_KEYS."""
    with atomic_path(path) as temporary:
        _write(temporary, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    """Passes torch a file object: given a path, it would write the file's name, which contains this
    process's pid, into the file."""
    with open(path, "wb") as file:
        try:
            torch.save({"schema": SCHEMA, **content}, file)
        except RuntimeError as error:
            # A full disk, which torch reports as a position in the file only.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Writes last.pt; the previous one becomes before.pt."""
    with atomic_path(folder / LAST) as temporary:
        _write(temporary, content)
        if (folder / LAST).exists():
            (folder / BEFORE).unlink(missing_ok=True)
            try:
                os.link(folder / LAST, folder / BEFORE)
            except OSError:  # not every file system has hard links
                shutil.copyfile(folder / LAST, folder / BEFORE)


def load_last(folder: Path) -> dict[str, Any] | None:
    """What a training resumes from: last.pt, or before.pt if last.pt is damaged; None if there is
    no last.pt.

    Raises ArtifactError if both are damaged.
    """
    last, before = folder / LAST, folder / BEFORE
    try:
        return load(last, resume=True) if last.exists() else None
    except ArtifactError as error:
        if not before.exists():
            raise
        content = load(before, resume=True)
        position = f"after {content['phase']} epoch {content['epoch']}, step {content['step']}"
        _log.warning("%s: %s; going on from %s, %s", last, error.problem, before.name, position)
        return content


def load(path: Path, *, resume: bool = False) -> dict[str, Any]:
    """Reads a checkpoint onto the processor; with `resume`, one that a training can resume from.

    Raises ArtifactError if the file is missing, damaged, of another schema, or holds more than
    tensors and plain values.

        network.load_state_dict(load(run / "stage1" / "best.pt")["network"])
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not verify the checksums it writes
                raise ArtifactError(path, f"damaged (checksum of {damaged})", "stage1")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(path, "no such file", "stage1") from None
    except pickle.UnpicklingError:
        problem = "holds objects that could run code, expected tensors and plain values"
        raise ArtifactError(path, problem, "stage1") from None
    except (
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        NotImplementedError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise unreadable(path, f"damaged ({reason})", "stage1", error) from error
    if not isinstance(content, dict) or "schema" not in content:
        raise ArtifactError(path, "not a checkpoint of stage 1", "stage1")
    if content["schema"] != SCHEMA:
        raise ArtifactError(
            path, f"checkpoint of schema {content['schema']}, expected {SCHEMA}", "stage1"
        )
    if missing := [key for key in (*KEYS, *(RESUME_KEYS if resume else ())) if key not in content]:
        raise ArtifactError(path, f"has no {missing[0]}", "stage1")
    return content
