"""features.h5: what is written is read, also after kills; what is damaged or of something else is
refused."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from catalog.errors import ArtifactError
from catalog.splits import SPLITS
from features import schema
from features.store import FeatureStore
from features.writer import FeatureWriter
from tests.features.rows import CLASSES, COMPUTED_WITH, EMPTY, MADE_FROM, WIDTH, Made, make_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(made: Made, tmp_path: Path) -> Path:
    """A finished file."""
    path = tmp_path / "features.h5"
    made.write(path)
    return path


def content(path: Path) -> dict[str, np.ndarray | str | int]:
    """Every dataset and attribute."""
    found: dict = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
        return found | dict(file.attrs)


def assert_same(a: Path, b: Path) -> None:
    """Two files hold the same."""
    one, two = content(a), content(b)
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def test_what_is_written_is_read(made: Made, path: Path) -> None:
    store = FeatureStore(path)
    bad = np.array(list(made.errors))
    expected = made.features.copy()
    expected[bad] = 0
    np.testing.assert_array_equal(store.features(slice(0, len(store))), expected)
    assert store.features(slice(0, 1)).dtype == np.float16
    assert set(np.flatnonzero(store.status == schema.UNREADABLE)) == set(bad)
    assert (np.delete(store.status, bad) == schema.DONE).all()
    assert store.errors == {
        int(made.table.image_id[row]): reason for row, reason in made.errors.items()
    }
    for name in ("image_id", "product_id", "class_index", "split", "fit"):
        np.testing.assert_array_equal(getattr(store.table, name), getattr(made.table, name))
    np.testing.assert_array_equal(store.head.weight, made.head.weight)
    np.testing.assert_array_equal(store.head.bias, made.head.bias)
    assert (store.width, store.made_from, store.computed_with) == (WIDTH, MADE_FROM, COMPUTED_WITH)
    assert not path.with_name("features.h5.partial").exists()


def test_a_class_and_a_split_are_one_slice_each(made: Made, path: Path) -> None:
    store, rows = FeatureStore(path), np.arange(len(made.table))
    for number, split in enumerate(SPLITS):
        np.testing.assert_array_equal(
            rows[store.of_split(split)], np.flatnonzero(made.table.split == number)
        )
        for c in range(CLASSES):
            mine = np.flatnonzero((made.table.split == number) & (made.table.class_index == c))
            np.testing.assert_array_equal(rows[store.of_class(split, c)], mine)
    assert len(rows[store.of_class(SPLITS[EMPTY[0]], EMPTY[1])]) == 0


def test_a_file_that_is_older_than_a_split_has_none_of_it(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        slices = file[schema.SLICES][:-1]
        del file[schema.SLICES]
        file[schema.SLICES] = slices
    store = FeatureStore(path)
    assert store.of_split(SPLITS[-1]) == slice(0, 0)
    assert store.of_class(SPLITS[-1], CLASSES - 1) == slice(0, 0)
    test = slice(int(slices[-1, 0, 0]), int(slices[-1, -1, 1]))
    assert store.of_split("test") == test and test.stop > test.start


def test_more_reasons_than_an_attribute_holds(tmp_path: Path) -> None:
    made = make_rows(2000)
    made.errors.update(dict.fromkeys(range(0, len(made.table), 3), "undecodable: " + "x" * 90))
    made.write(tmp_path / "features.h5", batch=500)
    assert len(FeatureStore(tmp_path / "features.h5").errors) == len(made.errors) > 1000


def test_no_image_at_all(tmp_path: Path) -> None:
    empty = Made(make_rows().table[:0], np.zeros((0, WIDTH), np.float16), {}, make_rows().head)
    empty.write(tmp_path / "features.h5")
    store = FeatureStore(tmp_path / "features.h5")
    assert len(store) == 0 and store.features(store.of_split("test")).shape == (0, WIDTH)


@pytest.mark.parametrize("stop", [1, 17, 200])
def test_an_unfinished_file_is_resumed(made: Made, path: Path, tmp_path: Path, stop: int) -> None:
    second = tmp_path / "second.h5"
    made.write(second, stop=stop)
    with pytest.raises(
        ArtifactError,
        match=r"second\.h5: no such file \(made by step features\)",
    ):
        len(FeatureStore(second))
    with FeatureWriter(second, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH) as writer:
        assert stop <= writer.cursor < stop + 16
    made.write(second)
    assert_same(path, second)


def test_another_device_goes_on_with_a_warning(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "features.h5"
    made.write(path, stop=50)
    with FeatureWriter(path, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH):
        assert not caplog.text
    with FeatureWriter(
        path, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH | {"device": "NVIDIA H100"}
    ) as writer:
        assert writer.cursor >= 50
    assert (
        f"device was {COMPUTED_WITH['device']!r}, is now 'NVIDIA H100'; features then differ"
        in caplog.text
    )


def test_what_is_of_something_else_is_begun_anew(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    made.write(path, stop=50)
    with FeatureWriter(
        path, made.table, WIDTH, CLASSES, MADE_FROM | {"store": "s2"}, COMPUTED_WITH
    ) as writer:
        assert writer.cursor == 0


def test_a_reason_of_an_unfinished_batch_is_forgotten(
    made: Made, path: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.h5"
    made.write(second, stop=100)
    with h5py.File(
        f"{second}.partial", "r+"
    ) as file:  # as a kill leaves it between the reasons and the cursor
        for name, value in (
            (schema.ERROR_ID, made.table.image_id[-1]),
            (schema.ERROR_REASON, "never"),
        ):
            file[name].resize((len(file[name]) + 1,))
            file[name][-1] = value
    made.write(second)
    assert_same(path, second)


def test_a_long_reason_is_cut_between_two_characters(
    made: Made, path: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.h5"
    with FeatureWriter(long, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH) as writer:
        writer.write(made.features, {3: "x" + "\u00e9" * 300, 4: "short"})
        writer.finish(made.head)
    assert list(FeatureStore(long).errors.values()) == ["x" + "\u00e9" * 199, "short"]


_WRITER = """
import sys, time
from pathlib import Path
from features.writer import FeatureWriter
from tests.features.rows import *
made = make_rows()
shape = made.table, WIDTH, CLASSES
with FeatureWriter(Path(sys.argv[1]), *shape, MADE_FROM, COMPUTED_WITH) as writer:
    for row in range(writer.cursor, int(sys.argv[2])):
        errors = {0: made.errors[row]} if row in made.errors else {}
        writer.write(made.features[row : row + 1], errors)
        print(row, flush=True)
    time.sleep(1000)
"""


def test_killed_again_and_again(made: Made, path: Path, tmp_path: Path) -> None:
    second, rows, rng = tmp_path / "second.h5", 0, np.random.default_rng(1)
    for share in (0.3, 0.6, 0.9):  # of the rows; beyond that the writer waits to be killed
        command = [sys.executable, "-c", _WRITER, str(second), str(int(share * len(made.table)))]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        seen = [child.stdout.readline() for _ in range(rng.integers(1, 20))]
        assert int(seen[0]) in (rows, rows + 1)  # goes on where the last one was killed
        os.kill(child.pid, signal.SIGKILL)
        seen += child.stdout.read().split()
        child.wait()
        rows = int(seen[-1]) + 1
    assert 0 < rows < len(made.table)
    made.write(second)
    assert_same(path, second)


_FULL = """
import resource, sys
from pathlib import Path
from catalog.errors import ShelfsortError
from tests.features.rows import *
made, limit = make_rows(2000), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    made.write(Path(sys.argv[1]))
except ShelfsortError as error:
    print(error)
"""


def test_a_full_disk_says_so_before_the_first_batch(tmp_path: Path) -> None:
    """In the middle of one HDF5 would end the process with a segmentation fault, and leave a file
    that doesn't open."""
    path = tmp_path / "features.h5"
    command = [sys.executable, "-c", _FULL, str(path), "100000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith(f"{path}.partial: can't be written: ")
        and "File too large" in done.stdout
    )
    assert list(tmp_path.iterdir()) == []
    made = make_rows(2000)
    made.write(path)
    assert len(FeatureStore(path)) == len(made.table)


def test_it_asks_for_no_more_room_than_it_needs(tmp_path: Path) -> None:
    made, width = make_rows(2000), 4096
    with FeatureWriter(
        tmp_path / "features.h5", made.table, width, CLASSES, MADE_FROM, COMPUTED_WITH
    ) as writer:
        assert writer.partial.stat().st_size < 1.1 * len(made.table) * width * 2 + 2**21


def test_a_disk_that_fills_up_between_two_runs(tmp_path: Path) -> None:
    path, made = tmp_path / "features.h5", make_rows(2000)
    made.write(path, stop=300)
    size = path.with_name("features.h5.partial").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path), str(size + 1000)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "can't be written: " in done.stdout, done.stderr
    with FeatureWriter(path, made.table, WIDTH, CLASSES, MADE_FROM, COMPUTED_WITH) as writer:
        assert writer.cursor >= 300
    made.write(path)
    made.write(tmp_path / "whole.h5")
    assert_same(path, tmp_path / "whole.h5")


def chunk_offset(path: Path, name: str) -> int:
    """Position of the first stored bytes of a dataset in the file."""
    with h5py.File(path, "r") as file:
        return file[name].id.get_chunk_info(0).byte_offset


def flip(path: Path, offset: int) -> None:
    """Flips one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("features", lambda s: s.features(slice(0, 3))),
        ("class_index", lambda s: s.table),
        ("status", lambda s: s.status),
        ("slices", lambda s: s.of_split("test")),
        ("head/weight", lambda s: s.head),
        ("head/bias", lambda s: s.head),
    ],
)
def test_a_flipped_bit_is_found(path: Path, name: str, read) -> None:
    read(FeatureStore(path))
    flip(path, chunk_offset(path, name) + 9)
    with pytest.raises(
        ArtifactError, match=rf"features\.h5: {name} is damaged .* \(made by step features\)"
    ):
        read(FeatureStore(path))


def test_cut_and_emptied_files_are_refused(path: Path) -> None:
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"features\.h5: .*step features"):
            FeatureStore(path).features(slice(0, 3))


def test_other_schema_and_unfinished_are_refused(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 7
    with pytest.raises(ArtifactError, match="features of schema 7, expected 1"):
        len(FeatureStore(path))
    with h5py.File(path, "r+") as file:
        file.attrs.update(schema=1, complete=False)
    with pytest.raises(ArtifactError, match=r"features\.h5: unfinished"):
        len(FeatureStore(path))


def test_another_origin_is_refused_naming_both(path: Path) -> None:
    store = FeatureStore(path)
    store.require(MADE_FROM)
    with pytest.raises(ArtifactError, match=r"features\.h5: .*store was 's1', is now 's2'"):
        store.require(MADE_FROM | {"store": "s2"})
    with pytest.raises(ArtifactError, match=r"transform\.height was 32, is now 64"):
        store.require(MADE_FROM | {"transform": {"height": 64, "mean": [0.5]}})


def test_opens_anew_in_a_fork_and_in_a_pickle(path: Path) -> None:
    store = FeatureStore(path)
    expected = store.features(slice(3, 5)).tolist()
    copy = pickle.loads(pickle.dumps(store))
    assert copy._file is None and copy.features(slice(3, 5)).tolist() == expected
    parent = store.file
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for rows, mine in pool.map(_read_in_child, [(store, id(parent))] * 4):
            assert rows == expected and mine
    assert store.file is parent


def _read_in_child(task: tuple[FeatureStore, int]) -> tuple[list, bool]:
    store, parent = task
    return store.features(slice(3, 5)).tolist(), id(
        store.file
    ) != parent and store._pid == os.getpid()
