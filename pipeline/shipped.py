"""The configurations that come with shelfsort, found by name: `photos`, `networks/resnet50`."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).parent / "configs"
"""In a checkout a link to the folder configs/ beside the packages."""


class ShippedConfig(NamedTuple):
    """A configuration: `name` for --config, and the first line of its comment."""

    name: str
    purpose: str


def shipped_configs() -> Iterator[ShippedConfig]:
    """All of them by name, those in subfolders last."""
    names = (path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.rglob("*.yaml"))
    for name in sorted(names, key=lambda name: (len(name.parts), name)):
        first = (CONFIGS / name).with_suffix(".yaml").read_text(encoding="utf-8").partition("\n")[0]
        yield ShippedConfig(str(name), first.removeprefix("#").strip())


def config_path(text: str) -> Path:
    """The file that `--config TEXT` names: a file of that path if there is one, else a shipped
    configuration of that name. If there is neither, the path as given."""
    path, shipped = Path(text), CONFIGS / f"{text}.yaml"
    return shipped if shipped.is_file() and not path.is_file() else path
