"""Every method has a page; its table is whole. tests/docs runs its example."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from sttm.methods import get_method, list_methods
from tests.parity.field import CASES

DOCS = Path(__file__).parents[2] / "docs"
NAMES = [info.name for info in list_methods() if info.name != "identity"]

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")


@pytest.mark.parametrize("name", NAMES)
def test_the_page(name: str) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    method: Any = get_method(name, **({"size": (1, 1)} if name == "single" else {"keep": 0.5}))
    table = re.findall(r"^\| `(\w+)` \| ([^ ]+)[^|]* \|", page, flags=re.MULTILINE)
    fields = dataclasses.fields(method)
    assert [row[0] for row in table] == [field.name for field in fields]
    for (option, shown), field in zip(table, fields, strict=True):
        required = field.default is dataclasses.MISSING
        default = "required" if required else str(field.default)
        assert shown.strip('`":') == default, option
    assert f"methods/{name}.md" in (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({case["method"] for case in CASES} - {"vidcom2_vllm"}))
def test_the_page_tells_the_layer_and_what_was_compared(name: str) -> None:
    page = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    (info,) = [info for info in list_methods() if info.name == name]
    layer = "That of the model's family" if info.default_layer is None else info.default_layer
    assert f"**Layer.** {layer}" in page
    cases = sum(case["method"] == name for case in CASES)
    checked = " ".join(page.split("**Checked.**")[1].split("\n\n")[0].split())
    assert f"in {cases} of {cases} cases" in checked
    fairness = (DOCS / "fairness.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{name}`[^|]* \| {cases} \| {cases} \|", fairness, flags=re.MULTILINE)
