"""Folders as the authors published them: tower states of LLaVA, merged features of Qwen2-VL."""

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sttm
from sttm.errors import ConfigError, UnsupportedModelError, VideoError
from sttm.evaluation.features import FeatureFolder
from sttm.video import Sampling, Video

from .test_replay import assert_same, logits
from .test_safe_pickle import DEEP, TIME, Calls, pairs
from .tiny import bundle, video

SAMPLING = Sampling(fps=1.0, max_frames=180)


def write(folder: Path, video_id: str, tensor: Any, metadata: Any) -> None:
    """Write one video as the authors' code does."""
    for name in ("features", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    torch.save(tensor, folder / "features" / f"{video_id}.pt")
    with (folder / "metadata" / f"{video_id}.pkl").open("wb") as file:
        pickle.dump(metadata, file)


@torch.no_grad()
def llava_states(model: Any, processor: Any, made: Video) -> torch.Tensor:
    """What the tower gives in front of the projector, ``(T, patches, channels)``."""
    pixels = processor.video_processor([made.frames], return_tensors="pt")["pixel_values_videos"][0]
    tower = model.base_model.vision_tower
    states = tower(pixels.to(model.dtype), output_hidden_states=True).hidden_states
    found: torch.Tensor = states[model.config.vision_feature_layer]
    return found


def llava_metadata(made: Video, **other: Any) -> dict[str, Any]:
    """Metadata of the frames of a video."""
    seconds = [index / made.fps for index in made.indices]
    return {
        "vid": "a",
        "video_time": made.total_frames / made.fps,
        "frame_time": ",".join(f"{second:.2f}s" for second in seconds),
        "num_frames": len(made),
        **other,
    }


@pytest.fixture
def llava(tmp_path: Path) -> tuple[Path, Video]:
    """A published folder of LLaVA with one video, "a"."""
    tiny, made = bundle("llava_onevision"), video(5)
    folder = tmp_path / "F-180_fps-1"
    write(folder, "a", llava_states(tiny.model, tiny.processor, made), llava_metadata(made))
    return folder, made


def test_llava_is_projected_and_pooled_as_the_model_does(llava: tuple[Path, Video]) -> None:
    tiny, (path, made) = bundle("llava_onevision"), llava
    folder = FeatureFolder.open(path, tiny.model, sampling=SAMPLING)
    assert (folder.video_ids, folder.sampling, folder.attention) == (("a",), SAMPLING, False)
    assert "a" in folder
    tower = tiny.model.base_model.vision_tower
    chat = sttm.VideoChat(tiny.model, tiny.processor, sttm.STTM(keep=0.5), layer=1)
    encoded, again = chat.encode(made, context="So: "), folder.encoded(chat, "a", context="So: ")
    assert again.source.timestamps == tuple(index / 30 for index in made.indices)
    assert again.source.duration == made.duration
    assert_same(encoded, replace(again, source=encoded.source))
    assert torch.equal(logits(chat, encoded), logits(chat, again))
    assert tiny.model.base_model.vision_tower is tower


def test_bfloat16_as_published(tmp_path: Path) -> None:
    import copy

    tiny, made = bundle("llava_onevision"), video(3)
    model = copy.deepcopy(tiny.model).to(torch.bfloat16)
    states = llava_states(model, tiny.processor, made)
    assert states.dtype == torch.bfloat16
    write(tmp_path, "a", states, llava_metadata(made))
    chat = sttm.VideoChat(model, tiny.processor)
    again = FeatureFolder.open(tmp_path, model).encoded(chat, "a")
    assert torch.equal(again.features.pooler_output, chat.encode(made).features.pooler_output)


def test_the_time_instruction_says_the_published_times(llava: tuple[Path, Video]) -> None:
    tiny, (path, made) = bundle("llava_onevision"), llava
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    tiny.model.config.add_time_instruction = True
    try:
        again = FeatureFolder.open(path, tiny.model).encoded(chat, "a")
        assert again.prefix.context == chat.encode(made).prefix.context
    finally:
        del tiny.model.config.add_time_instruction
    assert "lasts for 5.00 seconds, and 5 frames" in again.prefix.context
    assert "at 0.00s,1.00s,2.00s,3.00s,4.00s." in again.prefix.context


def test_qwen2_vl(tmp_path: Path) -> None:
    tiny, made = bundle("qwen2_vl"), video(6)
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    encoded = chat.encode(made)
    grid = encoded.inputs["video_grid_thw"].clone()
    steps, rows, columns = grid[0].tolist()
    merged = encoded.features.pooler_output[0].view(steps, rows // 2, columns // 2, -1)
    # The published frame_time has only its first element.
    metadata = {
        "vid": "a",
        "video_sample_fps": 1.0,
        "frame_time": torch.tensor([0.0]),
        "video_grid_thw": grid,
    }
    write(tmp_path, "a", merged.clone(), metadata)
    again = FeatureFolder.open(tmp_path, tiny.model).encoded(chat, "a")
    assert again.source.timestamps == tuple(float(second) for second in range(6))
    assert_same(encoded, replace(again, source=encoded.source))
    assert torch.equal(logits(chat, encoded), logits(chat, again))
    # A grid that rounds down to the features: the prompt would have other tokens.
    write(
        tmp_path,
        "a",
        merged.clone(),
        {**metadata, "video_grid_thw": grid + torch.tensor([[0, 1, 0]])},
    )
    with pytest.raises(VideoError, match="of video_grid_thw"):
        FeatureFolder.open(tmp_path, tiny.model).encoded(chat, "a")
    write(tmp_path, "a", merged[:, :, :1].clone(), metadata)
    with pytest.raises(VideoError, match="of video_grid_thw"):
        FeatureFolder.open(tmp_path, tiny.model).encoded(chat, "a")
    for wrong in (torch.tensor([[3, 6]]), torch.ones(1, 3), torch.tensor([[0, 6, 6]]), [[3, 6, 6]]):
        write(tmp_path, "a", merged.clone(), {**metadata, "video_grid_thw": wrong})
        with pytest.raises(VideoError, match="video_grid_thw: got"):
            FeatureFolder.open(tmp_path, tiny.model).encoded(chat, "a")


@pytest.mark.parametrize(
    ("sampling", "fits"),
    [
        (Sampling(fps=1, max_frames=180), True),
        (Sampling("qwen", fps=1, max_frames=180), True),
        (Sampling(fps=1, max_frames=128), False),
        (Sampling(fps=0.5, max_frames=180), False),
        (Sampling("uniform", fps=1, max_frames=180), False),
    ],
)
def test_the_folder_name_tells_the_sampling(
    llava: tuple[Path, Video], sampling: Sampling, fits: bool
) -> None:
    model = bundle("llava_onevision").model
    if fits:
        FeatureFolder.open(llava[0], model, sampling=sampling)
        return
    with pytest.raises(ConfigError, match="features of 180 frames at most"):
        FeatureFolder.open(llava[0], model, sampling=sampling)


def test_other_models_are_refused(llava: tuple[Path, Video]) -> None:
    with pytest.raises(UnsupportedModelError, match="there are no published features"):
        FeatureFolder.open(llava[0], bundle("qwen3_vl").model)


def test_methods_that_read_the_tower_are_refused(llava: tuple[Path, Video]) -> None:
    tiny = bundle("llava_onevision")
    chat = sttm.VideoChat(tiny.model, tiny.processor, sttm.get_method("visionzip", keep=0.5))
    with pytest.raises(ConfigError, match="without the vision tower's attention"):
        FeatureFolder.open(llava[0], tiny.model).encoded(chat, "a")


BAD_METADATA: dict[str, Callable[[Video], Any]] = {
    "no dict": lambda made: [1],
    "no times": lambda made: llava_metadata(made, frame_time=torch.tensor([0.0])),
    "odd times": lambda made: llava_metadata(made, frame_time="0.00s,one"),
    "other times": lambda made: llava_metadata(made, frame_time="0.00s,1.00s"),
    "other count": lambda made: llava_metadata(made, num_frames=4),
    "no length": lambda made: llava_metadata(made, video_time=None),
    "endless": lambda made: llava_metadata(made, video_time=float("inf")),
    "no number": lambda made: llava_metadata(made, video_time=float("nan")),
    "tiny": lambda made: llava_metadata(made, video_time=5e-324),
    "true": lambda made: llava_metadata(made, video_time=True),
    "endless times": lambda made: llava_metadata(
        made, frame_time=",".join(["0.00s"] * 4 + ["9" * 400 + "s"])
    ),
    "hostile": lambda made: llava_metadata(made, vid=Calls(print, "x")),
}


@pytest.mark.parametrize("name", BAD_METADATA)
def test_bad_metadata(llava: tuple[Path, Video], name: str) -> None:
    tiny, (path, made) = bundle("llava_onevision"), llava
    (path / "metadata" / "a.pkl").write_bytes(pickle.dumps(BAD_METADATA[name](made)))
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    with pytest.raises(VideoError, match=r"a\.pkl"):
        FeatureFolder.open(path, tiny.model).encoded(chat, "a")


# Values that Python cannot print: tuples in tuples, pairs of pairs, a long number.
WITHOUT_END: dict[str, bytes] = {
    "deep": b"\x80\x04}\x8c\x0aframe_time)" + b"\x85" * 200_000 + b"s.",
    "shared": TIME + pairs(30) + b"s.",
    "less deep": TIME + b")" + b"\x85" * 90 + b"s.",
    "less shared": TIME + pairs(18) + b"s.",
    "a number": TIME + b"\x8b\x00\x00\x10\x00" + b"\x7f" * 2**20 + b"s.",
    "many": pickle.dumps({"frame_time": [0] * 1_000_000}),
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_metadata_that_cannot_be_printed(llava: tuple[Path, Video], name: str) -> None:
    tiny, (path, _) = bundle("llava_onevision"), llava
    (path / "metadata" / "a.pkl").write_bytes(WITHOUT_END[name])
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    with pytest.raises(VideoError, match=r"a\.pkl") as caught:
        FeatureFolder.open(path, tiny.model).encoded(chat, "a")
    assert len(str(caught.value)) < 1000


def _with_pickle(file: Path, content: bytes, compression: int) -> None:
    """Exchange the pickle in a file that torch saved."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("data.pkl") and content else part)


DEEP_KEY = b"\x80\x02}" + DEEP + b"K\x01s."
HOSTILE_FEATURES: dict[str, Callable[[Path], object]] = {
    "deep": lambda file: _with_pickle(file, DEEP_KEY, zipfile.ZIP_STORED),
    "compressed": lambda file: _with_pickle(file, b"", zipfile.ZIP_DEFLATED),
    "deep, no zip": lambda file: file.write_bytes(DEEP_KEY),
    "no zip at all": lambda file: file.write_bytes(b"PK\x03\x04 and something else"),
}


@pytest.mark.parametrize("name", HOSTILE_FEATURES)
def test_hostile_features(llava: tuple[Path, Video], name: str) -> None:
    """They end torch's reader, and the process with it."""
    tiny, (path, _) = bundle("llava_onevision"), llava
    HOSTILE_FEATURES[name](path / "features" / "a.pt")
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    with pytest.raises(VideoError, match=r"a\.pt: refused"):
        FeatureFolder.open(path, tiny.model).encoded(chat, "a")


def test_features_of_old_torch_are_read(llava: tuple[Path, Video]) -> None:
    tiny, (path, _) = bundle("llava_onevision"), llava
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    before = FeatureFolder.open(path, tiny.model).encoded(chat, "a")
    file = path / "features" / "a.pt"
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    assert_same(before, FeatureFolder.open(path, tiny.model).encoded(chat, "a"))


BAD_FEATURES: dict[str, Callable[[torch.Tensor], Any]] = {
    "other patches": lambda states: states[:, :-1],
    "other channels": lambda states: states[..., :-1],
    "other frames": lambda states: states[:-1],
    "a dict": lambda states: {"x": states},
    "whole numbers": lambda states: states.long(),
    "nothing": lambda states: states[:0],
    "a number": lambda states: states.sum(),
    "repeated numbers": lambda states: states[:1, :1, :1].clone().expand(states.shape),
    "sparse": lambda states: states.to_sparse(),
    "hostile": lambda states: Calls(print, "x"),
}


@pytest.mark.parametrize("name", BAD_FEATURES)
def test_bad_features(llava: tuple[Path, Video], name: str) -> None:
    tiny, (path, _) = bundle("llava_onevision"), llava
    file = path / "features" / "a.pt"
    torch.save(BAD_FEATURES[name](torch.load(file)), file)
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    with pytest.raises(VideoError, match=r"[Ee]xpected"):
        FeatureFolder.open(path, tiny.model).encoded(chat, "a")


def test_missing_and_damaged_files(llava: tuple[Path, Video]) -> None:
    tiny, (path, _) = bundle("llava_onevision"), llava
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    file = path / "features" / "a.pt"
    whole = file.read_bytes()
    for content in (whole[:100], whole[:-100], b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(VideoError, match=r"a\.pt: refused"):
            FeatureFolder.open(path, tiny.model).encoded(chat, "a")
    file.write_bytes(whole)
    (path / "metadata" / "a.pkl").unlink()
    with pytest.raises(VideoError, match=r"a\.pkl: cannot be read"):
        FeatureFolder.open(path, tiny.model).encoded(chat, "a")
    folder = FeatureFolder.open(path, tiny.model)
    file.unlink()
    with pytest.raises(VideoError, match=r"a\.pt: cannot be read"):
        folder.encoded(chat, "a")
    with pytest.raises(ConfigError, match=r"got no \.pt file"):
        FeatureFolder.open(path, tiny.model)
