"""Idioms of numpy against their plain Python, and npz files whole or refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.arrays import (
    PackedTexts,
    find_rows,
    group_starts,
    mix64,
    read_npz,
    splitmix64,
    starts_group,
    write_npz,
)
from catalog.errors import ArtifactError

IDS = st.lists(st.integers(0, 2**62), unique=True, max_size=30)


@given(ids=IDS, others=IDS, shuffled=st.booleans())
def test_rows_are_found_as_in_a_dictionary(
    ids: list[int], others: list[int], shuffled: bool
) -> None:
    array = np.array(ids if shuffled else sorted(ids), dtype=np.int64)
    row_of = {int(i): row for row, i in enumerate(array)}
    wanted = np.array(ids + others, dtype=np.int64)
    rows = find_rows(array, wanted, np.argsort(array) if shuffled else None)
    assert rows.dtype == np.int64
    assert rows.tolist() == [row_of.get(int(i), -1) for i in wanted]


@given(keys=st.lists(st.integers(0, 3), max_size=30))
def test_groups_start_where_the_key_changes(keys: list[int]) -> None:
    expected = [row for row in range(len(keys)) if row == 0 or keys[row] != keys[row - 1]]
    array = np.array(keys, dtype=np.int32)
    assert group_starts(array).tolist() == expected
    assert starts_group(array).dtype == bool
    assert np.flatnonzero(starts_group(array)).tolist() == expected


def test_splitmix64_gives_the_published_sequence() -> None:
    """Of seed 1234567, as in the reference implementation (prng.di.unimi.it/splitmix64.c)."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + k * golden) % 2**64 for k in range(3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(states).tolist() == expected
    assert mix64(np.zeros(1, dtype=np.uint64)).tolist() == [0]


def test_an_npz_round_trip(tmp_path: Path) -> None:
    arrays = {"a": np.arange(5, dtype=np.int16), "b": np.zeros((0, 3)), "text": np.array("é")}
    write_npz(tmp_path / "folder" / "a.npz", **arrays)
    found = read_npz(tmp_path / "folder" / "a.npz", "features")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_a_missing_or_damaged_npz_names_file_and_step(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ArtifactError, match=r"a\.npz: no such file .*step features"):
        read_npz(path, "features")
    write_npz(path, a=np.arange(100))
    whole = path.read_bytes()
    flipped = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
    for data in (b"", b"garbage", bytes(len(whole)), whole[:100], whole[:-10], flipped):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"a\.npz: not readable as an npz"):
            read_npz(path, "features")


def test_an_npz_of_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ArtifactError, match="not readable as an npz"):
        read_npz(tmp_path / "a.npz", "features")


def test_packed_texts() -> None:
    texts = ["a", "", "Ä > ß", "\udce9", "x" * 300]
    packed = PackedTexts.of(texts)
    assert len(packed) == 5 and list(packed) == texts and [packed[i] for i in range(5)] == texts
    assert list(packed.slice(1, 4)) == texts[1:4] and packed.slice(1, 4)[2] == texts[3]
    assert len(packed.slice(1, 4).data) < len(packed.data)
    assert list(packed.slice(0, 0)) == [] == list(PackedTexts.of([]))
    assert list(packed.take(np.array([4, 0, 4]))) == [texts[4], "a", texts[4]]
    arrays = packed.arrays("name")
    assert list(PackedTexts.from_arrays("name", arrays)) == texts
    with pytest.raises(ValueError, match="end elsewhere"):
        PackedTexts.from_arrays("name", arrays | {"name": arrays["name"][:-1]})
    with pytest.raises(KeyError):
        PackedTexts.from_arrays("other", arrays)
