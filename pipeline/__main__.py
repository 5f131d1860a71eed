"""The command `shelfsort`, which `python -m pipeline` is too."""

import sys

from pipeline.installation import require_own_packages


def main() -> int:
    """Refuses to run if another program's packages stand in for ours (exit code 2), then calls
    `pipeline.cli`, which is imported only now because it imports those packages."""
    try:
        require_own_packages()
    except ImportError as error:
        print(f"shelfsort: {error}", file=sys.stderr)
        return 2
    from pipeline import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
