"""The command line: one table maps each command to its function and options."""

import argparse
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from catalog.errors import ArtifactError, DamagedSourceError, ShelfsortError
from catalog.parallel import cores, quota
from pipeline import commands, flags

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130

_TRAINING = "lower stage1.batch_size, or raise stage1.accumulate"
_NO_GPU = "free the GPU, or set stage1.device=cpu"
_SMALLER = {
    "stage1": _TRAINING,
    "tune": _TRAINING,
    "compare": _TRAINING,
    "score": "lower score.batch_size",
    "features": f"lower features.batch_size; if a view is being trained, {_TRAINING}",
}
"""What to do if a GPU's memory is full."""


@dataclass(frozen=True)
class Command:
    """What a command calls, what its help says, and what adds its options."""

    function: Callable[[argparse.Namespace], int | None]
    text: str
    options: tuple[Callable[[argparse.ArgumentParser], None], ...]


RUN = (flags.run, flags.settings)
STEP = (*RUN, flags.rebuild)
COMMANDS = {
    "ingest": Command(
        commands.ingest,
        "dump -> store: deals products to splits, checks photos and copies them",
        (*STEP, flags.ingest),
    ),
    "stage1": Command(commands.stage1, "store -> stage1: trains the network", STEP),
    "features": Command(
        commands.features,
        "stage1 -> features.h5: extracts bottleneck features",
        (*STEP, flags.spread),
    ),
    "stage2": Command(
        commands.stage2,
        "features -> stage2: fits the pool of experts, trains the reclassifiers",
        (*STEP, flags.spread, flags.final),
    ),
    "evaluate": Command(
        commands.evaluate, "accuracy on the test split, of each stage", (*STEP, flags.rivals)
    ),
    "report": Command(commands.report, "evaluation -> one HTML page for analysts", (flags.report,)),
    "plot": Command(commands.plot, "draws one figure of a run: SVG, PNG or PDF", (flags.plot,)),
    "score": Command(
        commands.score,
        "the categories of all products of a dump, a folder or a table of photos",
        (*RUN, flags.score),
    ),
    "similar": Command(
        commands.similar,
        "products of the catalogue that look like some photos",
        (*STEP, flags.similar),
    ),
    "add-category": Command(
        commands.add_category,
        "a new category from 5 to 20 photos, as an experiment until the next training",
        (*RUN, flags.add_category),
    ),
    "export": Command(
        commands.export,
        "both stages as one folder that needs neither shelfsort nor PyTorch",
        (flags.run, flags.export),
    ),
    "predict": Command(
        commands.predict, "the category of one product, from its photos", (*RUN, flags.predict)
    ),
    "unpack": Command(
        commands.unpack,
        "store -> photos in folders (ImageFolder), WebDataset shards or BSON dumps",
        (flags.run, flags.unpack),
    ),
    "compare": Command(
        commands.compare,
        "trains several networks on one store and compares them on validation",
        (flags.run, flags.rebuild, flags.compare),
    ),
    "tune": Command(
        commands.tune,
        "searches the published grids on held-out data, never on test",
        (*RUN, flags.tune),
    ),
    "config": Command(
        commands.config,
        "prints the whole configuration, of a run or with every default",
        (flags.settings, flags.config),
    ),
    "configs": Command(
        commands.configs, "lists the configurations that --config takes by name", ()
    ),
    "synthetic": Command(
        commands.synthetic, "writes a synthetic dump to try things with", (flags.synthetic,)
    ),
    "demo": Command(
        commands.demo, "the whole product on synthetic data, in minutes", (flags.run, flags.demo)
    ),
    "doctor": Command(commands.doctor, "checks the installation", ()),
}


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="shelfsort",
        description="Sorts the products of a catalogue into categories by their photos.",
    )
    top.add_argument(
        "--debug", action="store_true", help="show the traceback of errors, and log more"
    )
    parsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = command.text
        sub = parsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(function=command.function)
        for add in command.options:
            add(sub)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit code: 0 success, 2 user error, 1 bug, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(words)
    _set_environment()
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING,
        format="%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        return options.function(options) or 0
    except ShelfsortError as error:
        if options.debug:
            traceback.print_exc()
        print(f"shelfsort {options.command}: {_sentence(error, options, words)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            from pipeline.remedy import same_command

            print(f"\nstopped; go on with: {same_command(words)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _out_of_memory(error) and not options.debug:
            reason = ". ".join(str(error).split(". ")[:2])
            advice = _SMALLER.get(options.command, _NO_GPU)
            print(f"shelfsort {options.command}: {reason}; {advice}", file=sys.stderr)
            return USER_ERROR
        traceback.print_exc()
        print(
            "This is a bug in shelfsort: please report it with the lines above and what "
            "`shelfsort doctor` prints.",
            file=sys.stderr,
        )
        return BUG


def _set_environment() -> None:
    """Sets the environment that libraries read when they are loaded, later. Limits the threads of
    arithmetic to a container's quota: by default there is one for each processor of the machine.
    cuBLAS repeats its results to the bit (`stage1.deterministic`) only with a workspace of fixed
    size."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if quota() < math.inf:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def _out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory is full; doesn't import torch to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _sentence(error: ShelfsortError, options: argparse.Namespace, words: Sequence[str]) -> str:
    """The error; if it is about an artefact, with the command that rebuilds it;
    if about a damaged source, with the one that goes on without the rest of it."""
    if not isinstance(error, (ArtifactError, DamagedSourceError)):
        return str(error)
    from pipeline.remedy import same_command, with_remedy

    if isinstance(error, ArtifactError):
        return with_remedy(error, options, words)
    return f"{error}, or go on without them: {same_command(words)} --accept-damage"
