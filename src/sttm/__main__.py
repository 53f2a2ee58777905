"""The ``sttm`` command, also as ``python -m sttm``."""

import sys

from sttm.errors import MissingExtraError
from sttm.extras import require


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: with code 1 and one sentence if the extra ``cli`` is not installed.
    """
    try:
        require(("cli",), "the command sttm")
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    from sttm.cli import main as run

    run()


if __name__ == "__main__":
    main()
