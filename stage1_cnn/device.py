"""Where the network runs and in which arithmetic: device, precision, threads."""

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from catalog.errors import ConfigError
from catalog.parallel import cores
from stage1_cnn.processes import SINGLE_PROCESS, Processes

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Of glibc's mallopt."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device, the precision of the network's arithmetic on it (`fp32`, `bf16`, `fp16`), and who
    shares the work."""

    device: torch.device
    precision: str
    processes: Processes = SINGLE_PROCESS

    def autocast(self) -> AbstractContextManager:
        """The context in which the network's forward pass runs."""
        return torch.autocast(
            self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"
        )

    def fork_generators(self) -> AbstractContextManager:
        """Inside, the default generators (dropout reads them) may be seeded; outside nothing
        changes."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    def seed(self, seed: int) -> None:
        """Seeds the default generators of the processor and of this device."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    @contextlib.contextmanager
    def determinism(self, deterministic: bool) -> Iterator[None]:
        """Inside, only algorithms that give the same bits each time, where `deterministic`; else
        the fastest for each size.

        Raises ConfigError where a network needs one that has no such variant on this device.
        """
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        try:
            yield
        except RuntimeError as error:
            operation, found, _ = str(error).partition(
                " does not have a deterministic implementation"
            )
            if not found:
                raise
            problem = (
                f"expected false, since {operation}, which the network needs, has no such variant"
            )
            raise ConfigError(f"stage1.deterministic: {problem}") from error
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
    """What stage 1 trains with: resolves `auto`; of several processes each takes a GPU of its own.

    Raises ConfigError where the machine lacks what was asked for.
    """
    chosen = _device(device, processes)
    return Compute(
        chosen, _precision("stage1", precision, chosen, _fastest_precision(chosen)), processes
    )


def inference_compute(device: str = "auto", precision: str = "auto") -> Compute:
    """What answers are computed with, whatever stage 1 was trained in: `auto` is fp32 on a
    processor, so that any machine and runtime answers alike, and on a GPU what training takes
    there.

    Raises ConfigError where the machine lacks what was asked for.
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
    if asked not in (*DTYPES, "auto"):
        raise ConfigError(
            f"{section}.precision: expected auto, {', '.join(DTYPES)}, found {asked!r}"
        )
    if asked == "fp16" and device.type == "cpu":
        raise ConfigError(f"{section}.precision: fp16 needs a GPU; expected fp32 or bf16 on a CPU")
    return default if asked == "auto" else asked


def _fastest_precision(device: torch.device) -> str:
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return (
        "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    )  # emulated bf16 is slower than fp32


@functools.cache
def keep_memory() -> None:
    """Has glibc keep the memory that is freed, in one heap for all threads, for as long as the
    process lives.

    By default it returns a batch's activations to the system, which then hands them out again page
    by page, zeroed: up to a quarter of a network's time on a processor (`benchmarks.heap`).
    Elsewhere than on glibc nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in (
            (_M_MMAP_MAX, 0),
            (_M_TRIM_THRESHOLD, 2**31 - 1),
            (_M_ARENA_MAX, 1),
        ):
            mallopt(parameter, value)


def one_thread() -> None:
    """Makes the arithmetic of the calling thread single-threaded, for threads that share the cores
    among themselves."""
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """PyTorch's number of threads is afterwards what it was before: `one_thread` also sets what
    later threads begin with."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def decode_threads(workers: int | str, device: torch.device, processes: int = 1) -> int:
    """Threads that decode beside the arithmetic; `auto` takes the cores that PyTorch's own threads
    leave, never more, and only its part of them where `processes` share the machine.

    Where they leave none, 0: decoding between the steps, since a thread too many slows all the
    computing ones.
    """
    if workers != "auto":
        return int(workers)
    busy = 1 if device.type == "cuda" else torch.get_num_threads()
    return max(0, cores() // processes - busy)
