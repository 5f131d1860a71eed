"""All of stage 2 on disk, without pickles: manifest.json (written last), shared.npz with the pool
of experts, sets.parquet, and one booster per category. A bundle opens lazily: boosters are read and
verified when first asked for."""

import logging
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from catalog.arrays import write_npz
from catalog.artifacts import atomic_path, read_sealed, sha256_file, unreadable, write_sealed
from catalog.errors import ArtifactError
from catalog.taxonomy import Taxonomy
from stage2_xgb.expert_pool import ExpertPool, pool_arrays, read_pool
from stage2_xgb.experts import Columns
from stage2_xgb.gate import POOL, STAGE1, Decision
from stage2_xgb.items import Projection
from stage2_xgb.prior import Shift
from stage2_xgb.reclassifier import Reclassifier

log = logging.getLogger(__name__)

SCHEMA = 4
_POOL = "pool_"
"""Before the names of the pool's arrays in shared.npz."""


@dataclass
class Bundle:
    """A trained second stage: each unit's class-mix shift of stage 1, the pool of experts (None if
    the adjusted stage 1 stands in its place), each view's projection, who answers for which
    category. A broken booster is reported in `broken`; the opinion before it answers."""

    folder: Path
    shifts: Mapping[str, Shift]
    pool: ExpertPool | None
    projections: tuple[Projection, ...]
    members: dict[int, np.ndarray]
    answers: dict[int, str]
    base_margin: bool
    checksums: Mapping[str, str]
    made_from: dict[str, Any]
    final: dict[str, Any] | None = None
    """Of a last fit (stage2_xgb.final): sha256 of the `evaluated` bundle's manifest, and the
    `images` of each split."""
    columns: Columns | None = None
    """What the codes of the products' columns mean, if experts and reclassifiers read these."""
    broken: dict[str, str] = field(default_factory=dict)
    _loaded: dict[int, Reclassifier | None] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Opens a finished bundle. Raises ArtifactError where its manifest or shared arrays are
        missing or damaged."""
        manifest = read_sealed(folder / "manifest.json", "stage2", SCHEMA)
        path = folder / "shared.npz"
        arrays = _read_shared(path, manifest["files"])
        pooled = {k.removeprefix(_POOL): x for k, x in arrays.items() if k.startswith(_POOL)}
        try:
            pool = read_pool(pooled) if manifest["default"] == POOL else None
            shifts = {
                unit: Shift(**shift, log_ratio=arrays[f"log_ratio_{unit}"])
                for unit, shift in manifest["shift"].items()
            }
            projections = tuple(
                Projection(arrays[f"mean_{view}"], arrays[f"components_{view}"])
                for view in range(manifest["views"])
            )
        except KeyError as error:
            raise ArtifactError(path, f"lacks an array: {error}", "stage2") from error
        categories = manifest["categories"]
        return cls(
            folder,
            shifts,
            pool,
            projections,
            {c["class_index"]: np.array(c["members"], dtype=np.int32) for c in categories},
            {c["class_index"]: c["decision"] for c in categories},
            manifest["base_margin"],
            manifest["files"],
            manifest["made_from"],
            manifest.get("final"),
            Columns.of_json(manifest.get("columns")),
        )

    @property
    def default(self) -> str:
        """Who answers where no reclassifier does: the pool, or stage 1 if there is none."""
        return STAGE1 if self.pool is None else POOL

    @property
    def drop_blank(self) -> bool:
        """Whether blank images were left out of the data, and so are to be left out where products
        have others."""
        return self.made_from.get("drop_blank", True)

    @property
    def modelled(self) -> list[int]:
        """The categories that have a reclassifier of their own, used or not."""
        return [c for c in self.members if model_name(c) in self.checksums]

    def verify(self) -> None:
        """Raises ArtifactError where a file is missing or damaged, which is otherwise noticed when
        it is first used."""
        for name, checksum in self.checksums.items():
            _verify(self.folder / name, checksum)

    def answer(self, class_index: int) -> str:
        """Who answers for items that the opinion before puts into this category."""
        return self.answers.get(class_index, self.default)

    def reclassifier(self, class_index: int) -> Reclassifier | None:
        """A category's own reclassifier; None where it has none, or its file is broken, which is
        noted in `broken`."""
        if class_index not in self._loaded:
            self._loaded[class_index] = self._load(class_index)
        return self._loaded[class_index]

    def _load(self, class_index: int) -> Reclassifier | None:
        name = model_name(class_index)
        if class_index not in self.members or name not in self.checksums:
            return None
        try:
            _verify(self.folder / name, self.checksums[name])
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(self.folder / name)
        except (ArtifactError, xgboost.core.XGBoostError, OSError, ValueError) as error:
            fault = unreadable(self.folder / name, str(error), "stage2", error)
            if not isinstance(fault, ArtifactError):
                raise fault from error
            self.broken[name] = str(error)
            before = {POOL: "the pool", STAGE1: "stage 1"}[self.default]
            log.warning("%s answers where %s would: %s", before, name, error)
            return None
        return Reclassifier(self.members[class_index], booster, self.base_margin)


def model_name(class_index: int) -> str:
    """File of a category's booster within the bundle."""
    return f"boosters/{class_index:05d}.ubj"


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
    with ThreadPoolExecutor(1) as executor:
        whole = executor.submit(
            _verify, path, checksums.get(path.name)
        )  # takes longer than reading
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            whole.result()
            raise unreadable(path, f"not readable ({error})", "stage2", error) from error
        whole.result()
    return arrays


def save_shared(folder: Path, bundle: Bundle) -> None:
    """Writes shared.npz: the arrays that every answer needs."""
    arrays = {f"log_ratio_{unit}": shift.log_ratio for unit, shift in bundle.shifts.items()}
    for v, projection in enumerate(bundle.projections):
        arrays |= {f"mean_{v}": projection.mean, f"components_{v}": projection.components}
    if bundle.pool is not None:
        arrays |= {f"{_POOL}{name}": array for name, array in pool_arrays(bundle.pool).items()}
    write_npz(folder / "shared.npz", **arrays)


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
    manifest = {
        "schema": SCHEMA,
        "made_from": bundle.made_from,
        "files": dict(sorted(bundle.checksums.items())),
        "views": len(bundle.projections),
        "base_margin": bundle.base_margin,
        **({"columns": asdict(bundle.columns)} if bundle.columns else {}),
        "default": bundle.default,
        "shift": {unit: shift.numbers for unit, shift in bundle.shifts.items()},
        "categories": categories,
    }
    write_sealed(folder / "manifest.json", manifest)
