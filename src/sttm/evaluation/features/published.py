"""Feature folders as the authors of STTM published them: ``features/*.pt``, ``metadata/*.pkl``.

LLaVA: what the vision tower gives, ``(frames, patches, channels)``, in front of the projector; the
model's own projector and pooling do the rest. Qwen2-VL: what the merger gives,
``(steps, rows, columns, channels)``.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sttm.chat import VideoChat
from sttm.errors import ConfigError, UnsupportedModelError, VideoError
from sttm.evaluation.features.safe_pickle import FAILURES, load_tensors, read_pickle
from sttm.evaluation.features.stored import EncodedFrames, Processed, without_pixels
from sttm.models.adapter import note_videos
from sttm.models.transformers_api import POOLED, VIDEO_GRID, EncoderOutput
from sttm.video import Sampling, Video

_FEATURES, _METADATA = "features", "metadata"
# Times are written with two decimals: on a clock of hundredths they are whole numbers.
_HUNDREDTHS = 100.0
_HUGE = 1e9  # a number that no video has
_SHOWN = 80  # characters of a text
_NAME = re.compile(r"F-(\d+)_fps-(\d+(?:\.\d+)?)")


def is_published(folder: Path) -> bool:
    """Whether a folder has the published layout."""
    return (folder / _FEATURES).is_dir() and (folder / _METADATA).is_dir()


class PublishedFeatures:
    """One published folder, e.g. ``vnbench/preprocess_data/MODEL/F-180_fps-1``.

    Args:
        path: the folder.

    Attributes:
        video_ids: the videos with features, in order.
        sampling: what the folder's name says; None if it says nothing.
        attention: never there.
    """

    attention = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.video_ids = tuple(sorted(file.stem for file in (path / _FEATURES).glob("*.pt")))
        if not self.video_ids:
            raise ConfigError(
                f"{path / _FEATURES}: got no .pt file, expected one for each video. "
                "Is the download complete?"
            )
        named = _NAME.fullmatch(path.resolve().name)
        self.sampling: Sampling | None = None
        if named is not None:
            self.sampling = Sampling(fps=float(named[2]), max_frames=int(named[1]))

    def check_model(self, model: Any) -> None:
        """Refuse families of which no features were published.

        Raises:
            UnsupportedModelError: of this one there are none.
        """
        kind = model.config.model_type
        if kind not in _LAYOUTS:
            raise UnsupportedModelError(
                f"{self.path}: got a model of type {kind!r}, expected one of "
                f"{', '.join(_LAYOUTS)}: of others there are no published features."
            )

    def check_processor(self, processor: Any) -> None:
        """Accept every processor: the published files do not name theirs."""

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse features of other frames, where the folder's name tells.

        Raises:
            ConfigError: they are of others.
        """
        found = self.sampling
        if found is None:
            return
        if (found.fps, found.max_frames) != (sampling.fps, sampling.max_frames) or (
            sampling.rule == "uniform"
        ):
            raise ConfigError(
                f"{self.path}: got features of {found.max_frames} frames at most, {found.fps:g} "
                f"per second, but this run has {sampling}. Expected the same: use the published "
                "sampling, or extract the features yourself."
            )

    def load(self, video_id: str, chat: VideoChat) -> EncodedFrames:
        """Read the features of one video, and let the model finish them.

        Raises:
            VideoError: a file is missing, damaged, hostile, or does not fit the model.
        """
        tensor = self._tensor(self.path / _FEATURES / f"{video_id}.pt")
        path = self.path / _METADATA / f"{video_id}.pkl"
        metadata = _Metadata(path, read_pickle(path))
        build = _LAYOUTS[chat.model.config.model_type]
        return build(chat, tensor, metadata)

    def _tensor(self, path: Path) -> torch.Tensor:
        try:
            with path.open("rb") as file:
                found = _load_tensor(path, file)
        except OSError as error:
            raise VideoError(
                f"{path}: cannot be read ({error.strerror}), expected a file of features."
            ) from error
        if not isinstance(found, torch.Tensor) or not _is_plain(found):
            raise VideoError(
                f"{path}: got {_shown(found)}, expected one tensor of floating numbers, each of "
                "which is in the file."
            )
        return found


def _load_tensor(path: Path, file: BinaryIO) -> Any:
    """Load what torch saved; torch's own errors advise to trust the file, so they are replaced."""
    try:
        return load_tensors(file)
    except (*FAILURES, OSError) as error:
        raise VideoError(
            f"{path}: refused: the file is damaged or wants more than tensors. Expected a file "
            "with one tensor. Get the published file again, or extract the features yourself."
        ) from error


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the file holds every number of a tensor, each of them once."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    held = tensor.untyped_storage().nbytes() // tensor.itemsize
    return tensor.is_floating_point() and 0 < tensor.numel() <= held


def _shown(value: Any) -> str:
    """Say what a value from a file is; of one that may be large or deep only the kind."""
    if isinstance(value, torch.Tensor) and not value.is_nested:
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if value is None or isinstance(value, float):
        return repr(value)
    return f"a value of type {type(value).__name__}"


class _Metadata:
    """Metadata of one video, whose values are checked when they are asked for."""

    def __init__(self, path: Path, values: Any) -> None:
        self.path = path
        self._values: Mapping[str, Any] = values if isinstance(values, dict) else {}

    def number(self, name: str) -> float:
        """Return a number above 0, neither tiny nor huge."""
        value: Any = self._values.get(name)
        if type(value) not in (int, float) or not 1 / _HUGE < value < _HUGE:
            raise self.wrong(name, _shown(value), f"a number above 0 and below {_HUGE:g}")
        return float(value)

    def times(self) -> tuple[float, ...]:
        """Return the frames' times, which are written as ``0.00s,1.00s``."""
        value = self._values.get("frame_time")
        parts = value.split(",") if isinstance(value, str) else []
        if not parts or not all(re.fullmatch(r"[0-9]+(\.[0-9]+)?s", part) for part in parts):
            raise self.wrong("frame_time", _shown(value), "times such as '0.00s,1.00s'")
        times = tuple(float(part[:-1]) for part in parts)
        if max(times) > _HUGE:
            raise self.wrong("frame_time", f"{max(times):g} s", f"times below {_HUGE:g} s")
        return times

    def grid(self) -> torch.Tensor:
        """Return the patch grid ``(1, 3)``."""
        value = self._values.get(VIDEO_GRID)
        if (
            not isinstance(value, torch.Tensor)
            or value.dtype != torch.long
            or tuple(value.shape) != (1, 3)
            or int(value.min()) < 1
        ):
            raise self.wrong(VIDEO_GRID, _shown(value), "a (1, 3) tensor of patches")
        return value

    def wrong(self, name: str, got: str, expected: str) -> VideoError:
        """Build the error about one value."""
        return VideoError(
            f"{self.path}: {name}: got {got}, expected {expected}. Get the published file again."
        )


def _llava(chat: VideoChat, hidden: torch.Tensor, metadata: _Metadata) -> EncodedFrames:
    vision = chat.model.config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    times = metadata.times()
    wanted = (len(times), patches, vision.hidden_size)
    if tuple(hidden.shape) != wanted or metadata.number("num_frames") != len(times):
        raise metadata.wrong(
            "features", _shown(hidden), f"{wanted}: frames, patches and channels of the model"
        )
    shape = (1, len(times), 3, vision.image_size, vision.image_size)
    pixels = torch.zeros((), dtype=chat.model.dtype, device=chat.model.device).expand(shape)
    with _tower_that_gives(chat, hidden.to(chat.model.device, chat.model.dtype)):
        features = chat.run_encoder({chat.adapter.pixels: pixels}, split=False)
    video = Video(
        frames=without_pixels((len(times), vision.image_size, vision.image_size, 3)),
        timestamps=times,
        indices=tuple(round(time * _HUNDREDTHS) for time in times),
        duration=metadata.number("video_time"),
        fps=_HUNDREDTHS,
        total_frames=max(1, round(metadata.number("video_time") * _HUNDREDTHS)),
        path=str(metadata.path),
        sampling=Sampling(),
    )
    return EncodedFrames(video, Processed({}, chat.adapter.pixels, shape, None), features)


class _StoredTower(torch.nn.Module):
    """A vision tower whose output is a given tensor."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, pixels: torch.Tensor, **_: Any) -> Any:
        """Return the stored hidden states for every layer."""
        return BaseModelOutputWithPooling(hidden_states=_Always(self._hidden))


class _Always:
    """A sequence with the same value at every index."""

    def __init__(self, value: torch.Tensor) -> None:
        self._value = value

    def __getitem__(self, place: int) -> torch.Tensor:
        return self._value


@contextmanager
def _tower_that_gives(chat: VideoChat, hidden: torch.Tensor) -> Iterator[None]:
    """Put hidden states in the place of the vision tower for the time of the block.

    Raises:
        UnsupportedModelError: the model wants more of its tower than was published.
    """
    config, base = chat.model.config, chat.adapter.base
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or strategy != "full":
        raise UnsupportedModelError(
            f"got a model that takes layers {layer} of its tower, {strategy!r}, expected one layer "
            "with all its patches: only that was published. Evaluate from the videos."
        )
    tower = base.vision_tower
    base.vision_tower = _StoredTower(hidden)
    try:
        yield
    finally:
        base.vision_tower = tower


def _qwen2_vl(chat: VideoChat, merged: torch.Tensor, metadata: _Metadata) -> EncodedFrames:
    config, grid = chat.model.config, metadata.grid()
    merge, step = config.vision_config.spatial_merge_size, config.vision_config.temporal_patch_size
    steps, rows, columns = grid[0].tolist()
    wanted = (steps, rows // merge, columns // merge, config.get_text_config().hidden_size)
    if tuple(merged.shape) != wanted or rows % merge or columns % merge:
        raise metadata.wrong("features", _shown(merged), f"{wanted} of {VIDEO_GRID}")
    tokens = merged.flatten(0, 2).to(chat.model.device, chat.model.dtype)
    features: Any = EncoderOutput(**{POOLED: (tokens,)})
    note_videos(features, chat.adapter.encoded({VIDEO_GRID: grid}, features))
    frames, fps = steps * step, metadata.number("video_sample_fps")
    patch = config.vision_config.patch_size
    # The published frame_time has only its first entry; the frames' rate tells them all.
    video = Video(
        frames=without_pixels((frames, rows * patch, columns * patch, 3)),
        timestamps=tuple(index / fps for index in range(frames)),
        indices=tuple(range(frames)),
        duration=frames / fps,
        fps=fps,
        total_frames=frames,
        path=str(metadata.path),
        sampling=Sampling(rule="qwen"),
    )
    shape = (steps * rows * columns, 3 * step * patch**2)
    processed = Processed({VIDEO_GRID: grid}, chat.adapter.pixels, shape, None)
    return EncodedFrames(video, processed, features)


_Layout = Callable[[VideoChat, torch.Tensor, _Metadata], EncodedFrames]
_LAYOUTS: Mapping[str, _Layout] = {"llava_onevision": _llava, "qwen2_vl": _qwen2_vl}
