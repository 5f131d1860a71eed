"""The command that rebuilds a missing, damaged or outdated artefact, ready to be pasted. Library
code names a step (`catalog.errors.ArtifactError`); only the command line knows the run folder and
the command that is running.
"""

import argparse
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from catalog.errors import ArtifactError, ShelfsortError
from pipeline.run_folder import RunFolder


def with_remedy(error: ArtifactError, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """The error's sentence and the command that rebuilds the artefact.

    `options` are the parsed `arguments` of the command that met the error.
    """
    verb = "go on with" if error.resume else "rebuild it with"
    return f"{error.path}: {error.problem}; {verb}: {remedy(error, options, arguments)}"


def remedy(error: ArtifactError, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """The command, quoted for the shell."""
    run, same = _run_of(error.path, options), same_command(arguments)
    if not error.resume and (folder := _to_remove(error, run, options)):
        return f"{shlex.join(['rm', '-r', str(folder)])} && {same}"
    step = _step(error, run)
    if step == options.command:
        return same if error.resume else f"{same} --rebuild"
    words = [*(_ingest_words(run) if step == "ingest" else []), *_configuration(step, options)]
    return run.command(step, *words, *([] if error.resume else ["--rebuild"]))


def same_command(arguments: Sequence[str]) -> str:
    """The running command, torchrun's if it started this process; without --rebuild, which would
    start over."""
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    words = [word for word in arguments if not (len(word) > 3 and "--rebuild".startswith(word))]
    if not processes:
        return shlex.join(["shelfsort", *words])
    words = [re.sub(r"^--run(?=$|=)", "--run-folder", word) for word in words]
    return shlex.join(
        ["torchrun", f"--nproc-per-node={processes}", "--no-python", "shelfsort", *words]
    )


def _run_of(path: str | Path, options: argparse.Namespace) -> RunFolder:
    """The run that a file belongs to; the command's first, if it lies in none of them."""
    folders = [getattr(options, "run", None), getattr(options, "folder", None)]
    folders += getattr(options, "runs", [])
    runs = [RunFolder(folder) for folder in folders if folder]
    return next((run for run in runs if _parts(path, run)), runs[0])


def _parts(path: str | Path, run: RunFolder) -> tuple[str, ...]:
    """The path within the run, empty if it is not in there."""
    file, folder = Path(path).absolute(), run.folder.absolute()
    return file.relative_to(folder).parts if file.is_relative_to(folder) else ()


def _step(error: ArtifactError, run: RunFolder) -> str:
    """The command that makes the file: networks of further views are trained by `features`,
    features in fp32 for look-ups are extracted by `similar`."""
    match error.step, _parts(error.path, run):
        case "stage1", ("views", *_):
            return "features"
        case "features", ("similar", *_):
            return "similar"
    return error.step


def _configuration(step: str, options: argparse.Namespace) -> list[str]:
    """The options of the running command that concern that step; the rest is in the run's
    config.yaml."""
    sections = ("catalog" if step == "ingest" else step, "views")
    words = ["--config", str(options.config)] if getattr(options, "config", None) else []
    for setting in getattr(options, "set", []):
        if setting.partition("=")[0].split(".")[0] in sections:
            words += ["--set", setting]
    return words


def _to_remove(error: ArtifactError, run: RunFolder, options: argparse.Namespace) -> Path | None:
    """What has to be removed, because the running command would keep it: a network of `compare`, a
    trial of `tune`, a folder of predictions."""
    match _parts(error.path, run):
        case ("compare", network, seed, *_):
            return run.folder / "compare" / network / seed
        case ("tune", _, _, *_):
            return Path(error.path).parent
    return options.out if error.step == "score" else None


def _ingest_words(run: RunFolder) -> list[str]:
    """The dump and the category names, as far as the store knows them."""
    try:
        dumps = run.store.dump_sources()
        named = any(category.level1 for category in run.store.taxonomy.categories)
    except ShelfsortError:
        dumps, named = ["FILE"], True
    return ["--dump", *dumps, *(["--categories", "CSV"] if named else [])]
