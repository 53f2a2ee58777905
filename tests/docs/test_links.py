"""Links and anchors of the README and the documentation lead somewhere; targets of make exist."""

import re

import pytest

from .pages import DOCS, ROOT, pages, read, without_blocks

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TARGET = re.compile(r"(?:`|^)make (?!it\b)([a-z-]+)", re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors of a page that GitHub and the site's builder agree on."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), flags=re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", text) for text in words if not re.search(r"\s\s|--", text)}


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.findall(without_blocks(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT.resolve()))), link
        if page.startswith("docs/"):
            assert target.is_relative_to(DOCS.resolve()), f"{link} is not on the site"


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.MULTILINE))
    named = {name for page in pages() for name in _TARGET.findall(read(page))}
    assert named <= targets
    assert {"demo", "test"} <= set(_TARGET.findall(read("README.md")))
