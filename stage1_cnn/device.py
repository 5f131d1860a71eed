"""Where the network runs and in which arithmetic: device, precision, threads."""

import contextlib
import ctypes
import functools
import platform
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from catalog.errors import ConfigError
from catalog.parallel import cores
from stage1_cnn.processes import SINGLE_PROCESS, Processes

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt."""
_AHEAD = 2
"""Items that are taken ahead of the lanes."""
T = TypeVar("T")
U = TypeVar("U")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """What a network is computed with: a device, the precision of the arithmetic on it (`fp32`,
    `bf16`, `fp16`; `int8` for a quantised network's answers), and the processes that share the
    work."""

    device: torch.device
    precision: str
    processes: Processes = SINGLE_PROCESS

    def autocast(self) -> AbstractContextManager:
        """The context in which the network's forward pass runs."""
        return torch.autocast(
            self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"
        )

    def fork_generators(self) -> AbstractContextManager:
        """Restores the default generators, which dropout draws from, on exit."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def seed(self, seed: int) -> None:
        """Seeds the default generators of the processor and of this device."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    @contextlib.contextmanager
    def determinism(self, deterministic: bool) -> Iterator[None]:
        """If `deterministic`, allows only algorithms that give the same bits each time; else picks
        the fastest for each size. Restores what was set on exit.

        Raises ConfigError if a network needs an operation without such an algorithm.
        """
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        try:
            yield
        except RuntimeError as error:
            reason = " does not have a deterministic implementation"
            operation, known, _ = str(error).partition(reason)
            if not known:
                raise
            problem = f"{operation}, which the network needs, has no such variant"
            raise ConfigError(f"stage1.deterministic: expected false, since {problem}") from error
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]

    def to_json(self) -> dict[str, str]:
        """`computed_with` of the manifests."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"device": name, "precision": self.precision}


def choose_compute(
    device: str = "auto", precision: str = "auto", processes: Processes = SINGLE_PROCESS
) -> Compute:
    """What stage 1 trains with: resolves `auto`; each of several processes takes its own GPU.

    Raises ConfigError if the machine lacks what was asked for.
    """
    chosen = _device(device, processes)
    fastest = _fastest_precision(chosen)
    return Compute(chosen, _precision("stage1", precision, chosen, fastest), processes)


def inference_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """What answers are computed with, whatever precision stage 1 was trained in: `auto` is fp32 on
    a processor, so that any machine and runtime gives the same answers, and on a GPU the precision
    that training takes there.

    Raises ConfigError if the machine lacks what was asked for.
    """
    chosen = _device(device, SINGLE_PROCESS)
    default = "fp32" if chosen.type == "cpu" else _fastest_precision(chosen)
    return Compute(chosen, _precision("features", precision, chosen, default))


def _device(device: str, processes: Processes) -> torch.device:
    cuda = torch.cuda.is_available()
    name = ("cuda" if cuda else "cpu") if device == "auto" else device
    if name == "cuda" and processes.size > 1:
        name = f"cuda:{processes.local_rank}"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"stage1.device: expected auto, cpu, cuda or cuda:N, found {device!r}"
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"stage1.device: expected auto, cpu, cuda or cuda:N, found {device!r}")
    if chosen.type == "cuda" and (chosen.index or 0) >= (torch.cuda.device_count() if cuda else 0):
        wanted = (
            f"a GPU for each of {processes.local_size} processes" if processes.size > 1 else device
        )
        raise ConfigError(
            f"stage1.device: {wanted} asked for, found {torch.cuda.device_count()} usable GPUs"
        )
    return chosen


def _precision(section: str, asked: str, device: torch.device, default: str) -> str:
    """The precision that a section's key asks for on a device; `default` for auto."""
    known = (*DTYPES, *(("int8",) if section == "features" else ()))
    if asked not in (*known, "auto"):
        raise ConfigError(
            f"{section}.precision: expected auto, {', '.join(known)}, found {asked!r}"
        )
    if asked == "int8" and device.type != "cpu":
        raise ConfigError(f"{section}.precision: int8 needs a processor, found {device}")
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError(f"{section}.precision: fp16 needs a GPU; expected fp32 or bf16 on a CPU")
    return default if asked == "auto" else asked


def _fastest_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    # Emulated bf16 is slower than fp32.
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


@functools.cache
def keep_memory() -> None:
    """Makes glibc keep freed memory, in one heap for all threads, as long as the process lives.

    By default it returns a batch's activations to the system, which then hands them out again page
    by page, zeroed: up to a quarter of a network's time on a processor (`benchmarks.heap`). No
    effect without glibc. Only the pipeline calls this (pipeline/networks.py), no library code.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def one_thread() -> None:
    """Makes the arithmetic of the calling thread single-threaded, for threads that share the
    cores."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Restores torch.get_num_threads() on exit: `one_thread` also changes it for later threads."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def ordered(function: Callable[[T], U], items: Iterable[T], lanes: int) -> Generator[U]:
    """The results of `function` in the order of `items`, computed by `lanes` threads of
    single-threaded arithmetic.

    The items are taken by the caller's thread, a few ahead. Close the iterator to stop early.
    """
    pending: deque[Future[U]] = deque()
    with threadpool_limits(1), threads_restored():
        pool = ThreadPoolExecutor(lanes, "lane", initializer=one_thread)
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= lanes + _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def decode_threads(workers: int | str, device: torch.device, processes: int = 1) -> int:
    """Number of threads that decode besides the arithmetic; `auto` takes the cores that PyTorch's
    own threads leave, divided by the `processes` that share the machine.

    0 if they leave none: photos are then decoded between the steps, because one thread too many
    slows down all that compute.
    """
    if workers != "auto":
        return int(workers)
    busy = 1 if device.type == "cuda" else torch.get_num_threads()
    return max(0, cores() // processes - busy)
