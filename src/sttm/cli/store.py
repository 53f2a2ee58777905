"""``sttm store``: look after a folder of watched videos."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from sttm.cli.command import Command
from sttm.cli.options import JsonOption
from sttm.cli.output import noted_warnings, percent, say, show_json, show_table
from sttm.errors import ConfigError

if TYPE_CHECKING:
    from sttm.chat import StoredVideo, VideoStore

EXIT_DAMAGED = 1
_SHOWN = 12  # digits of a key in a table
_METHOD = 24  # characters of a method; --json has all its options
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {f"{unit}I": 2 ** (10 * place) for place, unit in enumerate("KMGT", 1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?I?)B?", re.IGNORECASE)

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder, as in `sttm ask --store`.")
]


@dataclass(frozen=True)
class Deleted:
    """What ``sttm store rm --json`` and ``gc --json`` print.

    Args:
        deleted: keys of videos, or names of files that were none.
        freed_bytes: that they took.
        bytes: that all videos take now.
        videos: that are there now.
    """

    deleted: list[str]
    freed_bytes: int
    bytes: int
    videos: int


@dataclass(frozen=True)
class Verified:
    """What ``sttm store verify --json`` prints.

    Args:
        videos: whose header can be read.
        problems: a sentence for each damaged file.
    """

    videos: int
    problems: list[str]


def ls(folder: FolderArgument, json: JsonOption = False) -> None:
    """List the watched videos, the most recently used first."""
    entries = _open(folder).entries()
    if json:
        show_json([_plain(entry) for entry in entries])
        return
    rows = [
        (
            e.key[:_SHOWN],
            (e.name or "(frames)") + (f" (behind {e.videos - 1} more)" if e.videos > 1 else ""),
            shorten(e.method or "all tokens", _METHOD, placeholder=" ..."),
            f"{e.tokens_in} -> {e.tokens_out} ({percent(e.tokens_out / e.tokens_in)})",
            in_words(e.bytes),
            f"{e.last_used.astimezone():%Y-%m-%d %H:%M}",
        )
        for e in entries
    ]
    show_table(("key", "video", "method", "tokens", "size", "last used"), rows)
    say(f"{len(entries)} videos, {in_words(sum(entry.bytes for entry in entries))}")


def rm(
    folder: FolderArgument,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys, or their beginnings.")],
    json: JsonOption = False,
) -> None:
    """Delete watched videos, and conversations about several that hold one of them."""
    store = _open(folder)
    before = store.entries()
    chosen = [_chosen(key, before) for key in keys]
    _tell_deleted([gone for key in chosen for gone in store.remove(key)], before, store, json)


def gc(
    folder: FolderArgument,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bytes that all videos may take, e.g. 500MB or 20GiB; those that were used least "
            "recently go first. Default: delete half-written files only.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Delete half-written files and, beyond a size, the videos that were used least recently."""
    store = _open(folder, None if max_size is None else read_size(max_size))
    before = store.entries()
    _tell_deleted([name.removesuffix(".sttm") for name in store.collect()], before, store, json)


def verify(folder: FolderArgument, json: JsonOption = False) -> None:
    """Read every file and compare its checksum; exit code 1 if one is damaged."""
    store = _open(folder)
    result = Verified(len(store.entries()), store.verify())
    if json:
        show_json(result)
    else:
        for problem in result.problems:
            say(problem)
        say(f"{result.videos} videos, {len(result.problems)} damaged")
    if result.problems:
        raise typer.Exit(EXIT_DAMAGED)


def read_size(text: str) -> int:
    """Read a number of bytes, e.g. ``500MB`` or ``20GiB``.

    Raises:
        ConfigError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--max-size: got {text!r}, expected e.g. 500MB, 20GiB or 1000000.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def in_words(size: int) -> str:
    """Write a number of bytes, e.g. ``12.3 MB``."""
    for factor, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _open(folder: Path, size: int | None = None) -> "VideoStore":
    if not folder.is_dir():
        raise ConfigError(f"got {folder}, expected the folder of a store. Check the path.")
    from sttm.chat import VideoStore

    with noted_warnings():
        return VideoStore(folder) if size is None else VideoStore(folder, disk_bytes=size)


def _chosen(given: str, entries: "list[StoredVideo]") -> str:
    found = [entry.key for entry in entries if entry.key.startswith(given)]
    if len(found) != 1:
        raise ConfigError(
            f"KEY: got {given!r}, which {len(found) or 'none'} of the {len(entries)} videos begin "
            "with, expected one. See `sttm store ls`."
        )
    return found[0]


def _tell_deleted(
    names: list[str], before: "list[StoredVideo]", store: "VideoStore", json: bool
) -> None:
    left = store.entries()
    freed = sum(entry.bytes for entry in before if entry.key in names)
    result = Deleted(names, freed, sum(entry.bytes for entry in left), len(left))
    if json:
        show_json(result)
        return
    say(f"deleted {len(names)} files, {in_words(freed)} of videos")
    say(f"{result.videos} videos, {in_words(result.bytes)} are left")


def _plain(entry: "StoredVideo") -> dict[str, object]:
    times = {"created": entry.created.isoformat(), "last_used": entry.last_used.isoformat()}
    plain = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return {**plain, "videos": entry.videos, **times}


store = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
for _command in (ls, rm, gc, verify):
    store.command(cls=Command)(_command)


@store.callback()
def options() -> None:
    """Watched videos that `sttm ask --store DIR` keeps: list, delete and check them."""
