"""A run as a folder that needs neither shelfsort nor PyTorch: networks, stage 2, categories, and a
reader.

    reader.py         `Model`, which reads the rest
    code/             the modules of shelfsort that stage 2 answers with, as they are here
    VIEW.onnx         uint8 pixels -> bottleneck features
    VIEW.safetensors  the same weights
    heads.npz, stage2/, taxonomy.json
    columns.json      how a product's columns are read, if it reads any
    manifest.json     made_from, views, and the sha256 of every other file; written last
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.arrays import write_npz
from catalog.artifacts import sha256_file, write_json
from catalog.errors import ShelfsortError
from pipeline.model import TwoStageModel
from pipeline.run_folder import RunFolder
from stage1_cnn.onnx import head_arrays, require_packages, save_onnx, save_safetensors
from stage1_cnn.predict import Predictor

SCHEMA = 1
ANSWERS = (
    "catalog/__init__.py",
    "catalog/arrays.py",
    "catalog/artifacts.py",
    "catalog/blank.py",
    "catalog/errors.py",
    "catalog/image_table.py",
    "catalog/splits.py",
    "catalog/taxonomy.py",
    "features/__init__.py",
    "features/columns.py",
    "features/neighbours.py",
    "stage1_cnn/__init__.py",
    "stage1_cnn/head.py",
    "stage2_xgb/__init__.py",
    "stage2_xgb/bundle.py",
    "stage2_xgb/crossfit.py",
    "stage2_xgb/expert_pool.py",
    "stage2_xgb/experts.py",
    "stage2_xgb/gate.py",
    "stage2_xgb/items.py",
    "stage2_xgb/prior.py",
    "stage2_xgb/reclassifier.py",
    "stage2_xgb/refine.py",
)
"""All that the reader and `stage2_xgb.refine` import; an import contract keeps these to numpy,
scipy and xgboost."""
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Exported:
    """What was written: number of files, and their bytes."""

    files: int
    size: int


def export_model(run: RunFolder, out: Path) -> Exported:
    """Writes the folder `out`, which must not exist yet; it appears when it is complete.

    Raises ShelfsortError if `out` exists, a package of the extra `export` is not installed or a
    view is no network, ArtifactError if the run is unfinished, stale or damaged.
    """
    if out.exists():
        raise ShelfsortError(f"{out}: exists, expected the name of a new folder")
    require_packages("export")
    model = TwoStageModel.open(run, "cpu", "fp32", "torch")
    networks = _networks(run, model)
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(model, networks, temporary)
        temporary.rename(out)
    except OSError as error:
        raise ShelfsortError(f"{out}: can't be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Exported(len(sizes), sum(sizes))


def _write(model: TwoStageModel, networks: dict[str, Predictor], out: Path) -> None:
    (out / "stage2").mkdir(parents=True)
    model.bundle.verify()
    for name in ("manifest.json", *model.bundle.checksums):
        _copy(model.bundle.folder / name, out / "stage2" / name)
    for name in ANSWERS:
        _copy(_ROOT / name, out / "code" / name)
    _copy(Path(__file__).with_name("reader.py"), out / "reader.py")
    views: list[dict[str, Any]] = []
    heads: dict[str, Any] = {}
    for number, (name, network) in enumerate(networks.items()):
        save_onnx(network, out / f"{name}.onnx")
        save_safetensors(network, out / f"{name}.safetensors")
        heads |= head_arrays(network, number)
        views.append(
            {
                "network": f"{name}.onnx",
                "height": network.transform.height,
                "width": network.transform.width,
            }
        )
    write_npz(out / "heads.npz", **heads)
    if model.columns:
        model.columns.save(out, {})
    write_json(out / "taxonomy.json", model.known.to_json())
    files = {
        str(path.relative_to(out)): sha256_file(path)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }
    origin = {
        "views": model.bundle.made_from["views"],
        "stage2": sha256_file(model.bundle.folder / "manifest.json"),
    }
    write_json(
        out / "manifest.json",
        {"schema": SCHEMA, "made_from": origin, "views": views, "files": files},
    )


def _networks(run: RunFolder, model: TwoStageModel) -> dict[str, Predictor]:
    """The network of each view. Raises ShelfsortError if a view has none."""
    networks = {}
    for name, network in model.networks.items():
        if network is None:
            retrain = run.command("stage2", "--set", "views={}", "--rebuild")
            raise ShelfsortError(
                f"{run.stage2}: view {name} is no network, but an exported model answers by "
                f"networks alone; train without it: {retrain}"
            )
        networks[name] = network
    return networks


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
