"""metrics.jsonl and TensorBoard scalars: one line per epoch, of exactly the epochs that the
checkpoint knows."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from catalog.artifacts import write_text, writing


class Journal:
    """Writes both; a restart rewrites them from the checkpoint's history, so that a lost epoch
    leaves no line."""

    def __init__(self, folder: Path, history: list[dict[str, Any]]) -> None:
        self.path, self.epochs = folder / "metrics.jsonl", len(history)
        write_text(self.path, "".join(_line(metrics) for metrics in history))
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.board = SummaryWriter(str(folder / "tensorboard"))
        for epoch, metrics in enumerate(history, 1):
            self._draw(epoch, metrics)

    def add(self, metrics: dict[str, Any]) -> None:
        """Adds an epoch."""
        self.epochs += 1
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(metrics))
        with writing(self.board.log_dir):
            self._draw(self.epochs, metrics)
            self.board.flush()

    def close(self) -> None:
        """Stops TensorBoard's thread."""
        self.board.close()

    def _draw(self, epoch: int, metrics: dict[str, Any]) -> None:
        """One scalar per metric, over the epochs of both phases."""
        for key, value in metrics.items():
            if isinstance(value, float):
                self.board.add_scalar(f"stage1/{key}", value, epoch)


def _line(metrics: dict[str, Any]) -> str:
    return json.dumps(metrics, allow_nan=False) + "\n"
