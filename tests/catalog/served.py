"""A folder behind http on this machine, which can serve parts of a file as a real server does."""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Ranges(SimpleHTTPRequestHandler):
    """Knows the header Range, which the standard library's handler does not; answers the paths in
    `faults` with their status."""

    def __init__(self, *arguments: Any, faults: Mapping[str, int], **options: Any) -> None:
        self.faults = faults
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        if fault := self.faults.get(self.path):
            self.send_error(fault)
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not found or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path, faults: Mapping[str, int] | None = None) -> Iterator[str]:
    """The URL of a folder, for the time of the block; `faults` are the paths (/1.jpg) that only get
    a status."""
    handler = partial(_Ranges, directory=str(folder), faults={} if faults is None else faults)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
