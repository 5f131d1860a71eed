"""One thread of BLAS: with several, a matrix product adds up in another order, and what is fitted on it differs in its last digits,
or by a tree. Fits that promise the same result on any machine run in one thread each and use further cores by processes."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS computes in one thread inside, and as before afterwards. Also a decorator: `@one_blas_thread()`."""
    with threadpool_limits(1, user_api="blas"):
        yield


@functools.cache
def pin_blas() -> None:
    """BLAS computes in one thread from now on: for tasks in worker processes, whose threads may not restore what others need."""
    threadpool_limits(1, user_api="blas")
