"""Videos and subtitles of a data set: in folders, or still in the zips they were published in."""

import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import av

from sttm.errors import VideoError
from sttm.files import cannot_write, replace_file

SUBTITLE_SUFFIXES = (".srt", ".vtt")
CACHE = ".videos"  # where videos go that were taken out of a zip, beside the zip
_LOCAL = {"protocol_whitelist": "file"}  # whatever a file refers to
_DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class _Place:
    path: Path  # of a file, or of a zip with the member behind it
    zipped: bool


class Media:
    """Finds files of some kinds by name below a folder; zips are looked into, not unpacked.

    Args:
        folder: where to look, at any depth.
        suffixes: kinds of files, lower case.

    Attributes:
        damaged: zips that cannot be read.
    """

    def __init__(self, folder: Path, suffixes: Collection[str]) -> None:
        self._suffixes = suffixes
        self.damaged: list[Path] = []
        self._places: dict[str, list[_Place]] = {}
        for place in self._walk(folder):
            self._places.setdefault(self._stem(place.path.name), []).append(place)

    def __len__(self) -> int:
        """Count the files with different names."""
        return len(self._places)

    def find(self, name: str, parts: int = 1) -> Path | None:
        """Find a file.

        Args:
            name: its name, with or without suffix and folders.
            parts: how many parts of its path have to be the same, the name included.

        Returns:
            its path; inside a zip, that of the zip with the member's behind it, see `take_out`. The
            one whose folders are most like those of the name, a file before a member of a zip.
        """
        wanted = self._parts(PurePosixPath(name.replace("\\", "/")))

        def alike(place: _Place) -> int:
            pairs = zip(reversed(self._parts(place.path)), reversed(wanted))
            return next((i for i, (a, b) in enumerate(pairs) if a != b), len(wanted))

        places = [p for p in self._places.get(wanted[-1], []) if alike(p) >= parts]
        best = min(places, key=lambda p: (-alike(p), p.zipped, str(p.path)), default=None)
        return best.path if best else None

    def _walk(self, folder: Path) -> Iterator[_Place]:
        for directory, _, names in os.walk(folder):
            for name in names:
                path = Path(directory, name)
                if path.suffix.lower() in self._suffixes:
                    yield _Place(path, zipped=False)
                elif path.suffix.lower() == ".zip":
                    yield from self._members(path)

    def _members(self, path: Path) -> Iterator[_Place]:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (OSError, zipfile.BadZipFile):
            self.damaged.append(path)
            return
        for name in names:
            member = PurePosixPath(name)
            outside = member.is_absolute() or ".." in member.parts
            if member.suffix.lower() not in self._suffixes or outside:
                continue
            if member.parts[0] != "__MACOSX":
                yield _Place(path / member, zipped=True)

    def _stem(self, name: str) -> str:
        stem, dot, suffix = name.rpartition(".")
        return stem if dot and f".{suffix.lower()}" in self._suffixes else name

    def _parts(self, path: PurePosixPath | Path) -> tuple[str, ...]:
        return (*path.parts[:-1], self._stem(path.name))


def take_out(path: Path) -> Path:
    """Return a file that `Media` found; a member of a zip is written beside it first, once.

    Raises:
        VideoError: no such file, or the zip is damaged.
        WriteError: there is no room or no permission to write it.
    """
    if path.is_file():
        return path
    archive = next((parent for parent in path.parents if parent.suffix.lower() == ".zip"), None)
    if archive is None:
        raise VideoError(f"{path}: no such file.")
    member = path.relative_to(archive)
    if ".." in member.parts:
        raise VideoError(f"{archive}: got the member {member}, expected one inside the zip's root.")
    target = archive.parent / CACHE / archive.stem / member
    if not target.is_file():
        _extract(archive, member.as_posix(), target)
    return target


def length_of(path: Path) -> float | None:
    """Return how long a video is, by its header: the number of frames over their rate.

    That is what decoders of whole files count. Nothing is decoded or taken out of a zip.

    Args:
        path: a file that `Media` found.

    Returns:
        seconds; None if it cannot be told.
    """
    try:
        with ExitStack() as stack:
            file: IO[bytes]
            if path.is_file():
                file = stack.enter_context(path.open("rb"))
            else:
                archive = next(p for p in path.parents if p.suffix.lower() == ".zip")
                zipped = stack.enter_context(zipfile.ZipFile(archive))
                file = stack.enter_context(zipped.open(path.relative_to(archive).as_posix()))
            container = stack.enter_context(
                av.open(file, options=_LOCAL, metadata_errors="replace")
            )
            stream = container.streams.video[0]
            rate = stream.average_rate
            return float(stream.frames / rate) if stream.frames and rate else None
    except (*_DAMAGED, OSError, RuntimeError, IndexError, StopIteration, av.FFmpegError):
        return None


def _extract(archive: Path, member: str, target: Path) -> None:
    def write(place: Path) -> None:
        with (
            place.open("wb") as copy,
            zipfile.ZipFile(archive) as zipped,
            zipped.open(member) as content,
        ):
            shutil.copyfileobj(content, copy, 1 << 20)

    if not archive.is_file():
        raise VideoError(f"{archive}: no such file.")
    kept = (
        f"Videos are taken out of {archive.name} there; unpacked where there is room they need "
        f"not be: unzip '{archive}' -d FOLDER, with the data root a folder that holds FOLDER."
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, write, kept)
    except (*_DAMAGED, RuntimeError) as error:
        raise VideoError(
            f"{archive}: {member} cannot be read ({error}). Download the zip again."
        ) from error
    except OSError as error:
        raise cannot_write(target, error, kept) from error
