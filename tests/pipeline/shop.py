"""A run of a shop whose products have texts as keys, from a table to the report."""

from pathlib import Path

import pandas

from catalog.synthetic.dump import SyntheticSpec
from pipeline.cli import main
from pipeline.demo import write_synthetic
from tests.conftest import jpeg
from tests.pipeline.tiny import SETTINGS, documents

SETS = [word for setting in (*SETTINGS, "jobs=1") for word in ("--set", setting)]
BROKEN = 'SKU "broken", 9'


def key_of(number: int) -> str:
    """With what CSV and HTML have to escape."""
    return f'SKU "{number}", <ö>'


def shelfsort(*words: str | Path) -> None:
    assert main(list(map(str, words))) == 0


def make_shop(folder: Path) -> Path:
    """A folder with train.csv and test.csv, the photos, and `run`, finished."""
    write_synthetic(folder / "data", SyntheticSpec(categories=4, products=240, side=32))
    names = pandas.read_csv(folder / "data" / "category_names.csv").set_index("category_id")
    for part in ("train", "test"):
        rows = []
        for document in documents(folder / "data" / f"{part}.bson"):
            for position, image in enumerate(document["imgs"]):
                path = folder / part / f"{document['_id']}-{position}.jpg"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(image["picture"])
                row = {"sku": key_of(document["_id"]), "photo": path.relative_to(folder)}
                if part == "train":
                    row["category"] = " > ".join(names.loc[document["category_id"]])
                rows.append(row)
        (folder / part / "broken.jpg").write_bytes(jpeg(1)[:40])
        rows.append(dict.fromkeys(rows[0], rows[0].get("category")) | {"sku": BROKEN})
        rows[-1]["photo"] = f"{part}/broken.jpg"
        pandas.DataFrame(rows).to_csv(folder / f"{part}.csv", index=False)
    columns = ("--columns", "product=sku,image=photo")
    run = ("--run", folder / "run")
    shelfsort("ingest", *run, "--dump", folder / "train.csv", *columns, *SETS)
    for step in ("stage1", "features", "stage2", "evaluate", "report"):
        shelfsort(step, *run)
    return folder
