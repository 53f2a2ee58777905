"""The examples of the pages of methods that read attention run, and their tables are whole."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from sttm.methods import get_method

PAGES = Path(__file__).parents[2] / "docs" / "methods"
NAMES = ("fastv", "framefusion", "visionzip", "fastvid", "holitom", "dycoke")

pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the documentation is not here")


@pytest.mark.parametrize("name", NAMES)
def test_the_page(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0], names)
    assert {"plan", "merged"} <= set(names)
    method: Any = get_method(name, keep=0.5)
    table = re.findall(r"^\| `(\w+)` \| (\S+) \|", page, flags=re.MULTILINE)
    wanted = [
        (field.name, "required" if field.default is dataclasses.MISSING else str(field.default))
        for field in dataclasses.fields(method)
    ]
    assert table == wanted
    assert f"methods/{name}.md" in (PAGES.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_guide_to_evidence_runs() -> None:
    guide = (PAGES.parent / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    text = "\n".join(block.replace("@register\n", "") for block in blocks)
    names: dict[str, object] = {}
    exec("from sttm.ops.selection import kept_groups, most\n" + text, names)
    assert "MostAttended" in names
