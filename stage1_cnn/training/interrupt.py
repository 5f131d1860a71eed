"""Control-C that lets the current step finish."""

import signal
import threading
from types import FrameType


class Interrupt:
    """A context manager: inside, the first SIGINT only sets `requested`, the second raises
    KeyboardInterrupt at once. No effect outside the main thread, which alone can have handlers.

        with Interrupt() as interrupt:
            for step in steps:
                interrupt.check()
    """

    def __init__(self) -> None:
        self.requested = False
        self._main = threading.current_thread() is threading.main_thread()
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> "Interrupt":
        if self._main:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raises KeyboardInterrupt if one was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.check()
        self.requested = True
