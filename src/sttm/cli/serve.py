"""``sttm serve`` and ``sttm ui``: answer questions about videos, for programs and for people."""

import os
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.loading import Loaded, load_model, refuse_for_nano
from sttm.cli.options import (
    FpsOption,
    JsonOption,
    KeepOption,
    LayerOption,
    MaxFramesOption,
    MaxTokensOption,
    MethodOption,
    ModelOptions,
    ThresholdsOption,
    taken,
    with_options,
)
from sttm.cli.output import note, noted_warnings, say, show_json
from sttm.cli.reduction import Reduction, Wanted, describe_method, parse_reduction
from sttm.errors import ConfigError
from sttm.files import make_folder
from sttm.server.config import MIB, Limits

if TYPE_CHECKING:
    from sttm.chat import VideoStore
    from sttm.methods import Method
    from sttm.server.watching import Chats, Keep

KEYS = "STTM_API_KEYS"  # the environment variable that holds them
NANO_NAME = "nano"
# What a budget in a request takes the place of.
_BUDGETS = ("keep", "spatial_threshold", "temporal_threshold", "max_tokens")


@dataclass(frozen=True)
class Serving:
    """What ``sttm serve --json`` prints once it listens.

    Args:
        url: of the server; clients take ``{url}/v1``.
        model: the name that requests give.
        method: how videos are reduced unless a request says otherwise.
        needs_key: whether requests must show a key.
    """

    url: str
    model: str
    method: str
    needs_key: bool


@dataclass(frozen=True)
class Storage:
    """Where watched videos and uploads are."""

    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep watched videos and uploaded files here; see `sttm store`. Default: in "
            "memory, until the server stops.",
        ),
    ] = None
    memory_mib: Annotated[
        int, typer.Option(min=0, help="MiB of watched videos in the host's memory.")
    ] = 4096
    device_mib: Annotated[
        int, typer.Option(min=0, help="MiB of watched videos on the model's device.")
    ] = 4096
    disk_mib: Annotated[int, typer.Option(min=0, help="MiB of watched videos in --store.")] = 65536

    def open(self) -> "VideoStore":
        """Open the store of watched videos."""
        from sttm.chat import VideoStore

        with noted_warnings():
            return VideoStore(
                None if self.store is None else self.store / "videos",
                memory_bytes=self.memory_mib * MIB,
                device_bytes=self.device_mib * MIB,
                disk_bytes=self.disk_mib * MIB,
            )

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Make the folder of uploads; a temporary one goes with the block."""
        if self.store is not None:
            make_folder(self.store / "files", "--store")
            yield self.store / "files"
            return
        with tempfile.TemporaryDirectory(prefix="sttm-") as folder:
            yield Path(folder)


@dataclass(frozen=True)
class Access:
    """What requests may reach, and which web pages may send them."""

    allow_path: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose files may be named by file:// URLs."),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Host that videos may be downloaded from; *.name: all below it."
        ),
    ] = None
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="These hosts may be in a private network.")
    ] = False
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page that may call the server (CORS)."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """Return the fields of `ServerConfig`.

        Raises:
            ConfigError: a folder does not exist.
        """
        for path in self.allow_path or ():
            if not path.is_dir():
                raise ConfigError(f"--allow-path: got {path}, expected a folder that exists.")
        return {
            "paths": tuple(path.resolve() for path in self.allow_path or ()),
            "hosts": tuple(self.allow_host or ()),
            "private_hosts": self.allow_private,
            "origins": tuple(self.allow_origin or ()),
            "keys": tuple(filter(None, map(str.strip, os.environ.get(KEYS, "").split(",")))),
        }


@dataclass(frozen=True)
class Served:
    """Where to listen, and how to answer unless a request says otherwise."""

    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: --model, or nano.")
    ] = None
    keep: KeepOption = None
    thresholds: ThresholdsOption = None
    max_tokens: MaxTokensOption = None
    method: MethodOption = None
    full: Annotated[bool, typer.Option("--full", help="Merge nothing: keep all tokens.")] = False
    layer: LayerOption = None
    fps: FpsOption = 1.0
    max_frames: MaxFramesOption = 128
    json: JsonOption = False


@with_options(Served, ModelOptions, Storage, Access, Limits)
def serve(context: typer.Context, **options: Any) -> None:
    """Serve OpenAI's chat completions about videos, each of which is watched once.

    Requests must show one of the keys in the environment variable STTM_API_KEYS, if it is set;
    several stand with commas between them.
    """
    _serve(context, options)


@with_options(Served, ModelOptions, Storage, Access, Limits)
def ui(
    context: typer.Context,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    **options: Any,
) -> None:
    """Open a page in the browser to ask about videos, and to see how their tokens merge.

    It is `sttm serve` with a page at its address. With --store watched videos and uploaded files
    are there again after a restart.
    """
    _serve(context, options, page=True, browser=browser)


def _serve(
    context: typer.Context, options: dict[str, Any], *, page: bool = False, browser: bool = False
) -> None:
    """Serve until the process is told to stop.

    Args:
        context: of the command.
        options: of the command, the fields of all its groups.
        page: whether there is a page for browsers.
        browser: whether to open it.
    """
    from sttm.server.answering import Service
    from sttm.server.config import ServerConfig
    from sttm.server.running import run
    from sttm.server.security import is_open

    served = taken(Served, options)
    chosen, storage = taken(ModelOptions, options), taken(Storage, options)
    settings, limits = taken(Access, options).settings(), taken(Limits, options)
    refuse_for_nano(context, chosen.model)
    if storage.store is None:
        refuse_idle(context, ["disk_mib"], "no --store", "nothing is kept on the disk")
    if served.full:
        refuse_idle(context, ["layer"], "--full", "all tokens are kept, in front of every layer")
    wanted = taken(Wanted, options)
    reduction = parse_reduction(wanted, model=chosen.model, layer=served.layer)
    if is_open(served.host, settings["keys"]):
        note(f"anybody who reaches {served.host} may ask: set {KEYS} to ask for a key.")
    described, called = describe_method(reduction.method), served.name or chosen.model or NANO_NAME

    with storage.files() as folder:
        config = ServerConfig(
            called,
            folder,
            served.fps,
            served.max_frames,
            limits=limits,
            page=page,
            samples=page and chosen.model is None,
            **settings,
        )
        videos, loaded = storage.open(), load_model(*chosen.arguments)
        chats = _chats(loaded, reduction, served.method, limits)
        serving = Serving("", called, described, bool(settings["keys"]))
        ready = _teller(serving, served.json, page, browser)
        run(Service(config, chats, videos), served.host, served.port, ready)


def _teller(serving: Serving, json: bool, page: bool, browser: bool) -> Callable[[str], None]:
    """Return what is called with the server's URL once it listens."""

    def ready(url: str) -> None:
        if json:
            show_json(replace(serving, url=url))
        else:
            say(f"{url}/v1 answers as {serving.model!r}, {serving.method}; Ctrl-C stops it.")
            if page:
                say(f"The page is at {url}/")
        if browser:  # which may take a while, or not return until it is closed
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    return ready


def _chats(loaded: Loaded, reduction: Reduction, spec: str | None, limits: Limits) -> "Chats":
    """Make the chats of a model; what is wrong with method or layer shows now."""
    from sttm.server.decoding import Decoder
    from sttm.server.watching import Chats

    chats = Chats(
        loaded.model,
        loaded.processor,
        budgets(reduction.method, spec),
        layer=loaded.layer if reduction.layer is None else reduction.layer,
        positions=loaded.positions,
        reader=Decoder(limits),
    )
    note_misfit = reduction.misfit(loaded.name, chats.get(None, None).layer)
    if note_misfit:
        note(note_misfit)
    return chats


def budgets(
    method: "Method | None", spec: str | None
) -> "Callable[[Keep | None, str | None], Method | None]":
    """Return the method for what a request wants to keep, and for the method that it names.

    Args:
        method: the server's own, with its budget.
        spec: as in ``--method``.
    """
    from sttm.evaluation.specs import parse_spec
    from sttm.methods import STTM, get_method

    parsed = parse_spec(spec or STTM.name)
    others = {name: value for name, value in parsed.options if name not in _BUDGETS}

    def chosen(keep: "Keep | None", name: str | None) -> "Method | None":
        is_own = name in (None, parsed.name)
        if keep is None and is_own:
            return method
        if isinstance(keep, float) and keep == 1:
            return None
        budget = {} if keep is None else {"keep": keep}
        return get_method(name or parsed.name, **(others if is_own else {}), **budget)

    return chosen
