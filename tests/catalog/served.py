"""A folder behind http on this machine, which can serve parts of a file as a real server does."""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HANG, DRIP, ENDLESS = "hang", "drip", "endless"
"""What a server may do in place of answering: nothing; send a byte now and then; send without
end."""
Fault = int | str


class _Ranges(SimpleHTTPRequestHandler):
    """Knows the header Range, which the standard library's handler does not; answers the paths in
    `faults` with their status, or as they say, and requests that lack a header with 401."""

    def __init__(
        self,
        *arguments: Any,
        faults: Mapping[str, Fault],
        headers: Mapping[str, str],
        closed: threading.Event,
        **options: Any,
    ) -> None:
        self.faults, self.required, self.closed = faults, headers, closed
        super().__init__(*arguments, **options)

    def do_HEAD(self) -> None:
        if self._allowed():
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self._allowed():
            return
        fault = self.faults.get(self.path)
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault:
            self._misbehave(fault)
        else:
            self._answer()

    def _allowed(self) -> bool:
        if any(self.headers.get(name) != value for name, value in self.required.items()):
            self.send_error(401)
            return False
        return True

    def _misbehave(self, fault: str) -> None:
        """Ends with the server, or when the client hangs up."""
        if fault != HANG:
            self.send_response(200)
            self.end_headers()
        pause = {HANG: 60.0, DRIP: 0.05, ENDLESS: 0.0}[fault]
        data = b"x" if fault == DRIP else b"x" * 2**16
        with contextlib.suppress(ConnectionError):
            while not self.closed.wait(pause):
                self.wfile.write(data)

    def _answer(self) -> None:
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
def served(
    folder: Path,
    faults: Mapping[str, Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The URL of a folder, for the time of the block; `faults` are the paths (/1.jpg) that get a
    status alone, or worse (HANG, DRIP, ENDLESS); `headers` are those that a request must have."""
    closed = threading.Event()
    handler = partial(
        _Ranges,
        directory=str(folder),
        faults={} if faults is None else faults,
        headers=headers or {},
        closed=closed,
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
