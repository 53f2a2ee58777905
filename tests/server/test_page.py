"""What the page is made of: routes for pictures and cells, and what keeps other pages out."""

import base64
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpcore
import numpy as np
import pytest

from sttm import nano
from sttm.server import samples as offered
from sttm.server.browser_page import PATHS
from sttm.server.config import ServerConfig
from tests.chat.tiny import FAMILIES, bundle

from .conftest import NAME, Running, Sample, running

Serve = Callable[..., Running]


def upload(server: Running, path: Path, name: str = "clip.mp4") -> str:
    """Upload a file; returns its id."""
    border = b"----border"
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = b"--%b\r\n%b%b\r\n--%b--\r\n" % (border, head.encode(), path.read_bytes(), border)
    kind: Any = {"content-type": f"multipart/form-data; boundary={border.decode()}"}
    done = httpcore.request("POST", f"{server.url}/v1/files", headers=kind, content=body)
    assert done.status == 200, done.content
    return str(json.loads(done.content)["id"])


def watch(server: Running, sample: Sample, **sttm: Any) -> tuple[str, dict[str, Any]]:
    file_id = upload(server, sample.path)
    _, answer = server.ask(file_id, sample.question, sttm=sttm)
    return file_id, answer["sttm"]


def test_a_watched_video_has_cells_frames_and_a_report(serve: Serve, samples: list[Sample]) -> None:
    server, sample = serve(), samples[1]
    file_id, details = watch(server, sample, keep=0.3)
    key = details["video_id"]
    status, facts = server.call("GET", f"/v1/videos/{key}")
    assert (status, facts["file_id"], len(facts["timestamps"])) == (200, file_id, 12)
    assert facts["stages_ms"]["prefill"] > 0
    cells = facts["cells"]
    label = np.frombuffer(base64.b64decode(cells["label"]), "<i4")
    assert len(label) == details["tokens_in"] == cells["steps"] * cells["rows"] * cells["columns"]
    assert len(np.unique(label[label >= 0])) == details["tokens_out"] == len(cells["first"])
    frame = httpcore.request("GET", f"{server.url}/v1/videos/{key}/frames/11.jpg")
    assert (frame.status, frame.content[:3]) == (200, b"\xff\xd8\xff")
    assert server.call("GET", f"/v1/videos/{key}/frames/12.jpg")[0] == 404
    report = httpcore.request("GET", f"{server.url}/v1/videos/{key}/report.html")
    assert report.content.count(b"data:image/jpeg") == 12
    assert b"clip.mp4" in report.content
    server.call("DELETE", f"/v1/files/{file_id}")
    status, gone = server.call("GET", f"/v1/videos/{key}/report.html")
    assert (status, gone["error"]["code"]) == (404, "file_not_found")
    for path in ("/v1/videos/none", "/v1/videos/none/frames/0.jpg", "/v1/videos/none/report.html"):
        assert server.call("GET", path)[0] == 404


def test_a_video_with_all_tokens_has_frames_alone(serve: Serve, samples: list[Sample]) -> None:
    server = serve()
    _, details = watch(server, samples[3], keep=1.0)
    url = f"/v1/videos/{details['video_id']}"
    assert server.call("GET", url)[1]["cells"] is None
    assert httpcore.request("GET", f"{server.url}{url}/frames/0.jpg").status == 200
    assert server.call("GET", f"{url}/report.html")[1]["error"]["code"] == "not_reduced"


def test_a_request_may_name_a_method(serve: Serve, samples: list[Sample]) -> None:
    server, sample = serve(), samples[3]
    about = server.call("GET", "/v1/models")[1]["data"][0]["sttm"]
    assert (about["method"], about["keep"], about["is_kept"]) == ("sttm", 0.3, False)
    assert {"sttm", "uniform", "tome"} <= set(about["methods"])
    assert not {"fastv", "framefusion", "identity", "dycoke"} & set(about["methods"])
    file_id, _ = watch(server, sample, keep=0.5, method="uniform")
    (video,) = server.call("GET", "/v1/videos")[1]["data"]
    assert video["method"].startswith("uniform(")
    for name, said in (("fastv", "drops tokens by the question"), ("stt", "Did you mean")):
        status, body = server.ask(file_id, sttm={"keep": 0.5, "method": name})
        assert status == 400
        assert said in body["error"]["message"]


def test_the_page_is_there_when_asked_for(serve: Serve, samples: list[Sample]) -> None:
    assert serve().call("GET", "/v1/samples")[0] == 404
    server = serve(page=True, keys=("secret",))
    for path in PATHS:
        done = httpcore.request("GET", server.url + path)
        headers = {name.lower(): value for name, value in done.headers}
        policy = headers[b"content-security-policy"].decode()
        assert done.status == 200
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers[b"x-content-type-options"] == b"nosniff"
        text = done.content.decode()
        assert "https:" not in text
        assert not any(word in text for word in ("innerHTML", "insertAdjacentHTML", "outerHTML"))
        assert not (path.endswith(".html") and "<style" in text)
    assert server.call("GET", "/page/..%2fapp.py", authorization="Bearer secret")[0] == 404
    assert server.call("GET", "/v1/samples")[0] == 401
    status, listed = server.call("GET", "/v1/samples", authorization="Bearer secret")
    assert (status, listed["data"]) == (200, [])


def test_colours_can_be_told_apart() -> None:
    def light(colour: str) -> float:  # relative luminance, as WCAG defines it
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    style = files("sttm.server").joinpath("page/style.css").read_text()
    themes = [dict(re.findall(r"--(\S+): (#\w{6})", block)) for block in style.split("}")[:2]]
    for colours in themes:
        pairs = {(text, on): 4.5 for text in ("ink", "faint") for on in ("paper", "card", "soft")}
        pairs |= {(text, on): 4.5 for text in ("accent", "wrong") for on in ("card", "soft")}
        pairs |= {("on-accent", "accent"): 4.5, ("bar", "soft"): 3.0, ("accent", "soft"): 3.0}
        for (text, on), least in pairs.items():
            one, other = sorted((light(colours[text]), light(colours[on])))
            assert (other + 0.05) / (one + 0.05) >= least, (text, on)


def test_nano_answers_about_the_samples(serve: Serve, tmp_path: Path) -> None:
    server, right, asked = serve(page=True, samples=True), 0, 0
    for sample in server.call("GET", "/v1/samples")[1]["data"]:
        clip = httpcore.request("GET", f"{server.url}/v1/samples/{sample['name']}")
        (tmp_path / "clip.mp4").write_bytes(clip.content)
        file_id = upload(server, tmp_path / "clip.mp4", sample["name"])
        for question in sample["questions"]:
            _, body = server.ask(file_id, question["text"])
            right += body["choices"][0]["message"]["content"] == question["answer"]
            asked += 1
    assert asked >= 4 * len(offered.list_samples())
    assert right >= 0.8 * asked
    assert server.call("GET", "/v1/samples/other.mp4")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),  # DNS rebinding
        ({"origin": "OWN"}, 404),  # let through: there is no such file
        ({"origin": "http://friend.example"}, 404),
        ({}, 404),
    ],
)
def test_no_other_page_can_change_anything(
    serve: Serve, headers: dict[str, str], status: int
) -> None:
    server = serve(page=True, origins=("http://friend.example",))
    named = {name: value.replace("OWN", server.url) for name, value in headers.items()}
    assert server.call("DELETE", "/v1/files/file-x", **named)[0] == status
    body = {"model": NAME}
    asked, _ = server.call("POST", "/v1/chat/completions", body, **named)
    assert asked == (403 if status == 403 else 400)
    if "host" in headers:
        assert server.call("GET", "/", **named)[0] == 403


@pytest.mark.filterwarnings("ignore::sttm.errors.ContextWarning")  # of what is tiny
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_cells_on_its_frames(family: str, tmp_path: Path) -> None:
    tiny = bundle(family)
    (tmp_path / "files").mkdir()
    small = Sample(tmp_path / "small.mp4", "What?", "")
    nano.write_clip(nano.make_clip(3, 6, size=64), small.path)
    config = ServerConfig(NAME, tmp_path / "files", max_frames=6)
    with running((tiny.model, tiny.processor), config) as server:
        _, details = watch(server, small, keep=0.5)
        facts = server.call("GET", f"/v1/videos/{details['video_id']}")[1]
        cells = facts["cells"]
        assert cells["tokensOut"] == details["tokens_out"]
        assert cells["times"] == [facts["timestamps"][frame] for frame in cells["frameOfStep"]]
        for frame in cells["frameOfStep"]:
            url = f"{server.url}/v1/videos/{details['video_id']}/frames/{frame}.jpg"
            assert httpcore.request("GET", url).status == 200
