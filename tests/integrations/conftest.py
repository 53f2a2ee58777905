import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sttm.nano.mp4 import write_clip
from sttm.nano.questions import scene_questions
from sttm.nano.scenes import make_scene

FRAMES = 4
SEEDS = (50_000_000, 50_000_001)


class Asked(NamedTuple):
    video: str
    question: str
    answer: str


@pytest.fixture(scope="session")
def nano() -> tuple[Any, Any]:
    from sttm.nano.model import load

    return load()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, and six questions in which they take turns."""
    folder = tmp_path_factory.mktemp("data")
    about: list[list[Asked]] = []
    for seed in SEEDS:
        clip = make_scene(seed, FRAMES)
        path = folder / f"{seed}.mp4"
        write_clip(clip, path)
        questions = scene_questions(clip, seed)[:3]
        about.append([Asked(str(path), each.text, each.answer) for each in questions])
    lines = [json.dumps(item._asdict()) for pair in zip(*about) for item in pair]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def asked(data: Path) -> list[Asked]:
    return [Asked(**json.loads(line)) for line in (data / "test.jsonl").read_text().splitlines()]
