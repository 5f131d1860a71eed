"""The configuration of a run: one YAML file, one pydantic model per package, and `--set key=value`
to override a key."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from catalog.config import CatalogConfig, Section, SourcesConfig
from catalog.errors import ConfigError
from features.config import FeaturesConfig
from stage1_cnn.config import Stage1Config
from stage2_xgb.config import Stage2Config


class EvaluateConfig(Section):
    """Section `evaluate`: which categories the figures cover."""

    min_support: PositiveInt = 5
    """Test products that a category needs to count in the balanced figures and macro F1; those that
    share a picture count once."""


class ScoreConfig(Section):
    """Section `score`: how a dump is partitioned and scored."""

    part_mb: PositiveInt = 256
    """Approximate size of a part, in megabytes of the dump."""
    batch_size: PositiveInt | None = None
    """Images per batch; null is 128 on a GPU, and 32 on a processor, where more gains nothing."""
    top: PositiveInt = 5
    """Categories listed for each product."""
    mix: Literal["natural", "balanced", "estimate"] | Path | None = None
    """Class mix of the products to score; a path names a CSV category_id,weight, `estimate` finds
    it in the products themselves; null is the mix that stage 2 was trained for."""
    promise: float | None = Field(default=None, gt=0, lt=1)
    """Accepts as many predictions as keep this precision with 95% confidence, on the deepest level
    of the hierarchy that does, into accepted.parquet, and leaves the others in review.parquet."""
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    """Splits the predictions into accepted.parquet, at least this confident, and review.parquet;
    null writes neither."""
    allowed: Path | None = None
    """CSV _id,category_id of the categories that products may have; those it doesn't name may have
    any. If no allowed category is likely, the product is for review."""
    csv: bool = False
    """Also writes predictions.csv, for spreadsheets."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] | None = None
    """Precision of the networks that answer; null is `features.precision`, in which all was
    evaluated. With another one, `score` says how well the two agree; `int8` is refused if both
    stages lose more than .3 points of val_b."""
    runtime: Literal["auto", "torch", "onnx", "openvino"] = "auto"
    """What computes the networks: `auto` is what computed the features that were evaluated, or
    PyTorch where that is not at hand; with another one, `score` says how well the two agree."""
    vectors: dict[str, str] = {}
    """For each view that is a file of vectors: the file with the vectors of the images to score."""
    table: str | None = None
    """CSV or Parquet with the columns of the products to score, by their keys, for a view of
    columns; null takes the fields or columns of the same names in what is scored."""
    features: bool = False
    """Also writes each product's bottleneck features, features-*.parquet; a part then needs four
    more bytes of memory per product and feature."""

    @model_validator(mode="after")
    def _one_rule(self) -> "ScoreConfig":
        if self.promise is not None and self.min_confidence is not None:
            raise ValueError("promise and min_confidence are two rules, expected one of them")
        return self

    def batch_size_on(self, device: str) -> int:
        """The batch size on a type of device, `cpu` or `cuda`."""
        return self.batch_size or (128 if device == "cuda" else 32)


class TextView(Section):
    """A view of the products' texts (`catalog.text`)."""

    text: Literal["tfidf"]
    """TF-IDF of words and pairs of words, reduced by a singular value decomposition."""
    components: PositiveInt = 128
    """Length of the vector of a text."""


class FileView(Section):
    """A view that another program computed."""

    file: str = Field(min_length=1)
    """HDF5 file with a vector of every image in the store (docs/formats.md)."""


class CoverView(Section):
    """A view of the words in the photos."""

    ocr: Literal["rapidocr"]
    """What reads them; needs the extra `ocr`."""
    components: PositiveInt = 128
    """Length of the vector of a photo's words."""


class ColumnsView(Section):
    """A view of catalogue columns."""

    table: str = Field(min_length=1)
    """`store` takes what the store keeps of each product (`catalog.columns`); else a CSV or Parquet
    file with a row per product, by its key in a column product_id, _id, id, sku or name."""
    columns: tuple[str, ...] = ()
    """Those to read; all of the table if none is named."""

    @property
    def in_store(self) -> bool:
        """Whether the store has the columns."""
        return self.table == STORE


View = Stage1Config | TextView | CoverView | FileView | ColumnsView
_KINDS: dict[str, type[TextView] | type[CoverView] | type[FileView] | type[ColumnsView]] = {
    "text": TextView,
    "ocr": CoverView,
    "file": FileView,
    "table": ColumnsView,
}
STORE = "store"
"""The table of a view of columns that is the store itself."""


class RunConfig(Section):
    """The whole configuration; every key has a default."""

    catalog: CatalogConfig = CatalogConfig()
    """From dump to store."""
    sources: SourcesConfig = SourcesConfig()
    """How photos, and files behind URLs, are read."""
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
    """Further views of stage 2: name -> for a network, what differs from section `stage1`,
    such as `epochs: 0` (the head phase alone, on the frozen backbone), another backbone, weights or
    image size; `{text: tfidf, components: 128}` for the products' texts (`catalog.text`); `{ocr:
    rapidocr, components: 128}` for the words in the photos (needs the extra `ocr`); `{table:
    store}` for the columns of `catalog.columns`, `{table: FILE.csv}` for those of a file; `{file:
    vectors.h5}` for vectors of the images that another program computed."""
    jobs: PositiveInt | None = None
    """Processes that decode in ingest and train in stage 2; null takes every core that affinity and
    a container's quota leave."""

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
            try:
                self.view(name)
            except ValidationError as error:
                faults = [
                    {**fault, "loc": ("views", name, *fault["loc"])}
                    for fault in error.errors(include_url=False)
                ]
                raise ValidationError.from_exception_data("views", faults) from None  # type: ignore[arg-type]
            if "text" in self.views[name] and not self.catalog.text:
                raise ValueError(
                    f"view {name} reads the products' texts: name their field in catalog.text"
                )
        self._check_columns()
        vectors = [name for name in self.views if not self.columns_view(name)]
        if vectors and self.stage2.components is None:
            raise ValueError(
                "stage2.components: null is for a single view; several differ in length, expected "
                "a number"
            )
        return self

    def _check_columns(self) -> None:
        """Raises ValueError if several views read columns, or one that the store won't have."""
        views = {name: view for name in self.views if (view := self.columns_view(name))}
        if len(views) > 1:
            raise ValueError(f"views {' and '.join(views)} read columns, expected one such view")
        for name, view in views.items():
            missing = sorted(set(view.columns) - set(self.catalog.columns))
            if view.in_store and (missing or not self.catalog.columns):
                wanted = ", ".join(missing) or "fields of the products"
                raise ValueError(f"view {name} reads {wanted}: name them in catalog.columns")

    def columns_view(self, name: str) -> ColumnsView | None:
        """The settings of a view that reads columns; None if it is another."""
        view = self.view(name)
        return view if isinstance(view, ColumnsView) else None

    def view(self, name: str) -> View:
        """The settings of a view, of the type that says what it is: a network, texts, words in the
        photos, columns, or a file."""
        if name == "stage1":
            return self.stage1
        for key, view_type in _KINDS.items():
            if key in self.views[name]:
                return view_type.model_validate(self.views[name])
        return Stage1Config.model_validate(_merged(self.stage1.model_dump(), self.views[name]))

    @property
    def answer_precision(self) -> str:
        """The precision of the networks that answer."""
        return self.score.precision or self.features.precision

    @property
    def access(self) -> SourcesConfig:
        """Section `sources`, with the values of the environment that its headers name. Raises
        ConfigError if one is not set."""
        headers = {name: _expanded(name, text) for name, text in self.sources.headers.items()}
        return self.sources.model_copy(update={"headers": headers})

    @property
    def view_names(self) -> list[str]:
        """`stage1` and the further views."""
        return ["stage1", *self.views]


def _expanded(header: str, text: str) -> str:
    """The text of a header, with `$NAME` and `${NAME}` from the environment."""
    whole = os.path.expandvars(text)
    if missing := re.search(r"\$(\w+|\{\w+\})", whole):
        name = missing[1].strip("{}")
        raise ConfigError(
            f"sources.headers.{header}: the environment has no variable {name}; "
            f"set it with: export {name}=..."
        )
    return whole


def _merged(value: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`value` with some keys changed, those within its sections too."""
    both = {k for k in changes if isinstance(changes[k], dict) and isinstance(value.get(k), dict)}
    return value | changes | {k: _merged(value[k], changes[k]) for k in both}


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a YAML file (all defaults if None) and applies overrides such as `stage1.lr=3e-4`.

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
        raise ConfigError(
            _explain(error, value, path, [override.partition("=")[0] for override in overrides])
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        problem = (
            "no such file, and no configuration of that name; list them with: shelfsort configs"
        )
        raise ConfigError(f"{path}: {problem}") from error
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


def _explain(
    error: ValidationError, value: dict[str, Any], path: Path | None, overridden: list[str]
) -> str:
    """One line per key: its file (or --set), the key, what was expected, what was found."""
    faults: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for fault in error.errors(include_url=False):
        key, found_here = _key_and_value(fault["loc"], value)
        unknown = fault["type"] == "extra_forbidden"
        faults.setdefault(key, []).append(
            _unknown(key) if unknown else fault["msg"].removeprefix("Value error, ")
        )
        if not unknown and not isinstance(found_here, dict):
            values[key] = found_here
    lines = []
    for key, messages in faults.items():
        set_here = any(
            f"{key}.".startswith(f"{o}.") or f"{o}.".startswith(f"{key}.") for o in overridden
        )
        source = "--set" if set_here or path is None else path
        lines.append(
            f"{source}: {key}: {' or: '.join(messages)}"
            + (f", found {values[key]!r}" if key in values else "")
        )
    return "\n".join(lines)


def _unknown(key: str) -> str:
    """The message for an unknown key, with the one that was likely meant, if there is one."""
    section, _, name = key.rpartition(".")
    known = [
        (dotted.rpartition(".")[0], dotted.rpartition(".")[2])
        for dotted in _keys(RunConfig().model_dump())
    ]
    own = re.sub(r"^views\.[^.]+", "stage1", section)
    near = difflib.get_close_matches(name, [n for s, n in known if s == own], 1)
    meant = (
        [f"{section}.{near[0]}" if section else near[0]]
        if near
        else [f"{s}.{n}" for s, n in known if s and n == name]
    )
    return (
        f"unknown key, did you mean {meant[0]}?"
        if meant
        else "unknown key, expected one of the keys in `shelfsort config`"
    )


def _keys(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key, with the sections around it, joined by dots."""
    for key, inner in value.items():
        yield f"{prefix}{key}"
        if isinstance(inner, dict):
            yield from _keys(inner, f"{prefix}{key}.")


def _key_and_value(location: tuple[Any, ...], value: Any) -> tuple[str, Any]:
    """The key of a fault as the user wrote it, without pydantic's names for the members of a union,
    and its value."""
    keys = []
    for component in location:
        known_key = isinstance(value, dict) and component in value
        if not known_key and not (isinstance(value, list) and isinstance(component, int)):
            break
        value = value[component]
        keys.append(str(component))
    return ".".join(keys) or "(the whole)", value
