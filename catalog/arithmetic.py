"""BLAS in one thread, for fits that promise the same result on any machine.

With several threads a matrix product adds up in another order: what is fitted on it differs in its
last digits, and trees on top of that by whole splits. Such fits use further cores through
processes.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS computes in one thread inside, and as before afterwards. Also a decorator:
    `@one_blas_thread()`."""
    with threadpool_limits(1, user_api="blas"):
        yield


@functools.cache
def pin_blas() -> None:
    """BLAS computes in one thread as long as this process lives: for tasks in worker processes,
    where several may run side by side, so that the first one to end must not restore anything."""
    threadpool_limits(1, user_api="blas")
