"""From what a request names to a file: data URLs, uploads, allowed folders and allowed hosts."""

import asyncio
import base64
import binascii
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from sttm.server.config import ServerConfig
from sttm.server.errors import ApiError, bad_request
from sttm.server.fetching import Fetcher
from sttm.server.uploads import FILE_PREFIX, REQUEST_PREFIX, Uploads

_PARAM = "messages"
# How the containers that people send begin, and where: (offset, bytes). What only refers to other
# files (playlists and the like) is not among them.
_CONTAINERS = (
    (4, b"ftyp"),  # MP4, MOV
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (4, b"skip"),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"RIFF"),  # AVI
    (0, b"FLV"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3"),
    (0, b"\x30\x26\xb2\x75"),  # ASF, WMV
    (0, b"GIF8"),
    (0, b"G"),  # MPEG transport stream
    (4, b"G"),  # the same with time codes
)
_HEAD = 16


@dataclass(frozen=True)
class VideoFile:
    """A video that is on this machine.

    Args:
        path: its file.
        name: for clients and messages; never a path.
        temporary: whether the file is this request's alone, to be deleted behind it.
    """

    path: Path
    name: str
    temporary: bool = False

    def delete(self) -> None:
        """Delete the file if it is temporary; harmless when called again."""
        if self.temporary:
            self.path.unlink(missing_ok=True)


class VideoInputs:
    """Finds videos for requests, within what the server allows.

    Args:
        config: what it allows.
        uploads: the uploaded files.
    """

    def __init__(self, config: ServerConfig, uploads: Uploads) -> None:
        self._uploads = uploads
        self._paths = config.paths
        self._folder = config.folder
        self._most = config.limits.video_bytes
        self._fetcher = Fetcher(
            config.hosts,
            private=config.private_hosts,
            most=self._most,
            seconds=config.limits.fetch_seconds,
        )

    async def find(self, url: str) -> VideoFile:
        """Find, or fetch, the video that a request names.

        Args:
            url: a data URL, an uploaded file's id, a ``file://`` or an ``http(s)://`` URL.

        Raises:
            ApiError: it is none of these, not allowed, too large, or no video file.
        """
        if url.startswith(FILE_PREFIX):
            found = self._uploads.get(url)
            file = VideoFile(self._uploads.path(found.id), found.id)
        elif url[:5].lower() == "data:":
            file = await self._unpack(url)
        else:
            file = await self._follow(url)
        try:
            await asyncio.to_thread(check_content, file.path, self._most)
        except BaseException:
            file.delete()
            raise
        return file

    async def _follow(self, url: str) -> VideoFile:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise bad_request("video_url: got a URL that cannot be read.", _PARAM) from error
        if parts.scheme == "file":
            path = await asyncio.to_thread(allowed_path, parts, self._paths)
            return VideoFile(path, "local file")
        if parts.scheme not in ("http", "https"):
            raise bad_request(
                f"video_url: got the scheme {parts.scheme[:20]!r}, expected a data: URL, the id of "
                "an uploaded file (POST /v1/files), or http, https or file where the server "
                "allows them.",
                _PARAM,
            )
        path = self._new_file()
        try:
            await self._fetcher.fetch(url, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return VideoFile(path, "downloaded file", temporary=True)

    async def _unpack(self, url: str) -> VideoFile:
        """Write what a data URL holds into a file."""
        content = await asyncio.to_thread(self._decode, url)
        path = self._new_file()
        try:
            with path.open("wb") as file:  # a thread that outlives its request cannot make it anew
                await asyncio.to_thread(file.write, content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return VideoFile(path, "video in the request", temporary=True)

    def _decode(self, url: str) -> bytes:
        """Return what a data URL holds."""
        head, comma, text = url.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise bad_request(
                "video_url: got a data URL without ;base64, expected "
                "data:video/mp4;base64,... Encode the file in base64.",
                _PARAM,
            )
        if len(text) * 3 // 4 > self._most + 2:
            raise too_large(len(text) * 3 // 4, self._most)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise bad_request(
                "video_url: got a data URL that is no base64, expected the file in base64.", _PARAM
            ) from error

    def _new_file(self) -> Path:
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=REQUEST_PREFIX)
        os.close(handle)
        return Path(name)


def allowed_path(url: SplitResult, roots: Sequence[Path]) -> Path:
    """Return the file of a ``file://`` URL if it lies in an allowed folder.

    Links are followed first: what counts is where the file really is. What is not allowed and what
    is not there give the same error, which tells nothing about the machine's files.

    Raises:
        ApiError: it does not, or is no regular file.
    """
    refused = ApiError(
        403,
        "video_url: got a file:// URL that is not of a file in a folder that this server allows "
        "(sttm serve --allow-path). Upload the file, or ask whoever runs the server.",
        "path_not_allowed",
        param=_PARAM,
    )
    if url.netloc not in ("", "localhost") or url.query or url.fragment:
        raise refused
    try:
        real = Path(os.path.realpath(os.fsdecode(unquote_to_bytes(url.path)), strict=True))
        inside = any(real.is_relative_to(os.path.realpath(root)) for root in roots)
        if not inside or not real.is_file():
            raise refused
    except (OSError, ValueError) as error:  # also of names with a null byte
        raise refused from error
    return real


def check_content(path: Path, most: int) -> None:
    """Check a file before anything decodes it.

    Args:
        path: the file.
        most: bytes.

    Raises:
        ApiError: it is empty, too large, or does not begin as video files do.
    """
    size = path.stat().st_size
    if not size:
        raise bad_request("got a file of 0 bytes, expected a video.", _PARAM, "invalid_video")
    if size > most:
        raise too_large(size, most)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not any(head[at : at + len(mark)] == mark for at, mark in _CONTAINERS):
        raise bad_request(
            "got a file that does not begin as a video does, expected MP4, MOV, MKV, WebM, AVI, "
            "MPEG, FLV, Ogg, WMV or GIF. Convert it.",
            _PARAM,
            "invalid_video",
        )


def too_large(size: int, most: int) -> ApiError:
    """Build the error for a file that is too large."""
    return ApiError(
        413,
        f"got a video of {size} bytes, expected at most {most}. Cut it, or use a lower bit rate.",
        "video_too_large",
        param=_PARAM,
    )
