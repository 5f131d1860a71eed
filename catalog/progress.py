"""The progress bar of every long step: rate and ETA on a terminal, silent elsewhere."""

import sys

from tqdm import tqdm


def progress(total: int | None, description: str, unit: str, *, initial: int = 0) -> tqdm:
    """A bar that counts `total` units: use as a context manager, call `.update(n)`. Drawn only if
    stderr is a terminal."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=0.5,
        disable=not sys.stderr.isatty(),
        file=sys.stderr,
    )
