"""`shelfsort add-category`: a category from a few photos, beside the stage 2 that is there, until
the next training. On disk: added/ID.npz in the folder of the bundle that answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catalog.errors import ShelfsortError
from catalog.files import read_file
from catalog.taxonomy import Category, Taxonomy
from pipeline.config import RunConfig
from pipeline.run_folder import RunFolder, Say
from pipeline.second_stage import current_features

if TYPE_CHECKING:
    from pipeline.model import TwoStageModel
    from stage2_xgb.items import ItemBlock


def add_category(
    run: RunFolder,
    config: RunConfig,
    folder: Path,
    name: str,
    category_id: int | None = None,
    share: float | None = None,
    say: Say = print,
) -> None:
    """Adds the category `name` (or a path `A > B > C`) from the photos in a folder.

    By default its id is the one after the largest, and it is expected to be as common as the
    categories are on average. Raises ShelfsortError if the photos don't do, the category is there
    already, or a view is no network.
    """
    from pipeline.model import TwoStageModel
    from stage2_xgb.add_category import fit_addition
    from stage2_xgb.addition import save
    from stage2_xgb.bundle import Bundle
    from stage2_xgb.dataset import Views

    model = TwoStageModel.open(
        run, config.stage1.device, config.features.precision, config.score.runtime
    )
    evaluated = Bundle.open(run.stage2)
    category = _named(name, category_id, model.taxonomy)
    photos = _photos(model, folder, say)
    stores = current_features(run, config, evaluated.made_from["views"])
    share = share or 1 / (len(model.taxonomy) + 1)
    views, seed = Views(list(stores.values())), config.stage2.seed
    added = fit_addition(views, evaluated, model.bundle, photos, category, share, seed)
    path = save(model.bundle, added)
    say(f"add-category: {category.category_id} {name} from {len(photos)} photos -> {path}")
    say(f"  {_expected(added.expected)}")
    say(
        "  an experiment until the next training: answers that name it are never accepted by a "
        f"rule; to undo it, remove {path}"
    )


def _expected(figures: Mapping[str, float]) -> str:
    """How well it would do, from known categories that were treated as new."""
    return (
        f"of {figures['categories']:.0f} known categories treated as new, it would recognise "
        f"{figures['recognised']:.1%} of the photos, and take {figures['taken']:.1%} of those of "
        "other categories"
    )


def _named(name: str, category_id: int | None, taxonomy: Taxonomy) -> Category:
    """The new category. Raises ShelfsortError if there is one of that name or id."""
    (category,) = Taxonomy.from_names([name]).categories
    if not category.name.strip() or category.level3 == "":
        raise ShelfsortError(f"--name: expected a name or a path A > B > C, found {name!r}")
    new = int(taxonomy.category_ids.max()) + 1 if category_id is None else category_id
    for known in taxonomy.categories:
        levels = (known.level1, known.level2, known.level3)
        if levels == (category.level1, category.level2, category.level3):
            raise ShelfsortError(f"--name: {name} is category {known.category_id} already")
        if known.category_id == new:
            raise ShelfsortError(f"--id: {new} is category {known.name} already")
    return Category(new, category.level1, category.level2, category.level3)


def _photos(model: "TwoStageModel", folder: Path, say: Say) -> "ItemBlock":
    """The photos of a folder, each as a product of its own; says which can't be used."""
    from pipeline.model import image_table

    if model.text_view:
        raise ShelfsortError(
            f"add-category: expected views that need photos alone, found {model.text_view}, which "
            "reads texts; train without it: --set 'views={}' --rebuild"
        )
    if not folder.is_dir():
        raise ShelfsortError(f"--photos: {folder}: expected a folder of photos, found none")
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    numbers = np.arange(len(paths), dtype=np.int64)
    pictures = [read_file(path) for path in paths]
    images, errors, blank = model.read(pictures, image_table(numbers, numbers), batch_size=64)
    reasons = {row: str(error) for row, error in errors.items()}
    reasons |= {int(row): "it shows nothing" for row in images.item_id[blank].tolist()}
    for row, reason in sorted(reasons.items()):
        say(f"  left out {paths[row]}: {reason}")
    return images.rows(~blank)
