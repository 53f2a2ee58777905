import base64
import json
import re
from typing import Any

import numpy as np

from sttm.view import page

from .scenes import two_steps

NASTY = "</script><script>alert('x')</script> & \"clip\" <b>.mp4"


def data_of(html: str) -> Any:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_the_plan_and_the_frames() -> None:
    data = data_of(page(*two_steps(frames=4).arguments))
    assert (data["steps"], data["rows"], data["columns"]) == (2, 1, 3)
    assert (data["tokensIn"], data["tokensOut"]) == (6, 3)
    label = np.frombuffer(base64.b64decode(data["label"]), dtype="<i4")
    assert label.tolist() == [0, 0, 1, 0, 2, -1]
    assert data["first"] == [0, 0, 1]
    assert data["times"] == [0.0, 2.0]
    assert all(frame.startswith("data:image/jpeg;base64,") for frame in data["frames"])


def test_the_page_needs_nothing_from_outside() -> None:
    html = page(*two_steps().arguments, title="clip.mp4", note="all tokens")
    assert re.findall(r"(?i)https?:|//[a-z]|@import|<link|\burl\(", html) == []
    assert set(re.findall(r'\b(?:src|href)="([^"]*)"', html)) == set()
    assert "default-src 'none'" in html


def test_names_are_escaped() -> None:
    html = page(*two_steps().arguments, title=NASTY, note=NASTY)
    assert "<script>alert" not in html
    assert html.count("&lt;b&gt;.mp4") == 3  # in the tab, the heading and the note


def test_large_frames_are_reduced() -> None:
    large = page(*two_steps(height=1500, width=3000).arguments)
    assert len(large) < 200_000
