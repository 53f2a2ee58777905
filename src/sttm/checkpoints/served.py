"""Model folders that ``transformers serve --trust-remote-code`` runs with reduced videos.

transformers loads a folder's ``custom_generate/generate.py`` in place of ``generate``, and the
class that its processor's configuration names. Both files only call this module.
"""

import base64
import binascii
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers
from transformers.video_utils import load_video

from sttm.attachment import attach
from sttm.checkpoints.conversion import NEWLINE
from sttm.checkpoints.llava import NEWLINE_KEY, PLAIN
from sttm.checkpoints.source import CONFIG, fetch, read_config
from sttm.errors import ConfigError
from sttm.files import make_folder, write_json, write_text
from sttm.methods import Method

_GENERATE = Path("custom_generate") / "generate.py"
_PROCESSOR = "served_processor"
_GENERATE_TEXT = '''"""Generates with reduced videos; written by ``sttm convert --serve``."""

from sttm.checkpoints.served import reduced_generate
from sttm.methods import get_method

METHOD = get_method({name!r}, **{options!r})


def generate(model, *args, **arguments):
    return reduced_generate(
        model, METHOD, *args, reduce_layer={layer!r}, positions={positions!r}, **arguments
    )
'''
_PROCESSOR_TEXT = '''"""Reads videos as served; written by ``sttm convert --serve``."""

import transformers

from sttm.checkpoints.served import reading_videos


@reading_videos
class ServedProcessor(transformers.{base}):
    pass
'''


def reduced_generate(
    model: Any,
    method: Method,
    *args: Any,
    reduce_layer: int | None = None,
    positions: str = "auto",
    **arguments: Any,
) -> Any:
    """Generate as the model's class does, while its videos are reduced.

    Args:
        model: a supported model.
        method: the reduction.
        *args: of ``generate``.
        reduce_layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        **arguments: of ``generate``.

    Returns:
        what ``generate`` gives.

    Raises:
        see `sttm.attach`.
    """
    with attach(model, method, layer=reduce_layer, positions=positions) as attachment:
        out = type(model).generate(model, *args, **arguments)
        for report in attachment.reports:
            counts = f"sttm: {report.tokens_in} -> {report.tokens_out} video tokens"
            print(counts, file=sys.stderr, flush=True)  # noqa: T201 (the terminal of the server)
    return out


def reading_videos(processor_class: type[Any]) -> type[Any]:
    """Let a processor's class read videos as ``transformers serve`` names them.

    That program asks every multimodal processor for the sound of a video, and decodes with
    torchcodec, which needs FFmpeg on the machine. Here sound is left out, and PyAV decodes; data
    URLs are read, too.

    Args:
        processor_class: a subclass of a transformers processor; it is changed and returned.
    """

    def apply_chat_template(
        self: Any, *args: Any, load_audio_from_video: bool = False, **arguments: Any
    ) -> Any:
        self.video_processor.fetch_videos = _fetch_videos
        return super(processor_class, self).apply_chat_template(*args, **arguments)

    processor_class.apply_chat_template = apply_chat_template
    return processor_class


def _fetch_videos(urls: Any, sample_indices_fn: Callable[..., Any] | None = None) -> Any:
    """Decode videos, which may be nested in lists; gives frames and metadata, each nested alike."""
    if isinstance(urls, list):
        return list(zip(*[_fetch_videos(url, sample_indices_fn) for url in urls]))
    if not urls.startswith("data:"):
        return load_video(urls, backend="pyav", sample_indices_fn=sample_indices_fn)
    with tempfile.NamedTemporaryFile(suffix=".video") as file:
        try:
            file.write(base64.b64decode(urls.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise ConfigError(
                "video_url: got a data URL that is no base64, expected data:video/mp4;base64,..."
            ) from error
        file.flush()
        return load_video(file.name, backend="pyav", sample_indices_fn=sample_indices_fn)


def write_served(
    name: str, out: Path, method: Method, *, layer: int | None = None, positions: str = "auto"
) -> list[Path]:
    """Write a folder that ``transformers serve`` runs with reduced videos.

    Args:
        name: folder or hub id of a supported model in transformers' layout. Its files are linked
            to, not copied.
        out: a new folder.
        method: the reduction, one whose options are plain values.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.

    Returns:
        the files that are written.

    Raises:
        ConfigError: no such model, its processor is not one of transformers', newline tokens stand
            where transformers puts none, or ``out`` exists.
    """
    source = fetch(name)
    names = "processor_config.json", "preprocessor_config.json"  # the second in old folders
    settings = next((name for name in names if (source / name).is_file()), names[1])
    config = read_config(source, settings)
    base = _processor_class(source / settings, config)
    _check_newline(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: got a place that is taken, expected a new or an empty folder.")
    make_folder(out / _GENERATE.parent, "OUT")
    for path in source.iterdir():
        if path.is_file() and path.name != settings:
            (out / path.name).symlink_to(path.resolve())
    texts = {
        _GENERATE: _GENERATE_TEXT.format(
            name=method.name, options=_options(method), layer=layer, positions=positions
        ),
        Path(f"{_PROCESSOR}.py"): _PROCESSOR_TEXT.format(base=base),
    }
    for place, text in texts.items():
        write_text(out / place, text)
    write_json(
        out / settings, {**config, "auto_map": {"AutoProcessor": f"{_PROCESSOR}.ServedProcessor"}}
    )
    return [*(out / place for place in texts), out / settings]


def _check_newline(source: Path) -> None:
    """Refuse a converted model with a newline token behind every frame or row of a video."""
    mode = read_config(source).get(NEWLINE_KEY, PLAIN)
    if mode not in (PLAIN, NEWLINE):
        raise ConfigError(
            f"{source / CONFIG}: got {NEWLINE_KEY} {mode!r}, expected {NEWLINE!r} or {PLAIN!r}: "
            "transformers' own classes put one newline token behind a video, and no other. Convert "
            f"the checkpoint with --newline {NEWLINE}, or use `sttm serve --model {source}`."
        )


def _processor_class(path: Path, config: Mapping[str, Any]) -> str:
    name = str(config.get("processor_class"))
    if not hasattr(transformers, name):
        raise ConfigError(
            f"{path}: got the processor {name}, expected one of transformers'. "
            "Save the processor with this transformers, and serve that folder."
        )
    return name


def _options(method: Method) -> Mapping[str, Any]:
    """Return the options of a method, which a file of code can hold.

    Raises:
        ConfigError: one cannot be written.
    """
    options = {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    try:
        json.dumps(options)
    except TypeError as error:
        raise ConfigError(
            f"method: got {method!r}, expected one whose options are numbers and words."
        ) from error
    return options
