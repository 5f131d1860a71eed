"""Takes the trees out of a bundle on disk, and seals what was changed by hand."""

import json
from pathlib import Path

import xgboost

from catalog.artifacts import fingerprint, sha256_file, write_json


def seal(folder: Path) -> None:
    """Brings the manifest's checksums, and its own, in line with the files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("fingerprint", None)
    manifest["files"] = {name: sha256_file(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest | {"fingerprint": fingerprint(manifest)})


def fell(folder: Path) -> int:
    """Removes all trees of all boosters of a bundle; returns how many there were."""
    trees = 0
    for path in folder.rglob("*.ubj"):
        booster = xgboost.Booster(model_file=path)
        trees += len(booster.get_dump())
        model = json.loads(booster.save_raw("json"))
        forest = model["learner"]["gradient_booster"]["model"]
        forest.update(trees=[], tree_info=[], iteration_indptr=[0])
        forest["gbtree_model_param"]["num_trees"] = "0"
        bare = xgboost.Booster()
        bare.load_model(bytearray(json.dumps(model).encode()))
        path.write_bytes(bare.save_raw("ubj"))
        trees -= len(bare.get_dump())
    seal(folder)
    return trees
