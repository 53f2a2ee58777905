import shutil
from pathlib import Path

import pytest

from sttm.evaluation.environment import PACKAGE, code_digest


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("evaluation/tasks/parsers.py", True),
        ("ops/quadtree.py", True),
        ("cli/app.py", False),
        ("view/__init__.py", False),
    ],
)
def test_the_digest_covers_what_decides_answers(tmp_path: Path, changed: str, counts: bool) -> None:
    package = tmp_path / "sttm"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    before = code_digest(package)
    path = package / changed
    path.write_text(path.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert (code_digest(package) != before) is counts
