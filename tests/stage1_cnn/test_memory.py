"""Memory of a worker over epochs of a large catalogue: the image table is arrays, and nothing is
kept of a photo."""

import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import sys
import numpy as np
import torch
from catalog.image_table import ImageTable
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import Compute
from stage1_cnn.training.plan import parts_of
from stage1_cnn.processes import SINGLE_PROCESS
from stage1_cnn.training.inputs import PhotoInputs
from tests.conftest import jpeg

ROWS, BLOBS, EPOCHS = int(sys.argv[1]), [jpeg(number, side=8) for number in range(16)], 3

class Few:
    def read(self, image_ids):
        return [BLOBS[image_id % 16] for image_id in image_ids]

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

torch.set_num_threads(1)
rows = np.arange(ROWS, dtype=np.int64)
classes, split, fit = (rows % 5000).astype(np.int32), np.zeros(ROWS, np.uint8), np.ones(ROWS, bool)
table = ImageTable(rows, rows, classes, split, fit)
config = Stage1Config(
    image_size=8, batch_size=256, workers=1, sampling="levelled", shuffle_block=64
)
photos = PhotoInputs(Few(), table, table[:10], config, Compute(torch.device("cpu"), "fp32"))
for epoch in range(EPOCHS):
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # resets the peak
    order, images = photos.sampler.order(np.random.default_rng(epoch)), 0
    for inputs, _ in photos.training(parts_of(order, 256, 1, SINGLE_PROCESS), epoch + 1):
        images += len(inputs)
    print(images, peak(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_peak_memory_does_not_grow_over_epochs_of_a_million_rows() -> None:
    command = [sys.executable, "-c", CHILD, "1000000"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    epochs = [[int(number) for number in line.split()] for line in result.stdout.splitlines()]
    assert [images for images, _ in epochs] == [1_000_000] * 3
    first, second, third = [peak for _, peak in epochs]
    assert second < first * 1.05 and third < second * 1.02, epochs
