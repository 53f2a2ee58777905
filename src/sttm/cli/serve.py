"""``sttm serve``: answer OpenAI's chat completions about videos."""

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sttm.cli.command import refuse_idle
from sttm.cli.loading import load_model, refuse_for_nano
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
from sttm.cli.reduction import Wanted, describe_method, parse_reduction
from sttm.errors import ConfigError
from sttm.files import make_folder
from sttm.server.config import MIB, Limits

if TYPE_CHECKING:
    from sttm.methods import Method
    from sttm.server.watching import Keep

KEY_VARIABLE = "STTM_API_KEYS"
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


@with_options(ModelOptions, Limits)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: --model, or nano.")
    ] = None,
    keep: KeepOption = None,
    thresholds: ThresholdsOption = None,
    max_tokens: MaxTokensOption = None,
    method: MethodOption = None,
    full: Annotated[bool, typer.Option("--full", help="Merge nothing: keep all tokens.")] = False,
    layer: LayerOption = None,
    fps: FpsOption = 1.0,
    max_frames: MaxFramesOption = 128,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep watched videos and uploaded files here; see `sttm store`. Default: in "
            "memory, until the server stops.",
        ),
    ] = None,
    memory_mib: Annotated[
        int, typer.Option(min=0, help="MiB of watched videos in the host's memory.")
    ] = 4096,
    device_mib: Annotated[
        int, typer.Option(min=0, help="MiB of watched videos on the model's device.")
    ] = 4096,
    disk_mib: Annotated[
        int, typer.Option(min=0, help="MiB of watched videos in --store.")
    ] = 65536,
    allow_path: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder whose files may be named by file:// URLs."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Host that videos may be downloaded from; *.name: all below it."
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option("--allow-private", help="These hosts may be in a private network."),
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Web page that may call the server (CORS)."),
    ] = None,
    json: JsonOption = False,
    **options: Any,
) -> None:
    """Serve OpenAI's chat completions about videos, each of which is watched once.

    Requests must show one of the keys in the environment variable STTM_API_KEYS, if it is set;
    several stand with commas between them.
    """
    from sttm.chat import VideoStore
    from sttm.server.answering import Service
    from sttm.server.config import ServerConfig
    from sttm.server.decoding import Decoder
    from sttm.server.running import run
    from sttm.server.security import is_open
    from sttm.server.watching import Chats

    if store is None:
        refuse_idle(context, ["disk_mib"], "no --store", "nothing is kept on the disk")
    if full:
        refuse_idle(context, ["layer"], "--full", "all tokens are kept, in front of every layer")
    chosen, limits = taken(ModelOptions, options), taken(Limits, options)
    refuse_for_nano(context, chosen.model)
    wanted = Wanted(keep, thresholds, max_tokens, method, full)
    reduction = parse_reduction(wanted, model=chosen.model, layer=layer)
    keys = tuple(filter(None, (key.strip() for key in os.environ.get(KEY_VARIABLE, "").split(","))))
    if is_open(host, keys):
        note(f"anybody who reaches {host} may ask: set {KEY_VARIABLE} to ask for a key.")
    with ExitStack() as stack:
        root = store or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sttm-")))
        make_folder(root / "files", "--store")
        config = ServerConfig(
            name=name or chosen.model or NANO_NAME,
            folder=root / "files",
            fps=fps,
            max_frames=max_frames,
            paths=tuple(_folder(path) for path in allow_path or ()),
            hosts=tuple(allow_host or ()),
            private_hosts=allow_private,
            origins=tuple(allow_origin or ()),
            keys=keys,
            limits=limits,
        )
        with noted_warnings():
            videos = VideoStore(
                None if store is None else root / "videos",
                memory_bytes=memory_mib * MIB,
                device_bytes=device_mib * MIB,
                disk_bytes=disk_mib * MIB,
            )
        loaded = load_model(*chosen.arguments)
        chats = Chats(
            loaded.model,
            loaded.processor,
            budgets(reduction.method, method),
            layer=loaded.layer if reduction.layer is None else reduction.layer,
            positions=loaded.positions,
            reader=Decoder(limits),
        )
        chats.get(None, None)  # what is wrong with method or layer shows now
        described = describe_method(reduction.method)

        def ready(url: str) -> None:
            serving = Serving(url, config.name, described, bool(keys))
            if json:
                show_json(serving)
            else:
                say(f"{url}/v1 answers as {config.name!r}, {described}; Ctrl-C stops it.")

        run(Service(config, chats, videos), host, port, ready)


def budgets(method: "Method | None", spec: str | None) -> "Callable[[Keep | None], Method | None]":
    """Return the method for what a request wants to keep.

    Args:
        method: the server's own, with its budget.
        spec: as in ``--method``.
    """
    from sttm.evaluation.specs import parse_spec
    from sttm.methods import STTM, get_method

    parsed = parse_spec(spec or STTM.name)
    others = {name: value for name, value in parsed.options if name not in _BUDGETS}

    def chosen(keep: "Keep | None") -> "Method | None":
        if keep is None:
            return method
        everything = isinstance(keep, float) and keep == 1
        return None if everything else get_method(parsed.name, **others, keep=keep)

    return chosen


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ConfigError(f"--allow-path: got {path}, expected a folder that exists.")
    return path.resolve()
