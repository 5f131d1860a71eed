"""The exported folder: the documentation's own code reads it, without shelfsort and PyTorch, and
answers as fp32 does."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from catalog.artifacts import sha256_file
from catalog.errors import ArtifactError, ShelfsortError
from catalog.images import decode
from pipeline.cli import main
from pipeline.exchange.export import ANSWERS, export_model
from pipeline.model import TwoStageModel, predict_files
from stage1_cnn.transforms import EvalTransform
from tests.pipeline.score_helpers import predictions, score, scorer
from tests.pipeline.tiny import Tiny, boosters_answer, documents

ROOT = Path(__file__).parents[3]
ALLOWED = {
    "numpy",
    "scipy",
    "xgboost",
    "onnxruntime",
    "PIL",
    "flatbuffers",
    "google",
    "packaging",  # onnxruntime's own needs
    "reader",
    "catalog",
    "features",
    "stage1_cnn",
    "stage2_xgb",
}
GUARD = """
import sys
from importlib.abc import MetaPathFinder
class Guard(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in ALLOWED and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"not for an exported model: {name}", name=name)
sys.meta_path.insert(0, Guard())
"""


@pytest.fixture(scope="module")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, exported. Only to be read."""
    out = tmp_path_factory.mktemp("export") / "model"
    export_model(tiny.run, out)
    return out


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a process that can import what ALLOWED names, and nothing else."""
    guarded = f"ALLOWED = {ALLOWED!r}\n{GUARD}\n{code}"
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-B", "-c", guarded, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, timeout=240
    )


def code_of_the_docs() -> str:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL
    )
    return code


def test_the_code_of_the_docs_answers_as_the_fp32_path(
    tiny: Tiny, model: TwoStageModel, exported: Path, tmp_path: Path
) -> None:
    product = next(d for d in documents(tiny.data / "test.bson") if len(d["imgs"]) >= 2)
    photos = [tmp_path / f"{i}.jpg" for i in range(len(product["imgs"]))]
    for path, image in zip(photos, product["imgs"], strict=True):
        path.write_bytes(image["picture"])
    where = (
        "\nfor name in ('catalog', 'stage2_xgb', 'reader'):"
        "\n    assert str(sys.modules[name].__file__).startswith(str(folder))"
    )
    result = run(code_of_the_docs() + where, exported, *photos)
    assert result.returncode == 0, result.stderr
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    answer = predict_files(model, photos, 5)
    assert [int(row[1]) for row in rows] == [model.taxonomy[c].category_id for c in answer.classes]
    np.testing.assert_allclose([float(row[0]) for row in rows], answer.confidences, atol=1e-3)
    assert len(code_of_the_docs().splitlines()) <= 30


def test_many_products_at_once(
    tiny: Tiny, model: TwoStageModel, exported: Path, tmp_path: Path
) -> None:
    products = [d["imgs"] for d in documents(tiny.data / "test.bson")][:60]
    paths = [
        [tmp_path / f"{n}-{i}.jpg" for i in range(len(images))] for n, images in enumerate(products)
    ]
    for images, files in zip(products, paths, strict=True):
        for image, path in zip(images, files, strict=True):
            path.write_bytes(image["picture"])
    for number in range(0, len(products), 4):
        paths[number].insert(0, blank := tmp_path / f"{number}-blank.png")
        Image.new("RGB", (32, 32), "white").save(blank)
    code = f"""
sys.path.insert(0, {str(exported)!r})
import json
from pathlib import Path
import numpy as np
from PIL import Image
from reader import Model
products = json.loads(Path({str(tmp_path / "paths.json")!r}).read_text())
found = Model().predict([[Image.open(p) for p in files] for files in products], batch_size=7)
np.save({str(tmp_path / "found.npy")!r}, found)
"""
    (tmp_path / "paths.json").write_text(json.dumps([[str(p) for p in files] for files in paths]))
    result = run(code)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "found.npy")
    expected = np.zeros_like(found)
    for row, files in enumerate(paths):
        answer = predict_files(model, files, len(model.taxonomy))
        expected[row, answer.classes] = answer.confidences
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    off = np.abs(found - expected).max(
        axis=1
    )  # the last bit of a feature may put a product on a tree's other side
    assert (off < 1e-3).mean() > 0.9 and off.max() < 0.05


def test_every_file_is_in_the_manifest(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    files = {
        str(p.relative_to(exported))
        for p in exported.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert files == {*manifest["files"], "manifest.json"}
    assert all(
        sha256_file(exported / name) == checksum for name, checksum in manifest["files"].items()
    )
    for name in (
        "stage1.onnx",
        "stage1.safetensors",
        "small.onnx",
        "stage2/shared.npz",
        "taxonomy.json",
    ):
        assert name in files
    assert all(
        (exported / "code" / name).read_bytes() == (ROOT / name).read_bytes() for name in ANSWERS
    )


def test_a_damaged_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    code = (
        f"sys.path.insert(0, {str(exported)!r})\nimport reader\nfrom pathlib import Path\n"
        "reader.FOLDER = Path(sys.argv[1])\n"
    )
    (tmp_path / "manifest.json").write_text((exported / "manifest.json").read_text())
    result = run(code + "reader.Model()", tmp_path)
    assert (
        result.returncode
        and "missing, or its sha256 is not the one in manifest.json" in result.stderr
    )


def test_what_cannot_be_exported(
    tiny: Tiny, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ShelfsortError, match="exists, expected the name of a new folder"):
        export_model(tiny.run, exported)
    own = tiny.copy(tmp_path / "run")
    booster = boosters_answer(own)[0]
    booster.write_bytes(booster.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"\.ubj: its sha256 is not"):
        export_model(own.run, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
    assert main(["export", "--run", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_scoring_by_onnx_runtime(
    tiny: Tiny, model: TwoStageModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dump, out = tiny.data / "test.bson", tmp_path / "onnx"
    command = tiny.scoring(out, dump=dump)
    assert main([*command, "--set", "score.runtime=onnx"]) == 0
    assert "(runtime was 'torch', is now 'onnx'): of " in caplog.text
    assert (
        main([*command, "--set", "score.runtime=onnx", "--set", "features.precision=bf16"]) == 2
    )  # not what it computes in
    score(scorer(tiny, model), [dump], tmp_path / "torch")
    first, second = predictions(tmp_path / "torch"), predictions(out)
    assert (first["category_id"] == second["category_id"]).mean() > 0.98
    assert ((first["confidence"] - second["confidence"]).abs() < 1e-3).mean() > 0.9
    assert not first["confidence"].equals(second["confidence"])  # it was another arithmetic
    assert main(command) == 2  # parts of both are not mixed


@pytest.fixture
def reader(exported: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The exported reader in this process."""
    monkeypatch.setattr(sys, "path", sys.path.copy())  # the reader adds its own folder
    spec = importlib.util.spec_from_file_location("exported_reader", exported / "reader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reader_sees_the_same_pixels(reader: ModuleType) -> None:
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 2**16, (20, 30), dtype=np.uint16))]
    colours = Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    photos += [colours.convert(mode) for mode in ("RGBA", "LA", "P", "1", "L")]
    for photo in photos:
        photo.save(file := io.BytesIO(), "PNG")
        np.testing.assert_array_equal(
            np.asarray(reader.upright(Image.open(file))), decode(file.getvalue()), photo.mode
        )


def test_the_reader_names_a_product_without_photos(reader: ModuleType) -> None:
    model, photo = reader.Model(), Image.new("RGB", (40, 40))
    assert model.predict([]).shape == (0, len(model.categories)) and model.predict(
        [[photo]]
    ).shape == (1, len(model.categories))
    with pytest.raises(ValueError, match=r"products\[1\]: expected at least one photo, found none"):
        model.predict([[photo], [], [photo]])


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (96, 96), (224, 224), (7, 300)], ids=str)
def test_the_reader_resizes_to_the_bit(reader: ModuleType, size: tuple[int, int]) -> None:
    rng, transform = np.random.default_rng(0), EvalTransform(*size, (0, 0, 0), (1, 1, 1))
    for shape in ((180, 180), (60, 80), (33, 500), (1, 1), size):
        photo = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        ours = transform([photo])[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(
            reader.resized(Image.fromarray(photo), size[1], size[0]), ours
        )
