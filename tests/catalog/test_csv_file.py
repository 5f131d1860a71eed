"""The reader of users' CSV files: what it takes, and that every fault names file and line; the
commands that read one of the five kinds refuse it alike."""

from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.csv_file import CsvFile, whole_number
from catalog.errors import ShelfsortError
from catalog.labels import read_labels
from catalog.landmarks import read_landmarks
from catalog.taxonomy import Taxonomy

COLUMNS = [("_id", "id"), "name"]


def read(folder: Path, text: str | bytes) -> list[list[str]]:
    path = folder / "f.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(CsvFile(path).rows(COLUMNS))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_line_ends_and_quotes(tmp_path: Path, separator: str, end: str) -> None:
    lines = [["name", "remark", "id"], ['"A, B; ""C"""', "", "1"], [], [" Ü ", '5" x', " 2 "]]
    text = end.join(separator.join(line) for line in lines)
    for mark in ("", "\ufeff"):
        expected = [["1", 'A, B; "C"'], ["2", "Ü"]]
        assert read(tmp_path, mark + text) == read(tmp_path, mark + text + end * 2) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "line 1: column _id or id is missing"),
        ("id,title\n", "line 1: column name is missing; expected _id or id, name, found id, title"),
        ("id,name,name\n1,a,b\n", "line 1: column name occurs twice"),
        ("id,name\n1,a\n2,b,c\n", "line 3: found 3 fields, expected 2"),
        ("id;name\n1;a;b\n", "line 2: found 3 fields, .* a field with a semicolon in it"),
        ("id,name\n1,a\n2\n", "line 3: found 1 fields, expected 2"),
        ('id,name\n1,a\n2,"b\n3,c\n4,d\n', "line 3: .*is a double quote not closed"),
        ('id,name\n1,"a\n2,b"\n3,c\n', "line 2: .*is a double quote not closed"),
        ('id,name\n1,"a\n2,"b"\n', "line 2: .*is a double quote not closed"),
        ("id,name\n1,a\n".encode("utf-16"), "the file is UTF-16 or no text"),
        ("id,name\n1,a\n".encode("utf-16-le"), "the file is UTF-16 or no text"),
        (b"id,name\n1,a\n2,caf\xe9\n", "line 3: byte 0xe9 is not UTF-8; .*Latin-1"),
        (b"PK\x03\x04\0\0\0\0", "the file is a zip archive or an Excel file"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    with pytest.raises(ShelfsortError, match=rf"f\.csv: {expected}"):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.csv"):
        with pytest.raises(ShelfsortError, match=f"{path}: can't be read"):
            list(CsvFile(path).rows(COLUMNS))


@pytest.mark.parametrize("text", ["", "1.0", "4.00638E+12", "-1", "1_000", "٣", "9" * 5000, "11"])
def test_what_is_no_whole_number_up_to_10_is_refused(text: str) -> None:
    assert whole_number("010", 10) == 10
    with pytest.raises(ValueError, match=r"expected an integer|is not from 0 to 10") as caught:
        whole_number(text, 10)
    assert ("a spreadsheet has rounded it" in str(caught.value)) == ("E+" in text)


@pytest.mark.parametrize("reader", [Taxonomy.from_csv, read_labels, read_landmarks])
def test_every_reader_refuses_an_unclosed_quote(
    tmp_path: Path, reader: Callable[[Path], object]
) -> None:
    (tmp_path / "f.csv").write_text('a,b\n1,"2\n3,4\n')
    with pytest.raises(ShelfsortError, match=r"f\.csv: line "):
        reader(tmp_path / "f.csv")
