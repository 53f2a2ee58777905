"""Every Python snippet of the README and the documentation runs, and so does every example."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sttm import nano
from tests.cli.marks import needs_nano

from .pages import DOCS, ROOT, blocks, pages

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not here")

NOT_RUN = {"docs/performance.md": 1, "docs/ray.md": 1, "docs/serve.md": 1}


def inputs() -> Any:
    """What nano's processor makes of a question about a clip."""
    content = [{"type": "video"}, {"type": "text", "text": "Which digit appears?"}]
    processor = nano.load()[1]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    frames = nano.make_clip(seed=7, frames=4).frames
    return processor(text=[text], videos=[frames], return_tensors="pt")


GIVEN: dict[str, Callable[[], Any]] = {"model": lambda: nano.load()[0], "inputs": inputs}


@needs_nano
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", [page for page in pages() if blocks(page, "python")])
def test_the_snippets_of_a_page_run_one_behind_the_other(page: str) -> None:
    names: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page, "python"):
        if block.given:
            exec(block.code, {name: GIVEN[name]() for name in block.given})
        elif block.runs:
            exec(compile(block.code, page, "exec"), names)
    if page.startswith("docs/methods/"):
        assert {"plan", "merged"} <= set(names)


def test_what_does_not_run_is_known() -> None:
    skipped = {page: sum(not block.runs for block in blocks(page)) for page in pages()}
    assert {page: count for page, count in skipped.items() if count} == NOT_RUN


@needs_nano
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("attach.py", [], "1024 -> 307 video tokens\n"),
        ("ask_many.py", ["clip.mp4", "Qwen/Qwen2.5-VL-7B-Instruct", "What?", "Who?"], "Who?\n"),
    ],
)
def test_examples_run(
    name: str,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert said in capsys.readouterr().out


def test_no_example_is_left_out() -> None:
    """tests/cli/test_plugins.py runs the plugin, tests/server the function for Open WebUI."""
    found = {path.name for path in Path(ROOT / "examples").iterdir()}
    assert found == {"attach.py", "ask_many.py", "open_webui_filter.py", "plugin"}
