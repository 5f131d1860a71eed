"""All of stage 2 on disk, without pickles: manifest.json (written last), shared.npz, sets.parquet,
the shared reranker and one booster a category. A bundle opens lazily: boosters are read and
verified when first asked for."""

import logging
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xgboost

from catalog.artifacts import atomic_path, read_sealed, sha256_file, write_sealed
from catalog.errors import ArtifactError
from catalog.taxonomy import Taxonomy
from features.neighbours import Bank
from stage2_xgb.alternatives import Likeness, Logistic, likeness, load_logistic
from stage2_xgb.evidence import Evidence
from stage2_xgb.gate import STAGE1, Decision
from stage2_xgb.items import Projection
from stage2_xgb.prior import Shift
from stage2_xgb.reclassifier import Reclassifier
from stage2_xgb.reranker import Reranker

log = logging.getLogger(__name__)

SCHEMA = 2
RERANKER = "reranker.ubj"
UNTRAINED = ("neighbours", "prototypes")
"""Models that are a formula: they have no file."""
T = TypeVar("T")
Model = Reclassifier | Logistic | Likeness
"""What chooses within a confusion set."""


@dataclass
class Bundle:
    """A trained second stage: per unit each view's shift, the pooling's sharpness, each view's
    projection, who answers for which category (`default` where `answers` has none). A broken file
    is reported in `broken`; stage 1 answers in its place."""

    folder: Path
    shifts: dict[str, tuple[Shift | None, ...]]
    sharpness: float
    projections: tuple[Projection, ...]
    evidence: Evidence
    members: dict[int, np.ndarray]
    answers: dict[int, str]
    default: str
    candidates: int
    model: str
    base_margin: bool
    checksums: Mapping[str, str]
    made_from: dict[str, Any]
    broken: dict[str, str] = field(default_factory=dict)
    _loaded: dict[int, Model | None] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Opens a finished bundle. Raises ArtifactError where its manifest or shared arrays are
        missing or damaged."""
        manifest = read_sealed(folder / "manifest.json", "stage2", SCHEMA)
        arrays = _read_shared(folder / "shared.npz", manifest["files"])
        shifts = {
            unit: tuple(
                Shift(**v, log_ratio=arrays[f"log_ratio_{unit}"]) if v else None for v in views
            )
            for unit, views in manifest["shift"].items()
        }
        views = range(len(shifts["image"]))
        projections = tuple(
            Projection(*(arrays[f"{name}_{v}"] for name in ("mean", "components"))) for v in views
        )
        banks = tuple(
            Bank(arrays[f"bank_{v}"], arrays["bank_product_id"], arrays["bank_starts"])
            for v in views
        )
        evidence = Evidence(banks, arrays["log_train"], arrays["log_natural"])
        members = {
            c["class_index"]: np.array(c["members"], dtype=np.int32) for c in manifest["categories"]
        }
        answers = {c["class_index"]: c["decision"] for c in manifest["categories"]}
        rest = (
            manifest[key]
            for key in ("default", "candidates", "model", "base_margin", "files", "made_from")
        )
        return cls(
            folder, shifts, manifest["sharpness"], projections, evidence, members, answers, *rest
        )

    @property
    def drop_blank(self) -> bool:
        """Whether blank images were left out of the data, and so are to be left out where products
        have others."""
        return self.made_from.get("drop_blank", True)

    @property
    def modelled(self) -> list[int]:
        """The categories that have a reclassifier of their own, used or not."""
        return [
            c
            for c in self.members
            if self.model in UNTRAINED or model_name(c, self.model) in self.checksums
        ]

    def verify(self) -> None:
        """Raises ArtifactError where a file is missing or damaged, which is otherwise noticed when
        it is first used."""
        for name, checksum in self.checksums.items():
            _verify(self.folder / name, checksum)

    def answer(self, class_index: int) -> str:
        """Who answers for items that stage 1 puts into this category. All else starts from the
        reranker's opinion: where its file is broken, stage 1 answers everywhere."""
        if RERANKER in self.checksums and self.reranker is None:
            return STAGE1
        return self.answers.get(class_index, self.default)

    @cached_property
    def reranker(self) -> Reranker | None:
        """The shared reranker; None where there is none, or its file is broken."""
        booster = self._booster(RERANKER)
        return booster and Reranker(booster, self.candidates)

    def reclassifier(self, class_index: int) -> Model | None:
        """A category's own reclassifier; None where it has none, or its file is broken."""
        if class_index not in self._loaded:
            self._loaded[class_index] = (
                self._load(class_index) if class_index in self.members else None
            )
        return self._loaded[class_index]

    def _load(self, class_index: int) -> Model | None:
        members, name = self.members[class_index], model_name(class_index, self.model)
        if self.model in UNTRAINED:
            return likeness(self.model, members)
        if self.model == "logistic":
            return self._verified(name, lambda path: load_logistic(path, members))
        booster = self._booster(name)
        return booster and Reclassifier(members, booster, self.base_margin)

    def _booster(self, name: str) -> xgboost.Booster | None:
        def load(path: Path) -> xgboost.Booster:
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(path)
            return booster

        return self._verified(name, load)

    def _verified(self, name: str, load: Callable[[Path], T]) -> T | None:
        """What `load` makes of a file of the bundle; None where there is none, or it is damaged,
        which is noted in `broken`."""
        if name not in self.checksums:
            return None
        try:
            _verify(self.folder / name, self.checksums[name])
            return load(self.folder / name)
        except (ArtifactError, xgboost.core.XGBoostError, OSError, ValueError, KeyError) as error:
            self.broken[name] = str(error)
            log.warning("stage 1 answers where %s would: %s", name, error)
            return None


def model_name(class_index: int, model: str) -> str:
    """File of a category's model within the bundle."""
    return f"boosters/{class_index:05d}.{'npz' if model == 'logistic' else 'ubj'}"


def save_booster(path: Path, booster: xgboost.Booster) -> str:
    """Writes a booster in XGBoost's own binary format, atomically; returns its sha256."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(booster.save_raw("ubj"))
    return sha256_file(path)


def _verify(path: Path, checksum: str | None) -> None:
    if not path.exists():
        raise ArtifactError(path, "no such file", "stage2")
    if sha256_file(path) != checksum:
        raise ArtifactError(
            path, "its sha256 is not the one in the manifest; the file is damaged", "stage2"
        )


def _read_shared(path: Path, checksums: Mapping[str, str]) -> dict[str, np.ndarray]:
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(_verify, path, checksums.get(path.name))  # takes longer than reading
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            whole.result()
            raise ArtifactError(path, f"not readable ({error})", "stage2") from error
        whole.result()
    return arrays


def save_shared(folder: Path, bundle: Bundle) -> None:
    """Writes shared.npz: the arrays that every answer needs."""
    first = bundle.evidence.banks[0]
    arrays = {
        "log_train": bundle.evidence.log_train,
        "log_natural": bundle.evidence.log_natural,
        "bank_product_id": first.product_id,
        "bank_starts": first.starts,
    }
    arrays |= {f"log_ratio_{unit}": shifts[0].log_ratio for unit, shifts in bundle.shifts.items()}
    for v, (projection, bank) in enumerate(
        zip(bundle.projections, bundle.evidence.banks, strict=True)
    ):
        arrays |= {f"{name}_{v}": getattr(projection, name) for name in ("mean", "components")} | {
            f"bank_{v}": bank.vectors
        }
    with atomic_path(folder / "shared.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def save_manifest(
    folder: Path, bundle: Bundle, decisions: Mapping[int, Decision], taxonomy: Taxonomy
) -> None:
    """Writes manifest.json, which declares the bundle finished. A set without a decision is
    answered by the default."""
    none = Decision(bundle.default, 0, 0, 0, 0.0)
    categories = []
    for class_index, members in bundle.members.items():
        decision = decisions.get(class_index, none)
        categories.append(
            {
                "class_index": class_index,
                "category_id": int(taxonomy.category_ids[class_index]),
                "members": members.tolist(),
                "decision": decision.answer,
                "heldout": asdict(decision),
            }
        )
    shift = {
        unit: [s and {"temperature": s.temperature, "strength": s.strength} for s in shifts]
        for unit, shifts in bundle.shifts.items()
    }
    manifest = {
        "schema": SCHEMA,
        "made_from": bundle.made_from,
        "files": dict(sorted(bundle.checksums.items())),
        "base_margin": bundle.base_margin,
        "default": bundle.default,
        "candidates": bundle.candidates,
        "model": bundle.model,
        "shift": shift,
        "sharpness": bundle.sharpness,
        "categories": categories,
    }
    write_sealed(folder / "manifest.json", manifest)
