"""The words in photos as a view: read once per picture, kept beside features.h5, made into vectors.

On disk: words/READER/00000.json and so on, each with the texts of up to BLOCK pictures by the
digest of their bytes, sealed and written atomically. A killed extraction continues after the last
of them, a store that has grown has its new pictures read, and a damaged file is read again from its
pictures.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from catalog.artifacts import read_sealed, write_sealed
from catalog.config import MOST_PIXELS
from catalog.errors import ArtifactError, ImageError
from catalog.images import decode
from catalog.progress import progress
from catalog.store.reader import Store
from features.ocr import TextReader
from features.text import TextModel
from stage1_cnn.head import Head

SCHEMA = 1
BLOCK = 256
"""Pictures per file: about 15 seconds on one core, the most that a kill can lose."""
_REMEMBERED = 100_000
"""Pictures of a dump to be scored whose texts are kept in memory, in case they occur again."""

_log = logging.getLogger(__name__)


class PictureTexts(Mapping[str, str]):
    """The texts of the pictures that a reader has read, by digest (hexadecimal), from the files of
    a view's folder.

        texts = PictureTexts(folder, reader.name)
        texts.add({"0f1e...": "The Garden Cook"})
    """

    def __init__(self, folder: Path, reader: str) -> None:
        self.folder = folder / "words" / reader
        self._texts: dict[str, str] = {}
        self._files = 0
        self._damaged: list[Path] = []
        for path in sorted(self.folder.glob("[0-9]*.json")):
            self._files = int(path.stem) + 1
            try:
                self._texts |= read_sealed(path, "features", SCHEMA)["texts"]
            except ArtifactError as error:
                _log.warning("%s; without it, its pictures are read again", error)
                self._damaged.append(path)

    def add(self, texts: Mapping[str, str]) -> None:
        """Writes the texts of further pictures, as a file of their own; removes damaged files."""
        while self._damaged:
            self._damaged.pop().unlink(missing_ok=True)
        path = self.folder / f"{self._files:05d}.json"
        write_sealed(path, {"schema": SCHEMA, "texts": dict(texts)})
        self._texts |= texts
        self._files += 1

    def __getitem__(self, digest: str) -> str:
        return self._texts[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def read_pictures(
    store: Store, reader: TextReader, texts: PictureTexts, jobs: int, block: int = BLOCK
) -> int:
    """Reads every usable picture of the store that `texts` lacks, in `jobs` threads, and adds it,
    `block` pictures to a file; returns how many it read."""
    image_id = store.images().image_id
    image_of = dict(zip(store.picture_digests(image_id), image_id.tolist(), strict=True))
    missing = [digest for digest in image_of if digest not in texts]

    def read(data: bytes) -> str:
        try:
            return reader(decode(data, MOST_PIXELS))
        except ImageError:  # in a store only if this decoder is another one than ingest's
            return ""

    with (
        ThreadPoolExecutor(jobs, "read") as pool,
        progress(len(image_of), "words", "picture", initial=len(image_of) - len(missing)) as bar,
    ):
        for start in range(0, len(missing), block):
            digests = missing[start : start + block]
            pictures = store.read([image_of[digest] for digest in digests])
            texts.add(dict(zip(digests, pool.map(read, pictures), strict=True)))
            bar.update(len(digests))
    return len(missing)


@dataclass(frozen=True)
class CoverModel:
    """A view of the words in photos, ready to answer: what reads them, what makes vectors of them,
    and the texts of pictures that were read in training."""

    text: TextModel
    reader: TextReader
    known: Mapping[str, str]
    _read: dict[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.text.width

    @property
    def head(self) -> Head:
        """The head on the vectors."""
        return self.text.head

    def features(self, photos: Sequence[np.ndarray], digests: Sequence[str]) -> np.ndarray:
        """Vectors float16 [B, D] of photos uint8 [H, W, 3], zero for one without known words. A
        picture whose digest was met before is not read again."""
        return self.text.features(list(map(self._text, photos, digests)))

    def _text(self, photo: np.ndarray, digest: str) -> str:
        text = self.known.get(digest, self._read.get(digest))
        if text is None:
            text = self.reader(photo)
            if len(self._read) < _REMEMBERED:
                self._read[digest] = text
        return text
