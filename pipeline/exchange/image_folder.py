"""A store's photos as other tools read them.

ImageFolder (torchvision, timm): SPLIT/CLASS-ID/PRODUCT_POSITION.jpg, CLASS the class index in five
digits, ID the category's. WebDataset: SPLIT-000000.tar ..., each sample PRODUCT_POSITION of .jpg,
.cls (class index) and .json, shuffled. BSON: SPLIT.bson, a document
per product. Each has category_names.csv. Products have the shop's own keys, in names of files with
%XX for what a name can't have; bytes are as in the store.
Identical pictures appear once, in the split that has precedence; blank ones are left out.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import bson
import numpy as np

from catalog.errors import ShelfsortError
from catalog.image_table import POSITIONS, ImageTable
from catalog.progress import progress
from catalog.sources.keys import Key
from catalog.splits import EXTRA, SPLITS
from catalog.store.reader import Store

NAMES = "category_names.csv"
_SUFFIX = {"JPEG": "jpg"}
_BLOCK = 500


class Photo(NamedTuple):
    """A photo of the store: its bytes, and what they show."""

    product: Key
    position: int
    class_index: int
    suffix: str
    data: bytes

    @property
    def key(self) -> str:
        """PRODUCT_POSITION"""
        return f"{quote(str(self.product), safe=' ')}_{self.position}"


def write_tree(store: Store, out: Path) -> dict[str, int]:
    """Writes an ImageFolder tree into the new folder `out`; returns the photos per split. Raises
    ShelfsortError if `out` exists."""

    def write(folder: Path, split: str, photos: Iterator[Photo]) -> None:
        for photo in photos:
            category = folder / split / f"{photo.class_index:05d}-{ids[photo.class_index]}"
            category.mkdir(parents=True, exist_ok=True)
            (category / f"{photo.key}.{photo.suffix}").write_bytes(photo.data)

    ids = store.taxonomy.category_ids
    return _written(store, out, write, shuffled=False)


def write_shards(store: Store, out: Path, size: int = 10_000) -> dict[str, int]:
    """Writes WebDataset shards of `size` photos into the new folder `out`; returns the photos per
    split. Raises as write_tree."""

    def write(folder: Path, split: str, photos: Iterator[Photo]) -> None:
        for shard, members in enumerate(iter(lambda: list(islice(photos, size)), [])):
            with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w") as archive:
                for photo in members:
                    _add(archive, photo, int(ids[photo.class_index]))

    ids = store.taxonomy.category_ids
    return _written(store, out, write, shuffled=True)


def write_bson(store: Store, out: Path) -> dict[str, int]:
    """Writes a BSON dump per split into the new folder `out`; returns the photos per split. Raises
    as write_tree."""

    def write(folder: Path, split: str, photos: Iterator[Photo]) -> None:
        with open(folder / f"{split}.bson", "wb") as file:
            for key, images in groupby(photos, key=lambda photo: photo.product):
                own = list(images)
                category_id = int(ids[own[0].class_index])
                pictures = [{"picture": photo.data} for photo in own]
                file.write(bson.encode({"_id": key, "category_id": category_id, "imgs": pictures}))

    ids = store.taxonomy.category_ids
    return _written(store, out, write, shuffled=False)


def _add(archive: tarfile.TarFile, photo: Photo, category_id: int) -> None:
    about = {
        "product_id": photo.product,
        "position": photo.position,
        "category_id": category_id,
    }
    files = {
        photo.suffix: photo.data,
        "cls": str(photo.class_index).encode(),
        "json": json.dumps(about).encode(),
    }
    for suffix, data in files.items():
        member = tarfile.TarInfo(f"{photo.key}.{suffix}")
        member.size = len(data)  # no time, no owner: the same store gives the same bytes
        archive.addfile(member, io.BytesIO(data))


def _written(
    store: Store, out: Path, write: Callable[[Path, str, Iterator[Photo]], None], *, shuffled: bool
) -> dict[str, int]:
    """Fills a folder beside `out`, which becomes `out` when it is complete."""
    if out.exists():
        raise ShelfsortError(f"{out}: exists, expected the name of a new folder")
    partial, counts = out.with_name(f".{out.name}.partial"), {}
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        store.taxonomy.to_csv(partial / NAMES)
        for split in SPLITS:
            table = store.images(split)
            table = table[table.fit]
            if split == EXTRA and not len(table):
                continue
            if shuffled:
                table = table[np.random.default_rng(0).permutation(len(table))]
            counts[split] = len(table)
            write(partial, split, _photos(store, table, split))
        partial.rename(out)
    except OSError as error:
        raise ShelfsortError(f"{out}: can't be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _photos(store: Store, table: ImageTable, split: str) -> Iterator[Photo]:
    with progress(len(table), split, "img") as bar:
        for start in range(0, len(table), _BLOCK):
            block = table[start : start + _BLOCK]
            columns = (
                store.keys(block.product_id),
                (block.image_id % POSITIONS).tolist(),
                block.class_index.tolist(),
                store.formats(block.image_id),
                store.read(block.image_id),
            )
            for key, position, class_index, name, data in zip(*columns, strict=True):
                yield Photo(key, position, class_index, _SUFFIX.get(name, name.lower()), data)
            bar.update(len(block))
