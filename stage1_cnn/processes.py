"""The processes that train one network together (DistributedDataParallel), or the one that trains
alone.

Small numbers travel between processors (gloo), so that agreeing on a step never waits for a GPU;
tensors go by the device's way.
"""

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

_PATIENCE = datetime.timedelta(hours=2)
"""Longest wait for another process: one of them may read a whole disk more than the others."""


@dataclass(frozen=True)
class Processes:
    """This process's number among `size`, and among the `local_size` of this machine."""

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
        """The tensor, in place its sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def union(self, values: set[int]) -> set[int]:
        """The members of every process's set."""
        if self.size == 1:
            return values
        sets: list[set[int]] = [set()] * self.size
        distributed.all_gather_object(sets, values)
        return set().union(*sets)

    def wait(self) -> None:
        """Returns once every process has come here."""
        self.total([0])


SINGLE_PROCESS = Processes()


@contextlib.contextmanager
def process_group(local_rank: int, local_size: int) -> Iterator[Processes]:
    """Joins the processes that torchrun started (it tells torch of rank, size and address), and
    leaves them at the end."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if local_rank < torch.cuda.device_count():  # `choose_compute` names it where there are too few
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(
            distributed.get_rank(), distributed.get_world_size(), local_rank, local_size
        )
    finally:
        distributed.destroy_process_group()
