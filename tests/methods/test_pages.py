"""The examples of the methods' pages run, and their tables list every field."""

import inspect
import re
from pathlib import Path

import pytest

from sttm.methods import get_method

PAGES = Path(__file__).parents[2] / "docs" / "methods"
NAMES = ("dycoke1", "evs", "octree", "prunevid", "single", "tome", "uniform", "vidcom2")

pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the documentation is not here")


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    example = re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example[0], names)
    assert {"plan", "merged"} <= set(names)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_lists_every_field(name: str) -> None:
    options = {"size": (1, 1)} if name == "single" else {"keep": 0.5}
    method = get_method(name, **options)
    fields = list(inspect.signature(type(method)).parameters)
    assert re.findall(r"^\| `(\w+)` \|", page(name), flags=re.MULTILINE) == fields
    assert f"methods/{name}.md" in (PAGES.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
