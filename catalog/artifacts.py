"""Files that are either complete or absent: atomic writes, fingerprints, and manifests."""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from catalog.errors import ArtifactError, ShelfsortError

_HASH = re.compile("[0-9a-f]{16,64}")
_DIGITS = 12
"""Digits of a hash that messages show: enough to tell two apart."""


_REFUSED = {
    errno.EAGAIN: "another program, such as a notebook, has it open; close it there",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "its disk fails"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "too many files are open"),
    errno.EBUSY: "it is in use",
}
"""Errors of opening a file that say nothing about its content."""


def unreadable(path: str | Path, problem: str, step: str, error: Exception) -> ShelfsortError:
    """The error to raise if an artefact can't be read: ArtifactError with this `problem`, whose
    remedy is to rebuild the file; but ShelfsortError if the system refused to open it, because it
    may be whole and must not be replaced.

        except (ValueError, OSError) as error:
            raise unreadable(path, f"not readable as JSON ({error})", "stage2", error) from error
    """
    if not isinstance(error, OSError) or error.errno not in _REFUSED:
        return ArtifactError(path, problem, step)
    return ShelfsortError(f"{path}: can't be opened: {_REFUSED[error.errno]} ({error.strerror})")


@contextlib.contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Turns an OSError inside (disk full, no permission) into a ShelfsortError that names
    `target`."""
    try:
        yield
    except OSError as error:
        raise ShelfsortError(f"{target}: can't be written: {error}") from error


def require_own(folder: Path, marks: Sequence[str], names: Sequence[str]) -> None:
    """Raises ShelfsortError if a folder holds files that a command would overwrite (patterns
    `names`), but none of the `marks` that the command leaves in folders of its own."""
    if any((folder / mark).exists() for mark in marks):
        return
    if foreign := sorted(path for name in names for path in folder.glob(name)):
        raise ShelfsortError(
            f"{foreign[0]}: exists, and was not made by this command, which would overwrite it; "
            "move it, or name another folder"
        )


def reserve(file: IO[bytes], size: int, start: int = 0) -> None:
    """Allocates disk space for an open file up to `size` bytes, if the system can. A full disk then
    raises OSError here; writing to a memory-mapped page would kill the process instead."""
    if size > start and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size - start)


@contextlib.contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `target`. If the block succeeds, the file is synced and
    renamed to `target`; otherwise it is removed.

    Raises ShelfsortError, naming `target`, if it can't be written (disk full, no permission).

        with atomic_path(folder / "report.csv") as temporary:
            table.to_csv(temporary)
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, target: Path) -> None:
    """Syncs `temporary` to disk, renames it to `target` and syncs the folder: a crash leaves the
    old file or the new one, never a torn one."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(target: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN is refused: JSON has none."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path, step: str) -> Any:
    """Reads a JSON artefact. Raises ArtifactError, naming its `step`, if it is missing or
    damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(path, "no such file", step) from None
    except (ValueError, OSError) as error:
        raise unreadable(path, f"not readable as JSON ({error})", step, error) from error


def write_sealed(target: str | Path, value: Mapping[str, Any]) -> None:
    """Writes a dictionary as JSON with a `fingerprint` of its content, so that a flipped bit is
    noticed."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(target, plain | {"fingerprint": fingerprint(plain)})


def read_sealed(path: str | Path, step: str, schema: int | None = None) -> dict[str, Any]:
    """Inverse of write_sealed. Raises ArtifactError, naming its `step`, if the file is
    missing, damaged, or of another `schema` than expected."""
    value = read_json(path, step)
    sealed = value.pop("fingerprint", None) if isinstance(value, dict) else None
    if schema is not None and isinstance(value, dict) and value.get("schema") != schema:
        raise ArtifactError(path, f"of schema {value.get('schema')}, expected {schema}", step)
    if sealed is None:
        raise ArtifactError(
            path, "has no fingerprint; it is damaged, or of an earlier version", step
        )
    if sealed != fingerprint(value):
        raise ArtifactError(
            path, "its content doesn't match its fingerprint; the file is damaged", step
        )
    return value


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits of the sha256 of `value` as canonical JSON."""
    canonical = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """What differs between two `made_from` dictionaries: one phrase per key, nested keys joined by
    dots."""
    out = []
    for key in sorted({*expected, *found}):
        name, new, old = f"{prefix}{key}", expected.get(key), found.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            out += differences(new, old, f"{name}.")
        elif new != old:
            out.append(f"{name} was {_shortened(old)!r}, is now {_shortened(new)!r}")
    return out


def _shortened(value: Any) -> Any:
    return value[:_DIGITS] if isinstance(value, str) and _HASH.fullmatch(value) else value


def require_same(
    path: str | Path, expected: Mapping[str, Any], found: Mapping[str, Any], step: str
) -> None:
    """Raises ArtifactError, naming its `step` and listing what differs, unless an artefact was made
    from what is expected."""
    if changes := differences(expected, found):
        raise ArtifactError(path, f"made from something else: {'; '.join(changes)}", step)
