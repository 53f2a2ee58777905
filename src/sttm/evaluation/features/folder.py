"""Features in place of videos: read a folder that `sttm extract` wrote, or a published one."""

from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from sttm.chat import VideoChat
from sttm.chat.records import Encoded
from sttm.errors import ConfigError, VideoError
from sttm.evaluation.features.manifest import MANIFEST, Manifest
from sttm.evaluation.features.published import PublishedFeatures, is_published
from sttm.evaluation.features.replay import replay
from sttm.evaluation.features.stored import EncodedFrames
from sttm.methods import Method
from sttm.video import Sampling


class _Features(Protocol):
    """One layout of a folder."""

    @property
    def video_ids(self) -> tuple[str, ...]: ...
    @property
    def sampling(self) -> Sampling | None: ...
    @property
    def attention(self) -> bool: ...
    def check_model(self, model: Any) -> None: ...
    def check_processor(self, processor: Any) -> None: ...
    def check_sampling(self, sampling: Sampling) -> None: ...
    def load(self, video_id: str, chat: VideoChat) -> EncodedFrames: ...


class FeatureFolder:
    """The features of many videos, which stand for the videos.

    Attributes:
        path: the folder.
        video_ids: the videos that it has.
        sampling: how their frames were sampled; None if the folder does not say.
        attention: whether it has the vision tower's attention, which some methods need.
    """

    def __init__(self, path: Path, features: _Features) -> None:
        self.path = path
        self.video_ids = features.video_ids
        self.sampling = features.sampling
        self.attention = features.attention
        self._features = features
        self._known = frozenset(features.video_ids)
        self._checked: list[Any] = []
        self._last: tuple[str, Any, EncodedFrames] | None = None

    @classmethod
    def open(
        cls, path: str | PathLike[str], model: Any, *, sampling: Sampling | None = None
    ) -> "FeatureFolder":
        """Open a folder of features, of whichever layout.

        Args:
            path: a folder that ``sttm extract`` wrote, or one with ``features/*.pt`` and
                ``metadata/*.pkl`` as the authors of STTM published them.
            model: the model that is to read them.
            sampling: what the frames must have been sampled with; None to take what is there.

        Raises:
            ConfigError: no such folder, or features of another model or of other frames.
        """
        folder = Path(path)
        features: _Features
        if (folder / MANIFEST).is_file():
            features = Manifest.read(folder)
        elif is_published(folder):
            features = PublishedFeatures(folder)
        else:
            found = "a folder without features" if folder.is_dir() else "no such folder"
            raise ConfigError(
                f"{folder}: got {found}, expected {MANIFEST} in it (as `sttm extract --out` writes "
                "it), or features/*.pt and metadata/*.pkl (as they were published)."
            )
        features.check_model(model)
        if sampling is not None:
            features.check_sampling(sampling)
        opened = cls(folder, features)
        opened._checked.append(model)
        return opened

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._known

    def __len__(self) -> int:
        return len(self.video_ids)

    def check_method(self, method: Method | None) -> None:
        """Refuse a method that needs what was not extracted.

        Raises:
            ConfigError: it reads the vision tower's attention, which is not there.
        """
        if method is not None and "tower_attention" in method.requires and not self.attention:
            raise ConfigError(
                f"{self.path}: got features without the vision tower's attention, which "
                f"{method.name!r} needs. Extract them with --with-attention into another folder, "
                "or evaluate from the videos."
            )

    def encoded(self, chat: VideoChat, video_id: str, *, context: str = "") -> Encoded:
        """Return what ``chat.encode`` gives for the video, without decoding or encoding it.

        Args:
            chat: with the model of the features.
            video_id: one of ``video_ids``.
            context: see `sttm.VideoChat.encode`.

        Raises:
            ConfigError: the chat has another model, processor or method than the features allow.
            VideoError: the video is not there, or its file is damaged.
        """
        if video_id not in self._known:
            close = get_close_matches(video_id, self.video_ids, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise VideoError(
                f"{self.path}: got no features of video {video_id!r}, expected one of the "
                f"{len(self)} that are there.{hint} Extract it with `sttm extract`."
            )
        self._check(chat.model, self._features.check_model)
        self._check(chat.processor, self._features.check_processor)
        self.check_method(chat.method)
        return replay(chat, self._load(video_id, chat), context)

    def _load(self, video_id: str, chat: VideoChat) -> EncodedFrames:
        """Read a video, unless it was the last one: it may be asked for with another context."""
        if self._last is None or self._last[0] != video_id or self._last[1] is not chat.model:
            self._last = None  # not two videos in memory
            self._last = (video_id, chat.model, self._features.load(video_id, chat))
        return self._last[2]

    def _check(self, thing: Any, check: Any) -> None:
        """Check a model or processor once: it takes a while for a large one."""
        if not any(thing is known for known in self._checked):
            check(thing)
            self._checked.append(thing)
