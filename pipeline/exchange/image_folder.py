"""A store's photos as other tools read them, and photos in folders as a dump.

ImageFolder (torchvision, timm): SPLIT/CLASS-ID/PRODUCT_POSITION.jpg, CLASS the class index in five
digits, ID the category's. WebDataset: SPLIT-000000.tar ..., each sample PRODUCT_POSITION of .jpg,
.cls (class index) and .json, shuffled. Either has category_names.csv. Bytes are as in the store.
Identical pictures appear once, in the split that has precedence; blank ones are left out.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import bson
import numpy as np

from catalog.artifacts import atomic_path, require_own
from catalog.errors import ShelfsortError
from catalog.image_table import POSITIONS, ImageTable
from catalog.progress import progress
from catalog.sources.photo_list import read_folder
from catalog.splits import SPLITS
from catalog.store.reader import Store
from catalog.taxonomy import Category, Taxonomy

NAMES = "category_names.csv"
_SUFFIX = {"JPEG": "jpg"}
_BLOCK = 500


class Photo(NamedTuple):
    """A photo of the store: its bytes, and what they show."""

    image_id: int
    class_index: int
    suffix: str
    data: bytes

    @property
    def key(self) -> str:
        """PRODUCT_POSITION"""
        return "{}_{}".format(*divmod(self.image_id, POSITIONS))


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


def _add(archive: tarfile.TarFile, photo: Photo, category_id: int) -> None:
    product, position = divmod(photo.image_id, POSITIONS)
    about = {"product_id": product, "position": position, "category_id": category_id}
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
                block.image_id.tolist(),
                block.class_index.tolist(),
                store.formats(block.image_id),
                store.read(block.image_id),
            )
            for image_id, class_index, name, data in zip(*columns, strict=True):
                yield Photo(image_id, class_index, _SUFFIX.get(name, name.lower()), data)
            bar.update(len(block))


def pack_tree(folder: Path, out: Path) -> tuple[int, int]:
    """An ImageFolder tree -> train.bson and category_names.csv in `out`; returns the numbers of
    products and photos.

    The folder of a photo is its category. Files whose names differ only in _1 .. _99 at the end are
    photos of one product; its id is that name if all names are numbers, else a hash of its path.
    Categories are those of the tree's category_names.csv, by the id at the end of the folder's
    name; without it they are numbered in the order of the names. Raises ShelfsortError if a photo
    lies in no folder, or a folder belongs to no category, or if `out` has files of these names.
    """
    require_own(out, [], ["train.bson", NAMES])
    source = read_folder(str(folder))
    names = source.names or tuple(map(str, source.product_id.tolist()))
    if loose := [name for name in names if "/" not in name]:
        raise ShelfsortError(
            f"{folder}: photo {loose[0]} lies in no folder, expected one folder per category: "
            f"CATEGORY/{loose[0]}"
        )
    folders = [name.rsplit("/", 2)[-2] for name in names]
    taxonomy, id_of = _categories(folder, folders)
    ids = _ids([name.rsplit("/", 1)[-1] for name in names], source.product_id)
    photos = 0
    with atomic_path(out / "train.bson") as temporary, open(temporary, "wb") as file:
        for row, name in enumerate(folders):
            pictures = [{"picture": data} for data in source.read(row) if isinstance(data, bytes)]
            photos += len(pictures)
            file.write(
                bson.encode({"_id": int(ids[row]), "category_id": id_of[name], "imgs": pictures})
            )
    taxonomy.to_csv(out / NAMES)
    return len(names), photos


def _categories(folder: Path, folders: Sequence[str]) -> tuple[Taxonomy, dict[str, int]]:
    """The categories, and the id of each folder's name."""
    found = sorted(set(folders))
    if not (folder / NAMES).exists():
        numbers = {name: number for number, name in enumerate(found, 1)}
        return Taxonomy(Category(number, "", "", name) for name, number in numbers.items()), numbers
    taxonomy = Taxonomy.from_csv(folder / NAMES)
    known = {str(category_id): int(category_id) for category_id in taxonomy.category_ids}
    if bad := [name for name in found if name.rpartition("-")[2] not in known]:
        raise ShelfsortError(f"{folder}: folder {bad[0]} does not end in a category id of {NAMES}")
    return taxonomy, {name: known[name.rpartition("-")[2]] for name in found}


def _ids(names: Sequence[str], otherwise: np.ndarray) -> Sequence[int]:
    plain = all(name.isascii() and name.isdecimal() and len(name) < 15 for name in names)
    return (
        list(map(int, names))
        if plain and len(set(map(int, names))) == len(names)
        else otherwise.tolist()
    )
