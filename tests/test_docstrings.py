"""Docstrings have sections that the documentation's parser reads: a name on a line of its own."""

import re
from pathlib import Path

SECTION = re.compile(r"^\s*(Args|Attributes|Raises|Returns|Warns|Yields): \S")
SOURCE = Path(__file__).parents[1] / "src"


def test_no_section_has_its_text_on_the_line_of_its_name() -> None:
    unread = [
        f"{path.relative_to(SOURCE)}:{number}"
        for path in SOURCE.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SECTION.match(line)
    ]
    assert unread == []
