"""The processes that train one network together (DistributedDataParallel), or the single one.

Small numbers are exchanged between processors (gloo), so that agreeing on a step never waits for a
GPU; tensors go by the backend of their device.
"""

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

_PATIENCE = datetime.timedelta(hours=2)
"""Longest wait for another process: one may have to read a whole disk more than the others."""


@dataclass(frozen=True)
class Processes:
    """This process's rank among `size`, and among the `local_size` of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes the files."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over all processes."""
        return self.reduce(torch.tensor(values, dtype=torch.float64)).tolist()

    def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replaces the tensor by its sum over all processes, and returns it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def union(self, values: set[int]) -> set[int]:
        """The union of all processes' sets."""
        if self.size == 1:
            return values
        sets: list[set[int]] = [set()] * self.size
        distributed.all_gather_object(sets, values)
        return set().union(*sets)

    def wait(self) -> None:
        """Returns when every process has called it (a barrier)."""
        self.total([0])


SINGLE_PROCESS = Processes()


@contextlib.contextmanager
def process_group(local_rank: int, local_size: int) -> Iterator[Processes]:
    """Joins the processes that torchrun started (torch reads rank, size and address from the
    environment), and leaves them on exit."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if local_rank < torch.cuda.device_count():  # else `choose_compute` says that there are too few
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(
            distributed.get_rank(), distributed.get_world_size(), local_rank, local_size
        )
    finally:
        distributed.destroy_process_group()
