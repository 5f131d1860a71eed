"""Reads a store's pictures four to a file, and is killed at one of them.

python -m tests.features.read_words STORE FOLDER LOG NUMBER
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from catalog.store.reader import Store
from features.cover import PictureTexts, read_here, read_pictures


class DeadlyReader:
    """Says the mean of a photo; every photo leaves a byte in the log, and the one of that number
    ends the process."""

    name, kind = "deadly-1", "deadly"

    def __init__(self, log: Path, number: int) -> None:
        self.log, self.number = log, number

    def __call__(self, photo: np.ndarray) -> str:
        """The mean of its pixels."""
        with open(self.log, "ab") as file:
            file.write(b".")
        if self.log.stat().st_size == self.number:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"mean {photo.mean():.6f}"


if __name__ == "__main__":
    store, folder, log, number = sys.argv[1:]
    reader = DeadlyReader(Path(log), int(number))
    pictures, texts = Store(Path(store)), PictureTexts(Path(folder), reader.name)
    read_pictures(pictures, texts, read_here(pictures, reader, 1), block=4)
