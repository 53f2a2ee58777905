"""What a server allows, and how much of it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sttm.errors import ConfigError

MIB = 2**20


def _limit(most: float, help: str) -> Any:
    return field(default=most, metadata={"help": help, "rich_help_panel": "Limits"})


@dataclass(frozen=True)
class Limits:
    """The most that clients may ask for; every field says what it bounds."""

    max_keep: float = _limit(1.0, "Largest share of a video's tokens; 1 allows all.")
    video_mib: float = _limit(256.0, "MiB of one video file, however it comes.")
    video_seconds: float = _limit(3600.0, "Seconds that a video may last.")
    video_pixels: int = _limit(3840 * 2160, "Pixels of one frame, as stored.")
    videos: int = _limit(8, "Videos of one conversation.")
    prompt_tokens: int = _limit(
        4096, "Tokens of a question with all earlier turns, beside the videos."
    )
    new_tokens: int = _limit(1024, "Tokens of an answer.")
    open_answers: int = _limit(128, "Requests at once, those that wait for a video included.")
    open_videos: int = _limit(32, "Videos that are being watched or wait for it.")
    batch: int = _limit(32, "Answers that are decoded together.")
    batch_mib: float = _limit(16384.0, "MiB of keys and values of these, padding included.")
    upload_mib: float = _limit(8192.0, "MiB of all uploaded files together.")
    decode_seconds: float = _limit(120.0, "Seconds that decoding a video may take.")
    decode_mib: float = _limit(4096.0, "MiB of memory that decoding a video may take.")
    fetch_seconds: float = _limit(60.0, "Seconds that a download may take.")
    header_seconds: float = _limit(10.0, "Seconds for a client to send the head of a request.")
    body_seconds: float = _limit(120.0, "Seconds for a client to send the rest.")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                name = each.name.replace("_", "-")
                raise ConfigError(f"--{name}: got {value}, expected more than 0.")

    @property
    def video_bytes(self) -> int:
        """Of one video file."""
        return int(self.video_mib * MIB)

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
        fps: frames to sample per second, unless a request says otherwise.
        max_frames: most frames to sample; a request may ask for less.
        paths: folders whose files may be named as ``file://`` URLs.
        hosts: from which videos may be downloaded; ``*.example.com`` stands for all below it.
        private_hosts: whether these may have private addresses.
        origins: of web pages that may call the server (CORS).
        keys: API keys, one of which every request must show; empty for none.
        page: whether there is a page for browsers.
        samples: whether the page offers nano's clips.
        limits: the most that one client may ask for.
    """

    name: str
    folder: Path
    fps: float = 1.0
    max_frames: int = 128
    paths: tuple[Path, ...] = ()
    hosts: tuple[str, ...] = ()
    private_hosts: bool = False
    origins: tuple[str, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    page: bool = False
    samples: bool = False
    limits: Limits = Limits()
