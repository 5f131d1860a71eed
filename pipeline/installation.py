"""This installation: where its code lies, whether other code stands in for it, and its revision.

Imports nothing of shelfsort, because it runs before it is known whose `catalog` that would be.
"""

import hashlib
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Folder of the five packages: a checkout, or site-packages."""
ARITHMETIC = ("torch", "xgboost", "numpy")
"""Libraries whose version may change an answer."""
PACKAGES = ("catalog", "stage1_cnn", "features", "stage2_xgb", "pipeline")


def require_own_packages(root: Path = ROOT) -> None:
    """Raises ImportError if Python would import a package of ours from outside `root`.

    The names are common words: a folder `features` in the working folder or in PYTHONPATH comes
    before the installed one.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        expected = root / name / "__init__.py"
        if spec is None:
            raise ImportError(f"{expected}: no such file; install shelfsort again")
        origin = spec.origin or next(iter(spec.submodule_search_locations or ()), name)
        if Path(origin).resolve() != expected.resolve():
            raise ImportError(
                f"{origin}: stands in for shelfsort's package {name}, expected {expected}; "
                "rename it, or remove its folder from PYTHONPATH, "
                "or install shelfsort into an environment of its own"
            )


def other_owners() -> dict[str, list[str]]:
    """Packages of ours that another installed distribution brings as well, with its name: if both
    lie in one folder, their files are mixed, whoever was installed last."""
    owners = metadata.packages_distributions()
    others = {name: sorted({*owners.get(name, [])} - {"shelfsort"}) for name in PACKAGES}
    return {name: distributions for name, distributions in others.items() if distributions}


def version() -> str | None:
    """The installed version; None if the code runs without having been installed."""
    try:
        return metadata.version("shelfsort")
    except metadata.PackageNotFoundError:
        return None


def revision(root: Path = ROOT) -> str:
    """git revision of the code, with `+` if it was changed since; outside a checkout the version.

    A repository around `root`, such as that of a project with shelfsort in its `.venv`, is not
    shelfsort's own.
    """
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    if (root / ".git").exists():
        try:
            result = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=10, check=True
            )
            return result.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"
    return version() or "unknown"


def code_fingerprint(root: Path = ROOT) -> str:
    """16 hexadecimal digits of all our Python code: the same on two machines if they run the same,
    installed or from a checkout."""
    state = hashlib.sha256()
    for name in PACKAGES:
        for path in sorted((root / name).rglob("*.py")):
            state.update(f"{path.relative_to(root).as_posix()}\0".encode())
            state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:16]


def versions() -> dict[str, str]:
    """What shapes an answer besides the model: our code, and the libraries that compute (without
    the part of a version that names a build, such as +cu126)."""
    libraries = {name: metadata.version(name).partition("+")[0] for name in ARITHMETIC}
    return {"code": code_fingerprint(), **libraries}
