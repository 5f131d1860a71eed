"""A training in a process of its own, to be killed, or to share with others under torchrun: STORE
FOLDER CONFIG [NORM]."""

import contextlib
import os
import sys
from pathlib import Path

from torch import nn

from catalog.store.reader import Store
from stage1_cnn.config import Stage1Config
from stage1_cnn.networks.backbones import Network, build
from stage1_cnn.processes import SINGLE_PROCESS, Processes, process_group
from stage1_cnn.training import setup
from stage1_cnn.training.interrupt import Interrupt
from stage1_cnn.training.trainer import Trainer

MADE_FROM = {"store": "0123", "config": {"lr": 0.001}}


def build_with_group_norm(*arguments: object, **options: object) -> Network:
    """A network whose batch norm gave way to group norm; torchvision has none under a name."""
    network = build(*arguments, **options)
    for name, module in list(network.backbone.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.backbone.set_submodule(name, nn.GroupNorm(8, module.num_features))
    return network


def train(
    store: Path,
    folder: Path,
    config: Stage1Config,
    norm: str,
    processes: Processes = SINGLE_PROCESS,
) -> None:
    """Trains into `folder`, without the summary at the end."""
    setup.build = build_with_group_norm if norm == "group" else build
    try:
        with Interrupt() as interrupt:
            prepared = setup.prepare_training(
                setup.TrainingJob(Store(store), config, folder, MADE_FROM, processes)
            )
            Trainer(*prepared, interrupt).run()
    finally:
        setup.build = build


def main() -> None:
    """As the command line says."""
    store, folder, config, *norm = sys.argv[1:]
    shared = "LOCAL_RANK" in os.environ
    with (
        process_group(int(os.environ["LOCAL_RANK"]), 2)
        if shared
        else contextlib.nullcontext(SINGLE_PROCESS) as processes
    ):
        train(
            Path(store),
            Path(folder),
            Stage1Config.model_validate_json(config),
            "".join(norm),
            processes,
        )


if __name__ == "__main__":
    main()
