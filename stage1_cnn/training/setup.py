"""What a training consists of before its first step: the photos, the network, and where it goes on.

In: the store, and last.pt of the run's folder stage1/ if there is one. Writes nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from catalog.artifacts import differences, require_same
from catalog.errors import ShelfsortError
from catalog.image_table import ImageTable
from catalog.landmarks import read_landmarks
from catalog.store.reader import Store
from catalog.taxonomy import Taxonomy
from stage1_cnn import checkpoint
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import Compute, choose_compute
from stage1_cnn.networks.backbones import Network, build, check_size, synchronised
from stage1_cnn.networks.blocks import set_drop_path
from stage1_cnn.networks.padding import zero_gradient_in_padding
from stage1_cnn.processes import SINGLE_PROCESS, Processes
from stage1_cnn.training.inputs import PhotoInputs
from stage1_cnn.training.plan import check_batch
from stage1_cnn.transforms import EvalTransform

_log = logging.getLogger(__name__)
Partition = Callable[[Store], tuple[ImageTable, ImageTable]]
"""The rows to fit and the rows to validate on."""
Resumed = dict[str, Any]
"""The content of last.pt; empty if a training begins."""


@dataclass(frozen=True)
class TrainingJob:
    """What is asked of a training: the photos of a store (`partition` chooses the rows to fit and
    to validate on, by default all of train and val_a), the folder to write to, such as RUN/stage1,
    what it is made from, and the processes that train together."""

    store: Store
    config: Stage1Config
    folder: Path
    made_from: dict[str, Any]
    processes: Processes = SINGLE_PROCESS
    partition: Partition | None = None


@dataclass(frozen=True)
class Setup:
    """What stays the same through a training: `folder` is where it writes, `network` what it
    trains."""

    config: Stage1Config
    folder: Path
    made_from: dict[str, Any]
    compute: Compute
    taxonomy: Taxonomy
    photos: PhotoInputs
    network: Network

    @property
    def processes(self) -> Processes:
        """The processes that train together."""
        return self.compute.processes

    def train_images(self) -> np.ndarray:
        """Training images per class, int64 [K]."""
        return np.bincount(self.photos.train.class_index, minlength=len(self.taxonomy))


def check_training(
    config: Stage1Config, classes: int, processes: Processes = SINGLE_PROCESS
) -> None:
    """Raises the ConfigError that `prepare_training` would raise: on what the machine or the
    network can't do, and on unreadable files."""
    choose_compute(config.device, config.precision, processes)
    check_batch(config, processes)
    network = build(
        config.backbone, classes, width=config.width, weights=config.weights, seed=config.seed
    )
    for size in (config.size, config.fit_size):
        check_size(network, config.backbone, size)
    if config.landmarks:
        read_landmarks(config.landmarks)


def prepare_training(job: TrainingJob) -> tuple[Setup, Resumed]:
    """A training that begins, or goes on from last.pt in its folder; the network has its weights.

    Raises ArtifactError if last.pt is of a training made from something else, ConfigError on what
    the machine or the network can't do, ShelfsortError if there are too few photos.
    """
    store, config = job.store, job.config
    compute = choose_compute(config.device, config.precision, job.processes)
    train, val = (job.partition or _all_fit)(store)
    resumed = _read_last(job.folder, job.made_from, compute)
    transform = EvalTransform.from_json(resumed["transform"]) if resumed else None
    photos = PhotoInputs(store, train, val, config, compute, transform)
    check_batch(config, job.processes)
    if len(photos) < 2:
        raise ShelfsortError(f"{store.path}: {len(photos)} images to train on, expected at least 2")
    network = _make_network(config, len(store.taxonomy), compute, resumed)
    setup = Setup(config, job.folder, job.made_from, compute, store.taxonomy, photos, network)
    return setup, resumed


def _all_fit(store: Store) -> tuple[ImageTable, ImageTable]:
    train, val = store.images("train"), store.images("val_a")
    return train[train.fit], val[val.fit]


def _read_last(folder: Path, made_from: dict[str, Any], compute: Compute) -> Resumed:
    """The content of last.pt, empty if there is none."""
    content = checkpoint.load_last(folder)
    compute.processes.wait()  # until all have read it, since it will be replaced
    if content is None:
        return {}
    path = folder / checkpoint.LAST
    require_same(path, made_from, content["made_from"], "stage1")
    now = compute.to_json()
    if changes := differences(now, content.get("computed_with", now)):
        consequence = "the training goes on, but not as if undisturbed"
        _log.warning("%s: %s; %s", path, "; ".join(changes), consequence)
    position = f"{content['phase']} epoch {content['epoch']}, step {content['step']}"
    _log.info("%s: going on after %s", path, position)
    return content


def _make_network(
    config: Stage1Config, classes: int, compute: Compute, resumed: Resumed
) -> Network:
    """The network on its device, with the weights of last.pt or of the configuration."""
    weights = "none" if resumed else config.weights
    network = build(config.backbone, classes, width=config.width, weights=weights, seed=config.seed)
    if resumed:
        network.load_state_dict(resumed["network"])
    if config.drop_path is not None:
        set_drop_path(network.backbone, config.drop_path, config.backbone)
    if config.weights != "none":
        network.freeze_norm(config.batch_norm)
    several_gpus = compute.device.type == "cuda" and compute.processes.size > 1
    if several_gpus and not network.norm_frozen:
        network = synchronised(network)
    network.to(compute.device).to(memory_format=torch.channels_last)
    for size in (config.size, config.fit_size):
        check_size(network, config.backbone, size)
    zero_gradient_in_padding(network, config.fit_size)
    return network
