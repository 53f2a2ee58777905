"""What stands in several files agrees: the version, pinned actions, what the guide names."""

import re
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import sttm
from sttm.deprecated import GONE_IN

ROOT = Path(__file__).parents[1]
SOURCE = Path(sttm.__file__).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GUIDE = ROOT / "docs" / "contributing.md"


def test_the_version_stands_in_one_place() -> None:
    assert version("sttm") == sttm.__version__, "install again: pip install --editable ."
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [sttm.__version__]
    released = re.findall(
        r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert released[:1] in ([], [sttm.__version__])


def test_old_names_go_when_they_were_said_to() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)]

    assert numbers(sttm.__version__) < numbers(GONE_IN), f"remove what is called from {GONE_IN} on"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_their_actions_and_ask_for_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)$", text, re.MULTILINE)
    assert uses
    assert [line for line in uses if not re.fullmatch(r"\S+@[0-9a-f]{40} # v[\d.]+", line)] == []
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert "run: ${{ github" not in text


@pytest.mark.skipif(not GUIDE.is_file(), reason="the documentation is not here")
def test_what_the_guide_names_exists() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+)\.py:([\w.]+)`", text)
    assert len(named) > 20
    for file, names in named:
        found: object = import_module(f"sttm.{file.replace('/', '.')}")
        for name in names.split("."):
            found = getattr(found, name)
    for place in re.findall(r"`([\w./-]+/[\w.-]*)`", text):
        if "*" not in place:
            assert (ROOT / place).exists() or (SOURCE / place).exists(), place
