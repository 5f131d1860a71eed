"""What stage 2 is trained from and how: the features of the views, and the class mixes.

`stage2_xgb` fits; this module finds its inputs in the run folder, spreads the work over dask
workers if there are any, and stores what the fitted stage answers for held-out products.
"""

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.artifacts import require_same, sha256_file
from catalog.errors import ConfigError
from catalog.parallel import cores
from features.store import FeatureStore
from pipeline.config import RunConfig
from pipeline.run_folder import RunFolder, Say, Workers
from stage1_cnn.config import Stage1Config

if TYPE_CHECKING:
    from stage2_xgb.bundle import Bundle
    from stage2_xgb.inputs import ClassMixes
    from stage2_xgb.rivals import Rival


def current_features(
    run: RunFolder, config: RunConfig, names: Iterable[str]
) -> dict[str, FeatureStore]:
    """The features of some views, by name.

    Raises ArtifactError if they are of another store or network than the run's, or computed in
    another precision than the configuration asks for.
    """
    stores = {}
    for name in names:
        view_folder = run.view(name)
        view_folder.require_features()
        view_folder.require_precision(config.features.precision)
        stores[name] = view_folder.features
    return stores


def require_learnt_from(views: Mapping[str, FeatureStore], bundle: "Bundle") -> None:
    """Raises ArtifactError, naming what differs, unless stage 2 was trained on these features."""
    expected = _views_origin(views)
    learnt_from = {key: bundle.made_from.get(key, {}) for key in expected}
    require_same(bundle.folder, expected, learnt_from, "stage2")


def _views_origin(views: Mapping[str, FeatureStore]) -> dict[str, dict[str, Any]]:
    """What the features of the views were made from, and what computed them."""
    return {
        "views": {name: store.made_from for name, store in views.items()},
        "computed_with": {name: store.computed_with for name, store in views.items()},
    }


def stage2_origin(
    run: RunFolder, config: RunConfig, views: Mapping[str, FeatureStore]
) -> dict[str, Any]:
    """What stage 2 is made from. Raises ConfigError if the file of class weights is missing."""
    settings = config.stage2.model_dump(mode="json")
    if isinstance(target := config.stage2.target_prior, Path):
        settings["target_prior"] = _weights_checksum(target)  # the content, not the name
    origin = _views_origin(views)
    made_from: dict[str, Any] = {
        "views": origin["views"],
        "store": run.store.fingerprint,
        "computed_with": origin["computed_with"],
        "config": settings,
    }
    if not run.store.settings["drop_blank"]:
        made_from["drop_blank"] = False
    return made_from


def _weights_checksum(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(
            f"stage2.target_prior: {path}: expected a CSV with columns category_id,weight, "
            "found no such file"
        )
    return sha256_file(path)


def fit(
    run: RunFolder,
    config: RunConfig,
    views: Mapping[str, FeatureStore],
    made_from: dict[str, Any],
    rebuild: bool,
    say: Say,
    workers: Workers = None,
) -> None:
    """Trains stage 2 into the run folder, and the published recipe beside it if the configuration
    asks for that. What an interrupted training has finished is kept, unless `rebuild`; nothing is
    removed before class mix and workers have been checked."""
    from stage2_xgb.fit import fit_stage2
    from stage2_xgb.heldout import UNITS

    mixes, taxonomy = class_mixes(run), run.store.taxonomy
    jobs = config.jobs or cores()
    for unit in UNITS:
        mixes.target(config.stage2, unit, taxonomy)
    with contextlib.ExitStack() as stack:
        if workers:
            from pipeline.cluster.steps import training

            stack.enter_context(training(stack.enter_context(workers()), run))
        if rebuild:
            _say_removed(run.answering, say)
            shutil.rmtree(run.stage2, ignore_errors=True)
        if config.stage2.published:
            fit_published(run, made_from, jobs, say)
        stores = list(views.values())
        summary = fit_stage2(stores, mixes, taxonomy, config.stage2, run.stage2, made_from, jobs)
    say(summary.text())


def _say_removed(bundle: Path, say: Say) -> None:
    """Says which added categories answer no more, because they belong to the bundle in a folder."""
    from stage2_xgb.addition import FOLDER

    if paths := sorted((bundle / FOLDER).glob("*.npz")):
        names = ", ".join(path.stem for path in paths)
        say(f"stage2: categories {names}, added without a training, are of the stage 2 before")


def fit_final(
    run: RunFolder, config: RunConfig, views: Mapping[str, FeatureStore], rebuild: bool, say: Say
) -> None:
    """Fits the experts of the existing stage 2 again, on every labelled image, unless that is
    current."""
    from stage2_xgb import final
    from stage2_xgb.bundle import Bundle

    refitted = None if rebuild else final.open_final(run.stage2)
    if refitted is None:
        _say_removed(run.answering, say)
        evaluated = Bundle.open(run.stage2)
        evaluated.verify()
        jobs = config.jobs or cores()
        refitted = final.fit_final(list(views.values()), evaluated, config.stage2.seed, jobs)
    say(f"stage2: last fit, in {refitted.folder}: {final.refitted_on(refitted)}")


def fit_published(run: RunFolder, made_from: dict[str, Any], jobs: int, say: Say) -> None:
    """Trains the published recipe on stage 1's features, into a folder of stage 2's."""
    from stage2_xgb.fit import fit_stage2
    from stage2_xgb.published import FOLDER, PUBLISHED

    folder, mixes, taxonomy = run.stage2 / FOLDER, class_mixes(run), run.store.taxonomy
    summary = fit_stage2([run.features], mixes, taxonomy, PUBLISHED, folder, made_from, jobs)
    say(f"published recipe, {summary.text()}")


def rivals(
    run: RunFolder,
    config: RunConfig,
    views: Mapping[str, FeatureStore],
    bundle: "Bundle",
    say: Say,
) -> "dict[str, Rival]":
    """Simple systems fitted on the features that a bundle learnt from. The published recipe is
    trained beside the bundle, unless it exists."""
    from pipeline.evaluation.evaluate import published
    from stage2_xgb.dataset import Views
    from stage2_xgb.heldout import UNITS
    from stage2_xgb.rivals import fit_rivals

    if published(bundle) is None:
        fit_published(run, bundle.made_from, config.jobs or cores(), say)
    mixes, taxonomy = class_mixes(run), run.store.taxonomy
    targets = {unit: mixes.target(config.stage2, unit, taxonomy) for unit in UNITS}
    return fit_rivals(Views(list(views.values())), targets, bundle.pool, config.stage2.seed)


def ask_held_out(run: RunFolder, config: RunConfig, views: Mapping[str, FeatureStore]) -> None:
    """Keeps what stage 2 answers for held-out products, unless that is current. Raises
    ArtifactError if stage 2 is damaged."""
    from pipeline.decisions import heldout
    from stage2_xgb.bundle import Bundle
    from stage2_xgb.dataset import Views
    from stage2_xgb.prior import mix

    bundle = Bundle.open(run.stage2)
    bundle.verify()
    if heldout.is_current(run.stage2):
        return
    mixes = class_mixes(run)
    fitted = mixes.target(config.stage2, "product", run.store.taxonomy)
    source = mix(mixes.natural["product"])
    stores = Views(list(views.values()))
    held = heldout.held_out_answers(bundle, stores, config.stage2, fitted, source)
    caps = (run.store.settings["caps"][split] for split in ("reserve", "val_a", "val_b"))
    if any(cap is not None for cap in caps):  # not a sample of the natural mix
        counts = np.bincount(held.class_index, minlength=len(source))
        held = replace(held, source=mix(counts))
    heldout.save(run.stage2, held)


def class_mixes(run: RunFolder) -> "ClassMixes":
    """Images and products per class in the catalogue, and the mix that stage 1's outputs imply.

    The latter is what an epoch of its training shows: sampling changes it, a logit adjustment takes
    it away.
    """
    from stage1_cnn.sampler import Sampler
    from stage2_xgb.inputs import ClassMixes

    store, table = run.store, run.features.table
    rows = run.features.of_split("train")
    fitted = table.class_index[rows][table.fit[rows]]
    trained = Stage1Config(**run.stage1_config())
    train = Sampler(fitted, np.zeros(0), trained).targets(len(store.taxonomy))
    if trained.logit_adjustment:
        train = train ** (1.0 - trained.logit_adjustment)
    return ClassMixes({unit: store.natural_counts(unit) for unit in ("image", "product")}, train)
