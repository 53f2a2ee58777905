"""What a folder of features says about itself: one line for all videos, and one for each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sttm.errors import ConfigError, VideoError
from sttm.evaluation.environment import fingerprint
from sttm.evaluation.features.stored import EncodedFrames, from_bytes
from sttm.evaluation.result_log import StoredLog, read_log
from sttm.video import Sampling

MANIFEST = "manifest.jsonl"
VIDEOS = "videos"
SUFFIX = ".safetensors"
_LONGEST_NAME = 200  # of a file, in bytes; most systems allow 255, the half-written need some more

# In the order in which a mismatch is looked for: another dtype also means other weights.
_ABOUT_MODEL = ("model_type", "dtype", "weights")
_ABOUT_SAMPLING = ("rule", "fps", "max_frames")
_PROCESSOR, _CONFIG = "processor.", "config."
# What of a configuration is about the language model, the prompt or the library.
_NOT_VISION = (
    *("text_config", "add_time_instruction", "tie_word_embeddings", "use_cache", "is_decoder"),
    *("architectures", "transformers_version", "dtype", "return_dict", "output_hidden_states"),
    *("output_attentions", "chunk_size_feed_forward", "is_encoder_decoder", "problem_type"),
    *("id2label", "label2id"),
)


@dataclass(frozen=True)
class StoredVideo:
    """One video in a folder of features; a line of the manifest.

    Args:
        video_id: unique within the folder.
        file: below the folder.
        size: of that file, in bytes.
        sha256: of that file.
        source: the video's file, as it was given.
        source_size: of the video's file, in bytes.
        source_modified: when that changed last, in nanoseconds since 1970.
        frames: sampled from the video.
        timestamps: of the frames, in seconds.
        warnings: what is wrong with the video's file.
        seconds: that it took to decode and encode.
    """

    video_id: str
    file: str
    size: int
    sha256: str
    source: str
    source_size: int
    source_modified: int
    frames: int
    timestamps: list[float]
    warnings: list[str]
    seconds: float

    @property
    def key(self) -> str:
        """What no two videos of a folder share."""
        return self.video_id

    def read(self, folder: Path) -> bytes:
        """Read the features' file.

        Raises:
            VideoError: it is missing, or not what was written.
        """
        path = folder / self.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise VideoError(
                f"{path}: cannot be read ({error.strerror}), expected the features of "
                f"{self.video_id!r}. Run the same `sttm extract` again."
            ) from error
        if len(content) != self.size or checksum(content) != self.sha256:
            raise VideoError(
                f"{path}: got a damaged file ({len(content)} bytes, other checksum), expected "
                f"{self.size} bytes with the checksum in {MANIFEST}. Delete it and run the same "
                "`sttm extract` again."
            )
        return content

    def is_complete(self, folder: Path) -> bool:
        """Whether the features' file is there, and as large as it was."""
        path = folder / self.file
        return path.is_file() and path.stat().st_size == self.size


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def file_name(video_id: str) -> str:
    """Name the file of a video, below the folder: any id gives a file name, none gives two."""
    whole = video_id.encode(errors="surrogatepass")  # also of names in no encoding
    name = quote(whole, safe="")
    if len(name) + len(SUFFIX) > _LONGEST_NAME:
        digest = hashlib.sha256(whole).hexdigest()[:16]
        name = f"{name[: _LONGEST_NAME - len(SUFFIX) - len(digest) - 1]}~{digest}"
    return f"{VIDEOS}/{name}{SUFFIX}"


def settings_of(model: Any, processor: Any, sampling: Sampling, attention: bool) -> dict[str, Any]:
    """Return what features depend on, as JSON values."""
    return {
        **_about_model(model),
        **_about_sampling(sampling),
        "tower_attention": attention,
        **_about_processor(processor),
    }


def _about_model(model: Any) -> dict[str, Any]:
    return {
        "model_type": model.config.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": fingerprint(model),
        **_about_config(model.config),
    }


def _about_config(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration that change the features, e.g. their layer."""
    facts = _about_vision(json.loads(config.to_json_string(use_diff=False)))
    return {f"{_CONFIG}{name}": value for name, value in sorted(facts.items())}


def _about_vision(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _about_vision(value) if isinstance(value, dict) else value
        for name, value in facts.items()
        if name not in _NOT_VISION
        and not name.startswith("_")
        and not name.endswith(("_token_id", "_token_index"))
    }


def _about_sampling(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in _ABOUT_SAMPLING}


def _about_processor(processor: Any) -> dict[str, Any]:
    """Return the settings that turn frames into pixels, without the processor's private ones."""
    facts = json.loads(processor.video_processor.to_json_string())
    return {
        f"{_PROCESSOR}{name}": value
        for name, value in sorted(facts.items())
        if not name.startswith("_") and name != "processor_class"
    }


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was read.

    Args:
        path: of the folder.
        settings: what the features depend on.
        info: what else was noted, e.g. the machine.
        videos: by id.
    """

    path: Path
    settings: Mapping[str, Any]
    info: Mapping[str, Any]
    videos: Mapping[str, StoredVideo]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the manifest of a folder, which may still be growing.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        stored: StoredLog[StoredVideo] = read_log(folder / MANIFEST, StoredVideo)
        needed = {*_ABOUT_MODEL, *_ABOUT_SAMPLING, "tower_attention"}
        lacking = sorted(needed - stored.settings.keys())
        if lacking:
            raise ConfigError(
                f"{folder / MANIFEST}: got a manifest without {', '.join(lacking)}, expected one "
                "that `sttm extract` wrote. Name the folder of the features."
            )
        return cls(folder, stored.settings, stored.info, stored.answers)

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The videos that are there."""
        return tuple(self.videos)

    @property
    def sampling(self) -> Sampling:
        """How frames were sampled."""
        return Sampling(**{name: self.settings[name] for name in _ABOUT_SAMPLING})

    @property
    def attention(self) -> bool:
        """Whether the vision tower's attention is there."""
        return bool(self.settings["tower_attention"])

    def load(self, video_id: str, chat: Any) -> EncodedFrames:
        """Read the features of one video; they need no model to be finished.

        Raises:
            VideoError: the file is missing, or not what was written.
        """
        stored = self.videos[video_id]
        return from_bytes(stored.read(self.path), self.path / stored.file)

    def check_model(self, model: Any) -> None:
        """Refuse another model than that of the features.

        Raises:
            ConfigError: it is another.
        """
        self._check_all(_about_model(model), (*_ABOUT_MODEL, _CONFIG))

    def check_processor(self, processor: Any) -> None:
        """Refuse a processor that makes other pixels of the frames.

        Raises:
            ConfigError: it does.
        """
        self._check_all(_about_processor(processor), (_PROCESSOR,))

    def check_sampling(self, sampling: Sampling) -> None:
        """Refuse features of other frames.

        Raises:
            ConfigError: the frames were sampled in another way.
        """
        self._check(_about_sampling(sampling), _ABOUT_SAMPLING)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse to go on with other settings than those of `settings_of` that the folder has.

        Raises:
            ConfigError: something differs.
        """
        self._check(settings, [*settings, *(self.settings.keys() - settings.keys())])

    def _check_all(self, wanted: Mapping[str, Any], beginnings: tuple[str, ...]) -> None:
        """Check what begins in one of these ways, here or there, and in their order."""
        names = sorted({*self.settings, *wanted})
        self._check(wanted, [n for b in beginnings for n in names if n.startswith(b)])

    def _check(self, wanted: Mapping[str, Any], names: Sequence[str]) -> None:
        for name in names:
            found, now = self.settings.get(name), wanted.get(name)
            if found != now:
                made = f" (made with the model {self.info['model']!r})" if self._tells(name) else ""
                raise ConfigError(
                    f"{self.path}: got features with {name} {found!r}{made}, but this run has "
                    f"{now!r}. Expected the same: take what they were made with, or extract them "
                    "again into another folder."
                )

    def _tells(self, name: str) -> bool:
        return name in _ABOUT_MODEL and "model" in self.info
