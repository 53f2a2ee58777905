import shutil
from pathlib import Path

import pytest
from transformers import AutoConfig

from sttm.methods import registry
from sttm.nano import make_clip, write_clip
from tests.chat.tiny import bundle
from tests.checkpoints.original import write_original


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documentation's snippets find: videos, and tiny models in place of the hub's."""
    folder = tmp_path_factory.mktemp("reader")
    for seed, name in enumerate(("clip.mp4", "clips/a.mp4", "videos/b.mp4")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_clip(make_clip(50_000_000 + seed, 8), folder / name)
    qwen = folder / "Qwen" / "Qwen2.5-VL-7B-Instruct"
    tiny = bundle("qwen2_5_vl")
    tiny.model.save_pretrained(qwen)
    tiny.processor.save_pretrained(qwen)
    config = AutoConfig.from_pretrained(qwen)
    config.text_config.max_position_embeddings = 4096  # what a whole clip needs
    config.save_pretrained(qwen)
    write_original(folder / "tiny")
    write_original(folder / "lmms-lab")
    (folder / "lmms-lab" / "llava-video").rename(folder / "lmms-lab" / "LLaVA-Video-7B-Qwen2")
    return folder


@pytest.fixture
def workplace(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a copy, without a way to the hub; what a snippet registers is gone afterwards."""
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "reader"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
