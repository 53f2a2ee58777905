"""Compare with all numbers, and print the table: ``make parity``."""

import sys

from tests.parity import field, scores, sttm
from tests.parity.comparison import table

SOURCES = (sttm, field, scores)


def main() -> int:
    """Print one line per source, and every case that differs; fail if there is one."""
    found = [comparison for source in SOURCES for comparison in source.comparisons()]
    different = [c for c in found if not c.equal]
    sys.stdout.write(table(found) + "\n")
    for one in different:
        sys.stdout.write(f"differs: {one}\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
