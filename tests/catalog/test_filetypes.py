"""What a file is, from its first bytes: of real files, as far as a library here writes them."""

import gzip
import io
import tarfile
import zipfile

import pandas
import pytest
from PIL import Image

from catalog.filetypes import HEAD, file_type
from tests.conftest import jpeg


def image(name: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, name)
    return out.getvalue()


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("1.jpg", jpeg(1))
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        file.addfile(tarfile.TarInfo("1.jpg"))
    return out.getvalue()


def parquet() -> bytes:
    return pandas.DataFrame({"a": [1]}).to_parquet()


@pytest.mark.parametrize(
    "data, expected",
    [
        (jpeg(1), "a JPEG"),
        (image("PNG"), "a PNG"),
        (image("WEBP"), "a WebP"),
        (image("AVIF"), "AVIF"),
        (image("TIFF"), "a TIFF"),
        (archive(), "a zip archive or an Excel file"),
        (tar(), "a tar archive"),
        (gzip.compress(b"x", mtime=0), "gzip data"),
        (parquet(), "a Parquet file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
        (b"\n <!DOCTYPE html><title>Sign in", "an HTML page"),
        (b"\xef\xbb\xbf[{'_id': 1}]", "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
    ],
)
def test_a_file_is_named_for_what_it_is(data: bytes, expected: str) -> None:
    assert (file_type(data[:HEAD]) or "").startswith(expected)


def test_nothing_is_said_of_other_bytes() -> None:
    assert file_type(b"") is None and file_type(bytes(range(255, -1, -1)) * 2) is None
