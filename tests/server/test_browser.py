"""The page of ``sttm ui`` in a real browser: Debian's Chromium, without a window."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sttm.server.config import ServerConfig

from .conftest import NAME, Running, Sample, running

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is found")
NASTY = "<img src=x onerror=alert(1)>.mp4"
EVENT = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def served(model: Any, folder: Path, **options: Any) -> Iterator[Running]:
    (folder / "files").mkdir(exist_ok=True)
    config = ServerConfig(NAME, folder / "files", max_frames=32, page=True, samples=True, **options)
    with running(model, config, folder / "videos") as server:
        yield server


@contextmanager
def opened(chromium: Any, url: str, **options: Any) -> Iterator[Any]:
    """Open the page; an error of its code or of its policy fails the test."""
    context, wrong = chromium.new_context(**options), []
    page = context.new_page()
    page.set_default_timeout(60_000)  # of a busy machine
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Policy" in said.text else None)
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(url)
    page.wait_for_selector("#model:not(:empty), #notice:visible")
    yield page
    context.close()
    assert wrong == []


def facts(page: Any, pane: int = 0) -> str:
    return str(page.locator(".facts").nth(pane).inner_text())


def add(page: Any, path: Path, name: str = "clip.mp4") -> None:
    """Choose a file, and wait until it was watched."""
    content = {"name": name, "mimeType": "video/mp4", "buffer": path.read_bytes()}
    page.set_input_files("#files", [content])
    page.wait_for_selector(".facts dd")


def ask(page: Any, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.wait_for_selector("#send:visible")


def test_the_first_minute_and_a_restart(
    chromium: Any, model: Any, samples: list[Sample], tmp_path: Path
) -> None:
    sample = samples[0]
    with served(model, tmp_path) as server, opened(chromium, server.url) as page:
        assert "knows only its own clips" in page.inner_text("#samples")
        add(page, sample.path)
        assert "2048 → 614" in facts(page)
        page.fill(".keep", "10")
        page.locator(".facts", has_text="2048 → 204").wait_for()
        page.select_option(".method", "uniform")
        page.wait_for_selector("#videos >> text=watched at 3 settings")
        page.select_option(".method", "sttm")
        page.fill(".keep", "30")
        page.locator(".facts", has_text="2048 → 614").wait_for()
        ask(page, sample.question)
        answer = page.locator(".answer")
        assert answer.locator("p").first.inner_text() == sample.answer
        assert "first token" in answer.inner_text()
        page.fill("#time", "9")
        assert page.inner_text("#clock") == "0:09 · 10/32"
        page.wait_for_selector("canvas[aria-label^='Frame 10 of 32']")
        for button, ending, wanted in (
            ("Markdown", ".md", f"**{sample.question}**"),
            ("JSON", ".json", '"question"'),
            ("Report", ".html", "data:image/jpeg"),
        ):
            with page.expect_download() as saved:
                page.click(f"#export >> text={button}")
            assert saved.value.suggested_filename == f"clip{ending}"
            assert wanted in Path(saved.value.path()).read_text()
        (tmp_path / "report.html").write_bytes(Path(saved.value.path()).read_bytes())
        page.goto((tmp_path / "report.html").as_uri())
        page.wait_for_selector("#counts:text('2048 -> 614 tokens')")
        page.fill("#slider", "9")
        page.wait_for_selector("#caption:text('frame 10 of 32')")
        page.check("#colours")
        page.hover("#frame")
        page.wait_for_selector("#life b:text('input tokens')")
    with served(model, tmp_path) as server, opened(chromium, server.url) as page:
        page.click("#videos >> text=clip.mp4")
        page.locator(".facts", has_text="2048 → 614").wait_for()
        page.wait_for_selector("canvas[aria-label^='Frame 1 of 32']")
        ask(page, sample.question)
        assert page.inner_text(".answer p") == sample.answer
        assert (server.found("watched"), server.found("store")) == (0, 2)
        page.click("[aria-label='Delete clip.mp4']")
        page.wait_for_selector("#empty")
        assert server.call("GET", "/v1/videos")[1]["data"] == []


def test_side_by_side_at_phone_width_in_the_dark(chromium: Any, model: Any, tmp_path: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    with served(model, tmp_path) as server, opened(chromium, server.url, **phone) as page:
        page.click("#samples >> text=clip-1.mp4")
        page.wait_for_selector(".facts dd")
        page.click("summary")
        page.click("#measure")
        page.wait_for_selector("#stages tr:has-text('Video tokens') td:nth-child(3):text('2048')")
        page.check("#both")
        page.locator(".facts", has_text="2048 → 2048").wait_for()
        page.click("#ideas button >> nth=1")
        page.wait_for_selector("#send:visible")
        answers = page.locator(".answer").all_inner_texts()
        assert len(answers) == 2
        assert all("✓" in text for text in answers)
        assert "sttm, 30 %" in answers[0]
        assert "all tokens" in answers[1]
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        page.click("#theme")
        assert (dark, page.evaluate(paper)) == ("rgb(20, 21, 25)", "rgb(246, 246, 243)")


DROP = """async ([names, content]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  for (const name of names) dataTransfer.items.add(new File([bytes], name));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", options));
}"""


def test_several_videos_are_dropped_and_reached_by_keyboard(
    chromium: Any, model: Any, samples: list[Sample], tmp_path: Path
) -> None:
    content = base64.b64encode(samples[3].path.read_bytes()).decode()
    with served(model, tmp_path) as server, opened(chromium, server.url) as page:
        page.evaluate(DROP, [["one.mp4", "two.mp4"], content])
        page.wait_for_selector("#videos li:nth-child(2)")
        page.wait_for_selector(".facts dd")
        assert page.inner_text("#viewer-title") == "one.mp4"
        page.focus("#files")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the newest is the first
        page.wait_for_selector("#viewer-title:text('two.mp4')")
        page.wait_for_selector("canvas[aria-label^='Frame 1 of 6']")
        page.focus("#time")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#clock").endswith("2/6")
        unnamed = page.evaluate(UNNAMED)
        assert unnamed == []


UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea")]
  .filter((e) => e.checkVisibility() && !e.textContent.trim() && !e.ariaLabel && !e.labels?.length)
  .map((e) => e.outerHTML)"""


def test_texts_are_texts_and_times_seek(
    chromium: Any, model: Any, samples: list[Sample], tmp_path: Path
) -> None:
    said = "<img src=x onerror=alert(2)> at [00:07] and [0:00:12]"
    with served(model, tmp_path) as server, opened(chromium, server.url) as page:
        add(page, samples[0].path, NASTY)
        assert NASTY in page.inner_text("#viewer-title")
        assert NASTY in page.inner_text("#videos")
        events = [{**EVENT, "choices": [{**EVENT["choices"][0], "delta": {"content": said}}]}]
        _, answer = server.ask(server.call("GET", "/v1/files")[1]["data"][0]["id"])
        events.append({**EVENT, "sttm": answer["sttm"]})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(content_type="text/event-stream", body=body),
        )
        ask(page, "<b>When?</b>")
        assert page.inner_text(".asked") == "<b>When?</b>"
        assert "<img src=x onerror=alert(2)> at 00:07" in page.inner_text(".answer")
        page.click(".time >> text=0:00:12")
        assert page.inner_text("#clock").startswith("0:12")
        page.click(".time >> text=00:07")
        assert page.inner_text("#clock").startswith("0:07")


def test_a_file_chosen_before_the_list_is_there_stays_in_it(
    chromium: Any, model: Any, samples: list[Sample], tmp_path: Path
) -> None:
    held: list[tuple[Any, Any]] = []

    def hold_the_list(route: Any) -> None:
        if route.request.method == "GET":
            held.append((route, route.fetch()))  # as it was before the upload
        else:
            route.continue_()

    with served(model, tmp_path) as server:
        page = chromium.new_page()
        page.set_default_timeout(20_000)
        page.route("**/v1/files", hold_the_list)
        page.goto(server.url)
        page.wait_for_selector("#model:not(:empty)")
        content = {"name": "a.mp4", "mimeType": "video/mp4", "buffer": samples[0].path.read_bytes()}
        page.set_input_files("#files", [content])
        page.wait_for_timeout(1_000)  # enough for an upload that does not wait
        [(route, response)] = held
        route.fulfill(response=response)
        page.wait_for_selector(".facts dd")  # it was watched
        assert "a.mp4" in page.inner_text("#videos")
        page.close()


def test_what_goes_wrong_is_said(
    chromium: Any, model: Any, samples: list[Sample], tmp_path: Path
) -> None:
    wrong = tmp_path / "notes.txt"
    wrong.write_text("no video")
    with (
        served(model, tmp_path, keys=("secret",)) as server,
        opened(chromium, server.url, **{"viewport": {"width": 1280, "height": 800}}) as page,
    ):
        assert "no valid API key" in page.inner_text("#notice")
        page.fill("#key-value", "secret")
        page.press("#key-value", "Enter")
        page.wait_for_selector("#model:not(:empty)")
        page.set_input_files("#files", [wrong])
        page.wait_for_selector("#notice >> text=does not begin as a video does")
        assert page.locator("#videos >> text=notes.txt").count() == 1  # uploaded, not watched
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body")
