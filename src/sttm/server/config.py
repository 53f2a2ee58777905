"""What a server allows, and how much of it."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from sttm.errors import ConfigError

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Limits:
    """The most that one client may ask for.

    Args:
        video_bytes: of one video file, however it comes.
        video_seconds: that a video may last.
        video_pixels: of one frame, as stored.
        frames: that are sampled of a video.
        fps: frames that are sampled per second.
        keep: the largest share of a video's tokens; 1.0 allows all.
        prompt_tokens: of a question with its earlier turns, without the video.
        new_tokens: of an answer.
        answers: that are open at once, those that wait for their video included.
        videos: that are being watched or wait for it.
        batch: answers that are decoded together.
        batch_bytes: keys and values that these hold together, padding included.
        upload_bytes: of all uploaded files together.
        decode_seconds: that decoding a video may take.
        decode_bytes: memory that decoding a video may take.
        fetch_seconds: that a download may take.
        header_seconds: for a client to send the head of a request.
        body_seconds: for a client to send the rest.
    """

    video_bytes: int = 256 * MIB
    video_seconds: float = 3600.0
    video_pixels: int = 3840 * 2160
    frames: int = 128
    fps: float = 4.0
    keep: float = 1.0
    prompt_tokens: int = 4096
    new_tokens: int = 1024
    answers: int = 128
    videos: int = 32
    batch: int = 32
    batch_bytes: int = 16 * GIB
    upload_bytes: int = 8 * GIB
    decode_seconds: float = 120.0
    decode_bytes: int = 4 * GIB
    fetch_seconds: float = 60.0
    header_seconds: float = 10.0
    body_seconds: float = 120.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ConfigError(f"limits: got {each.name}={value}, expected more than 0.")

    @property
    def body_bytes(self) -> int:
        """Of one request: a video in base64, and text beside it."""
        return self.video_bytes * 4 // 3 + 4 * MIB


@dataclass(frozen=True)
class ServerConfig:
    """What a server is started with.

    Args:
        name: of the model, for clients.
        folder: for uploaded files and what comes with requests; exists.
        fps: frames to sample per second unless a request says otherwise.
        frames: most frames to sample, likewise.
        paths: folders whose files may be named as ``file://`` URLs.
        hosts: from which videos may be downloaded; ``*.example.com`` stands for all below it.
        private_hosts: whether these may have private addresses.
        origins: of web pages that may call the server (CORS).
        keys: API keys, one of which every request must show; empty for none.
        limits: the most that one client may ask for.
    """

    name: str
    folder: Path
    fps: float = 1.0
    frames: int = 64
    paths: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    private_hosts: bool = False
    origins: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, most in (("fps", self.limits.fps), ("frames", self.limits.frames)):
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(
                    f"{name}: got {getattr(self, name)}, expected more than 0 and at most the "
                    f"limit, {most}."
                )
