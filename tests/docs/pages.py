"""What stands in the README and in the documentation: blocks of code, commands, links, headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# <!-- test: not run, REASON --> stands in front of a block that does not run, and
# <!-- test: given NAME, NAME --> in front of one that runs alone, with these names.
_BLOCK = re.compile(
    r"^(?:<!-- test: (?P<marker>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(sttm [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``marker`` is what the comment in front of it says, "" without one."""

    language: str
    code: str
    marker: str

    @property
    def runs(self) -> bool:
        return not self.marker.startswith("not run, ")

    @property
    def given(self) -> list[str]:
        return self.marker.removeprefix("given ").split(", ") if "given " in self.marker else []


def pages() -> list[str]:
    """Paths from the root; the README is the first one."""
    return ["README.md", *sorted(str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md"))]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    found = [
        Block(match["language"], match["code"], match["marker"] or "")
        for match in _BLOCK.finditer(read(page))
    ]
    return [block for block in found if language in (None, block.language)]


def without_blocks(page: str) -> str:
    return _BLOCK.sub("", read(page))


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of every ``sttm`` of a page's blocks, without what is piped behind it."""
    for block in blocks(page):
        if block.language in ("", "bash"):
            for line in block.code.replace("\\\n", " ").splitlines():
                words = (
                    shlex.split(line.removeprefix("$ "), comments=True) if "sttm" in line else []
                )
                if "sttm" in words and words[0] in ("sttm", "torchrun"):
                    yield _own(words[words.index("sttm") + 1 :])


def mentions(page: str) -> list[list[str]]:
    """The arguments of every ``sttm`` between backticks."""
    return [_own(shlex.split(text)[1:]) for text in _INLINE.findall(without_blocks(page))]


def _own(words: list[str]) -> list[str]:
    words = words[: words.index("|")] if "|" in words else words
    return [word for word in words if word not in ("...", "…")]
