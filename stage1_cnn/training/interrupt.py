"""Control-C that lets the running step end."""

import signal
import threading
from types import FrameType


class Interrupt:
    """Context manager: inside, the first SIGINT only sets `requested`, the second raises
    KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._main = (
            threading.current_thread() is threading.main_thread()
        )  # others can't have handlers
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raises KeyboardInterrupt where one was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self.requested = True
