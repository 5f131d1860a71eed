"""The configuration of a run: one YAML file, one pydantic model a package, `--set key=value` on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from catalog.config import CatalogConfig, Section
from catalog.errors import ConfigError
from features.config import FeaturesConfig
from stage1_cnn.config import Stage1Config
from stage2_xgb.config import Stage2Config


class EvaluateConfig(Section):
    """Section `evaluate`: the intervals of the figures."""

    resamples: PositiveInt = 2000
    """Bootstrap resamples of products behind each interval."""
    min_support: PositiveInt = 5
    """Least test items of a category in the balanced figures."""
    seed: int = Field(default=0, ge=0)
    """Of the resampling."""


class ScoreConfig(Section):
    """Section `score`: how a dump is cut up and scored."""

    part_mb: PositiveInt = 256
    """About how many megabytes of the dump one part file answers for."""
    batch_size: PositiveInt = 128
    """Images through the network at once."""
    top: PositiveInt = 5
    """Categories listed for each product."""


class RunConfig(Section):
    """The whole configuration; every key has a default."""

    catalog: CatalogConfig = CatalogConfig()
    """From dump to store."""
    stage1: Stage1Config = Stage1Config()
    """The network."""
    features: FeaturesConfig = FeaturesConfig()
    """The cached bottleneck features."""
    stage2: Stage2Config = Stage2Config()
    """The reclassifiers."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """The figures."""
    score: ScoreConfig = ScoreConfig()
    """Batch scoring."""
    views: dict[str, dict[str, Any]] = {}
    """Further networks that stage 2 looks through: name -> what differs from section `stage1`, such as `epochs: 0` (the head phase
    alone, on the frozen backbone), another backbone, weights or image size."""
    jobs: PositiveInt | None = None
    """Processes that decode in ingest and train in stage 2; null uses every core."""


    @field_validator("views")
    @classmethod
    def _plain_names(cls, views: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in views:
            if not name.isidentifier() or name == "stage1":
                raise ValueError(f"a view's name is a plain word other than stage1, not {name!r}")
        return views

    @model_validator(mode="after")
    def _whole_views(self) -> "RunConfig":
        for name in self.views:
            self.view(name)
        return self

    def view(self, name: str) -> Stage1Config:
        """The network of a view."""
        return self.stage1 if name == "stage1" else Stage1Config.model_validate(self.stage1.model_dump() | self.views[name])

    @property
    def view_names(self) -> list[str]:
        """`stage1` and the further views."""
        return ["stage1", *self.views]


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file (all defaults where None) and applies overrides such as `stage1.lr=3e-4`.

    Raises ConfigError naming file, key, what was expected and what was found.
    """
    value = _read_yaml(path) if path else {}
    value.pop("revision", None)  # a run's own config.yaml has it
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: expected key=value, such as stage1.lr=3e-4")
        _put(value, key.split("."), _scalar(override, text), override)
    try:
        return RunConfig.model_validate(value)
    except ValidationError as error:
        raise ConfigError(_explain(error, str(path or "--set"))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value or {}, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value or {}


def _scalar(override: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {text!r} is not a YAML value") from error
    if isinstance(value, str):  # YAML 1.1 reads 3e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _put(value: dict[str, Any], keys: list[str], leaf: Any, override: str) -> None:
    for key in keys[:-1]:
        value = value.setdefault(key, {})
        if not isinstance(value, dict):
            raise ConfigError(f"--set {override}: {key} is a single value, it has no keys below it")
    value[keys[-1]] = leaf


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"]) or "(the whole)"
        if fault["type"] == "extra_forbidden":
            lines.append(f"{source}: {key}: unknown key, expected one of the keys in `shelfsort config`")
        else:
            lines.append(f"{source}: {key}: {fault['msg']}, found {fault['input']!r}")
    return "\n".join(lines)
