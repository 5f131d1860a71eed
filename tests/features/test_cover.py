"""The words in photos: each picture is read once, whatever ends the reading, and becomes a
vector."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catalog.images import decode
from catalog.store.reader import Store
from features.cover import CoverModel, PictureTexts, ReadBlocks, read_here, read_pictures
from features.text import TextModel
from tests.features.planted_reader import PlantedReader, key


def planted(store: Store) -> PlantedReader:
    """Knows words of every second picture of a store."""
    pictures = store.read(store.images().image_id)
    return PlantedReader({key(data): f"word {key(data)[:4]}" for data in pictures[::2]})


def here(store: Store, reader: PlantedReader) -> ReadBlocks:
    """Reads in two threads of this process."""
    return read_here(store, reader, 2)


def test_every_picture_is_read_once_and_found_by_its_digest(
    small_store: Store, tmp_path: Path
) -> None:
    reader, image_id = planted(small_store), small_store.images().image_id
    digests = small_store.picture_digests(image_id)
    texts = PictureTexts(tmp_path, reader.name)
    assert len(set(digests)) < len(digests)  # the dump has copies
    assert read_pictures(small_store, texts, here(small_store, reader), block=16) == reader.read
    assert reader.read == len(set(digests)) == len(texts)
    assert len(list(tmp_path.glob("words/planted-1/*.json"))) == -(-reader.read // 16)
    again = PictureTexts(tmp_path, reader.name)
    expected = [reader.words.get(key(data), "") for data in small_store.read(image_id)]
    assert [again[digest] for digest in digests] == expected
    assert any(expected) and not all(expected)
    assert read_pictures(small_store, again, here(small_store, reader)) == 0


def test_of_a_store_that_has_grown_the_new_pictures_are_read(
    small_store: Store, tmp_path: Path
) -> None:
    reader = planted(small_store)
    digests = set(small_store.picture_digests(small_store.images().image_id))
    texts = PictureTexts(tmp_path, reader.name)
    texts.add(dict.fromkeys(sorted(digests)[5:], "from before"))
    assert read_pictures(small_store, texts, here(small_store, reader)) == 5
    found = PictureTexts(tmp_path, reader.name)
    assert set(found) == digests and list(found.values()).count("from before") == len(digests) - 5


def test_another_reader_reads_for_itself(small_store: Store, tmp_path: Path) -> None:
    PictureTexts(tmp_path, "planted-0").add({"00": "other"})
    assert len(PictureTexts(tmp_path, "planted-1")) == 0


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_a_damaged_file_is_read_again(
    small_store: Store, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader = planted(small_store)
    texts = PictureTexts(tmp_path, reader.name)
    read_pictures(small_store, texts, here(small_store, reader), block=16)
    whole, path = dict(texts), sorted(texts.folder.iterdir())[1]
    content = path.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
    path.write_bytes(flipped if damage == "bit" else content[:200])
    found = PictureTexts(tmp_path, reader.name)
    assert len(found) == len(whole) - 16
    assert f"{path}: " in caplog.text and "its pictures are read again" in caplog.text
    assert read_pictures(small_store, found, here(small_store, reader), block=16) == 16
    caplog.clear()
    assert dict(PictureTexts(tmp_path, reader.name)) == whole and not caplog.text


def test_killed_again_and_again_it_goes_on(small_store: Store, tmp_path: Path) -> None:
    """A kill costs the pictures since the last file, at most, and no other is read twice."""
    pictures = len(set(small_store.picture_digests(small_store.images().image_id)))
    log = tmp_path / "log"

    def read(folder: str, number: int) -> int:
        arguments = [small_store.path, tmp_path / folder, log, number]
        command = [sys.executable, "-m", "tests.features.read_words", *map(str, arguments)]
        return subprocess.run(command, timeout=240).returncode

    for number in (3, 30, 71):
        assert read("killed", number) == -signal.SIGKILL
    assert read("killed", 0) == 0
    assert pictures < log.stat().st_size <= pictures + 3 * 4
    assert read("alone", 0) == 0
    killed, alone = (PictureTexts(tmp_path / name, "deadly-1") for name in ("killed", "alone"))
    assert dict(killed) == dict(alone) and len(alone) == pictures


def test_a_picture_to_be_scored_is_read_unless_its_words_are_known(small_store: Store) -> None:
    pictures = small_store.read(small_store.images().image_id[:6])
    photos = [decode(data) for data in pictures]
    reader = PlantedReader({key(data): "red cup" for data in pictures[:3]})
    words = ["red cup", "blue cup"] * 20
    text = TextModel.fit(words, np.arange(40) % 2, 2, 4, seed=0, characters=True)
    model = CoverModel(text, reader, {"0": "blue cup"})
    features = model.features(photos[:2] + photos[4:], ["0", "1", "4", "5"])
    np.testing.assert_array_equal(features, text.features(["blue cup", "red cup", "", ""]))
    assert reader.read == 3 and model.width == 4
    np.testing.assert_array_equal(model.features(photos[4:5], ["4"]), features[2:3])
    assert reader.read == 3
