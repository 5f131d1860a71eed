"""The words in photos as a view: read once per picture, kept beside features.h5, made into vectors.

On disk: words/READER/00000.json and so on, each with the texts of up to BLOCK pictures by the
digest of their bytes, sealed and written atomically. A killed extraction continues after the last
of them, a store that has grown has its new pictures read, and a damaged file is read again from its
pictures.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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


ReadBlocks = Callable[[Iterator[list[int]]], Iterable[list[str]]]
"""The texts of pictures, given the ids of images block by block, in the same order."""


def read_pictures(
    store: Store, texts: PictureTexts, read_blocks: ReadBlocks, block: int = BLOCK
) -> int:
    """Has every usable picture of the store that `texts` lacks read by `read_blocks`, and adds it,
    `block` pictures to a file; returns how many these were."""
    image_id = store.images().image_id
    image_of = dict(zip(store.picture_digests(image_id), image_id.tolist(), strict=True))
    missing = [digest for digest in image_of if digest not in texts]
    blocks = [missing[start : start + block] for start in range(0, len(missing), block)]
    ids = ([image_of[digest] for digest in digests] for digests in blocks)
    known = len(image_of) - len(missing)
    with progress(len(image_of), "words", "picture", initial=known) as bar:
        for digests, words in zip(blocks, read_blocks(ids), strict=True):
            texts.add(dict(zip(digests, words, strict=True)))
            bar.update(len(digests))
    return len(missing)


def read_here(store: Store, reader: TextReader, jobs: int) -> ReadBlocks:
    """Reads pictures of a store in `jobs` threads of this process."""

    def read_blocks(blocks: Iterator[list[int]]) -> Iterator[list[str]]:
        with ThreadPoolExecutor(jobs, "read") as pool:
            for ids in blocks:
                yield list(pool.map(partial(text_in, reader), store.read(ids)))

    return read_blocks


def text_in(reader: TextReader, picture: bytes) -> str:
    """The words in a picture of the store."""
    try:
        return reader(decode(picture, MOST_PIXELS))
    except ImageError:  # in a store only if this decoder is another one than ingest's
        return ""


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
