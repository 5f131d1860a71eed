"""Damage of a source's files. What one product lacks costs that product, with exit code 0; what
ends a file may cost any number of products that nobody can count, so it is the user who says
whether to go on without them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from catalog.errors import DamagedSourceError, ShelfsortError
from catalog.files import open_file
from catalog.filetypes import HEAD, file_type
from catalog.sources.dump_index import Reject

ENDS_FILE = ("truncated", "bad_length", "unreadable")
"""Reasons of rejects after which nothing of their file can be read."""


def require_whole(
    source: str | Path, products: int, rejects: Sequence[Reject], accept_damage: bool
) -> None:
    """Raises DamagedSourceError if a file of a source is damaged, unless that is accepted, and
    ShelfsortError if the source has no readable product at all.

    `source`: its first path; `products`: how many can be read; `rejects`: those of the scan.
    """
    faults = [reject for reject in rejects if reject.reason in ENDS_FILE and reject.position < 0]
    if not products:
        raise ShelfsortError(_nothing(source, rejects, faults))
    if faults and not accept_damage:
        more = f"; {len(faults) - 1} more files are damaged" if len(faults) > 1 else ""
        raise DamagedSourceError(
            f"{_sentence(faults[0])}{more}; {products} products can be read, "
            "nobody knows how many cannot; get the whole file"
        )


def reason_counts(reasons: Iterable[str]) -> str:
    """Reasons with their counts, the commonest first, for a summary.

    >>> reason_counts(["blank", "corrupt", "blank"])
    'blank 2, corrupt 1'
    """
    return ", ".join(f"{reason} {count}" for reason, count in Counter(reasons).most_common())


def _nothing(source: str | Path, rejects: Sequence[Reject], faults: Sequence[Reject]) -> str:
    if not rejects:
        return f"{source}: expected at least one product, found none; the source is empty"
    first = faults[0] if faults else rejects[0]
    counts = reason_counts(reject.reason for reject in rejects)
    return f"{_sentence(first)}; no product can be read ({counts})"


def _sentence(reject: Reject) -> str:
    """What is wrong with a file, and what it is if not a dump."""
    type_name = file_type(_head(reject.source)) if not reject.offset else None
    is_a = f"; the file is {type_name}" if type_name else ""
    return f"{reject.source}: at byte {reject.offset}: {reject.detail}{is_a}"


def _head(path: str) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(HEAD)
    except (ShelfsortError, OSError, EOFError):
        return b""
