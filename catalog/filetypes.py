"""What a file is, told from its first bytes, so that an error about an unreadable one can say
so."""

_TEXT = (
    (b"<!doctype html", "an HTML page, perhaps of a login or an error"),
    (b"<html", "an HTML page, perhaps of a login or an error"),
    (b"<?xml", "XML"),
    (b"<svg", "an SVG drawing"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; fetch it with git lfs pull"),
    (b"data:image/", "a data URL as text"),
    (b"/9j/", "a JPEG in base64"),
    (b"ivborw0kggo", "a PNG in base64"),
    (b"http://", "a URL as text"),
    (b"https://", "a URL as text"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)
_SIGNATURES = (
    (b"\xff\xd8\xff", "a JPEG"),
    (b"\x89PNG\r\n", "a PNG"),
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF, or a camera's raw photo"),
    (b"MM\0*", "a TIFF, or a camera's raw photo"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive or an Excel file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x1f\x8b", "gzip data; end its name in .gz"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"BZh", "bzip2 data"),
    (b"\x6d\xe2\x99\x81", "an archive of mongodump"),
    (b"PAR1", "a Parquet file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite file"),
    (b"\x93NUMPY", "a NumPy array"),
)
_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"mif1": "HEIC or AVIF",
    b"msf1": "HEIC or AVIF",
    b"avif": "AVIF",
    b"avis": "AVIF",
}
"""Major brands of ISO base media files."""
HEAD = 512
"""Bytes that `file_type` needs at most."""


def file_type(head: bytes) -> str | None:
    """What the first bytes of a file say it is; None if they say nothing.

    >>> kind(b"<!DOCTYPE html><title>Sign in")
    'an HTML page, perhaps of a login or an error'
    """
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video")
    if head[:4] == b"RIFF":
        return "a WebP" if head[8:12] == b"WEBP" else "a RIFF file"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((name for start, name in _TEXT if text.startswith(start)), None)
