"""The project's exceptions. Each message is one sentence: file and place, what was expected, what
was found."""

from pathlib import Path


class ShelfsortError(Exception):
    """An error that the user can act on. The command line prints it in one line and exits with
    2."""


class DumpError(ShelfsortError):
    """A dump, or a document in it, can't be used.

    `reason` is a short name (a column of the reject tables), `detail` the sentence. `offset` counts
    bytes in the decompressed file. `fatal`: nothing after this offset can be read.
    """

    def __init__(
        self,
        source: str | Path,
        offset: int,
        reason: str,
        detail: str,
        *,
        product_id: int | str = -1,
        fatal: bool = False,
    ) -> None:
        super().__init__(f"{source}: at byte {offset}: {detail}")
        self.source, self.offset, self.reason, self.detail = str(source), offset, reason, detail
        self.product_id, self.fatal = product_id, fatal

    def __reduce__(self) -> tuple:
        return _dump_error, (
            self.source,
            self.offset,
            self.reason,
            self.detail,
            self.product_id,
            self.fatal,
        )


def _dump_error(
    source: str, offset: int, reason: str, detail: str, product_id: int | str, fatal: bool
) -> DumpError:
    """Rebuilds a DumpError in another process."""
    return DumpError(source, offset, reason, detail, product_id=product_id, fatal=fatal)


class DamagedSourceError(ShelfsortError):
    """A file of a source is damaged, and an unknown number of products lost. The command line adds
    the command that goes on without them (`--accept-damage`)."""


class ImageError(ShelfsortError):
    """The bytes of one image can't be decoded. `reason` is a short name, `detail` the sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


class TaxonomyError(ShelfsortError):
    """The category file is malformed, or ids and names contradict each other."""


class ArtifactError(ShelfsortError):
    """A file that shelfsort wrote is missing, damaged, or made from something else.

    `step` is the command that makes it: `ingest`, `stage1`, `features`, `stage2`, `evaluate`,
    `score`, `compare`, `tune` or `similar`. It has to rebuild the file, or, with `resume`, go on
    from what is there. Library code knows no more; the command line adds the run folder and prints
    a command that can be pasted (pipeline/remedy.py).

        raise ArtifactError(path, "no such file", "stage2")
    """

    def __init__(self, path: str | Path, problem: str, step: str, resume: bool = False) -> None:
        super().__init__(f"{path}: {problem} (made by step {step})")
        self.path, self.problem, self.step, self.resume = path, problem, step, resume

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.problem, self.step, self.resume)


class ConfigError(ShelfsortError):
    """A key or value of the configuration is wrong. The message names file, key, expected and
    found."""


class LockedError(ShelfsortError):
    """Another command is writing the same run directory."""
