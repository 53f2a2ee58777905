"""Write a converted checkpoint: shard by shard, complete or not at all, and resumable."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import LlavaOnevisionProcessor

from sttm.checkpoints.configure import build_generation_config
from sttm.checkpoints.conversion import SHARD_BYTES, Conversion
from sttm.checkpoints.mapping import Move
from sttm.checkpoints.shards import INDEX, open_files, read_headers
from sttm.checkpoints.tokenizer import build_processor
from sttm.errors import ConfigError

Progress = Callable[[str, int, int], None]
_STATE = "conversion.json"
_PARTIAL = "writing.tmp"
_SPARE = 100_000_000  # bytes of disk for everything that is no tensor


@dataclass(frozen=True)
class Shard:
    """One file of the result.

    Args:
        name: of the file.
        moves: its tensors.
    """

    name: str
    moves: tuple[Move, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(move.nbytes for move in self.moves)


def convert(
    conversion: Conversion,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    verify: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a conversion to a new folder.

    All is written to a hidden folder beside it first; what is there of an interrupted conversion
    of the same checkpoint is used, of another one is thrown away.

    Args:
        conversion: what becomes of what.
        out: the folder; must not exist, or be empty.
        shard_bytes: most bytes per file; as much memory is needed if the dtype changes.
        verify: read everything again, and compare it with the checkpoint bit for bit.
        progress: called with (stage, done, total); stages "convert" and "verify", in tensors.

    Returns:
        how many files were there from an interrupted conversion.

    Raises:
        ConfigError: the folder exists, the disk is full, or verifying finds a difference.
    """
    tell = progress or (lambda stage, done, total: None)
    _refuse_existing(out)
    shards = plan_shards(conversion.tensors.moves, shard_bytes)
    partial = out.absolute().parent / f".{out.name}.converting"
    try:
        reused = _begin(conversion, shards, partial)
        _check_disk(shards, partial)
        _write_shards(shards, partial, tell)
        _write_rest(conversion, shards, partial)
        if verify:
            compare(conversion, partial, tell)
        (partial / _STATE).unlink()
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{out}: cannot be written ({error}). What is done so far is kept in {partial}: make "
            "room and run the same command again, or remove it."
        ) from error
    return reused


def plan_shards(moves: Sequence[Move], most: int) -> list[Shard]:
    """Deal tensors to files as transformers does; one that is larger than ``most`` has its own."""
    by_name = {move.target: move for move in moves}
    split = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=attrgetter("nbytes"),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=most,
    )
    return [
        Shard(file, tuple(by_name[name] for name in names))
        for file, names in split.filename_to_tensors.items()
    ]


def compare(conversion: Conversion, folder: Path, tell: Progress) -> None:
    """Compare every tensor of a converted folder with where it comes from, bit for bit.

    Raises:
        ConfigError: one is different, missing or should not be there.
    """
    written = read_headers(folder)
    moves = conversion.tensors.moves
    if written.keys() != {move.target for move in moves}:
        wrong = sorted(written.keys() ^ {move.target for move in moves})
        raise ConfigError(f"{folder}: got other tensors than expected: {wrong[:4]}. Convert again.")
    with (
        open_files(_origins(moves)) as sources,
        open_files(stored.file for stored in written.values()) as results,
    ):
        for done, move in enumerate(moves):
            tell("verify", done, len(moves))
            result = results[written[move.target].file].get_tensor(move.target)
            expected = move.read(sources)
            if result.dtype != expected.dtype or not torch.equal(_bits(result), _bits(expected)):
                raise ConfigError(
                    f"{folder}: got {move.target} unlike {move.source}, expected the same bits. "
                    "The disk or the checkpoint changed meanwhile: remove the folder and convert "
                    "again."
                )
    tell("verify", len(moves), len(moves))


def _refuse_existing(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise ConfigError(
            f"{out}: got a folder or file that exists, expected a new one: nothing is overwritten. "
            "Remove it or choose another name."
        )
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist. Create it first.")


def _begin(conversion: Conversion, shards: Sequence[Shard], partial: Path) -> int:
    """Make the hidden folder; keep what is in it if it belongs to this very conversion."""
    state = {"sttm_conversion": _digest(conversion, shards)}
    path = partial / _STATE
    if partial.is_dir() and any(partial.iterdir()):
        if not path.is_file():
            raise ConfigError(
                f"{partial}: got a folder that no conversion made, expected none. Remove it."
            )
        if path.read_text(encoding="utf-8") != json.dumps(state):
            shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    path.write_text(json.dumps(state), encoding="utf-8")
    complete = {shard.name for shard in shards} | {_STATE}
    for found in partial.iterdir():
        if found.name not in complete:
            found.unlink()
    return sum((partial / shard.name).is_file() for shard in shards)


def _digest(conversion: Conversion, shards: Sequence[Shard]) -> str:
    """Hash what the result depends on; files of the checkpoint by size and time."""
    digest = hashlib.sha256(conversion.config.to_json_string(use_diff=False).encode())
    for shard in shards:
        for move in shard.moves:
            digest.update(repr((shard.name, move)).encode())
    for file in sorted(set(_origins(conversion.tensors.moves))):
        found = file.stat()
        digest.update(repr((str(file), found.st_size, found.st_mtime_ns)).encode())
    return digest.hexdigest()


def _check_disk(shards: Sequence[Shard], partial: Path) -> None:
    needed = _SPARE + sum(s.nbytes for s in shards if not (partial / s.name).is_file())
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise ConfigError(
            f"{partial.parent}: got {free / 1e9:.1f} GB of free disk, expected {needed / 1e9:.1f} "
            "GB. Make room, or choose another disk."
        )


def _write_shards(shards: Sequence[Shard], partial: Path, tell: Progress) -> None:
    done, total = 0, sum(len(shard.moves) for shard in shards)
    for shard in shards:
        tell("convert", done, total)
        if not (partial / shard.name).is_file():
            with open_files(_origins(shard.moves)) as files:
                tensors = {move.target: move.read(files).contiguous() for move in shard.moves}
                save_file(tensors, partial / _PARTIAL, metadata={"format": "pt"})
            # Written for the owner alone otherwise, whatever the umask.
            (partial / _PARTIAL).chmod(0o644)
            (partial / _PARTIAL).replace(partial / shard.name)
        done += len(shard.moves)
    tell("convert", done, total)


def _write_rest(conversion: Conversion, shards: Sequence[Shard], partial: Path) -> None:
    conversion.config.save_pretrained(partial)
    build_generation_config(conversion.tokenizer).save_pretrained(partial)
    # The plain class: transformers can load it without this library.
    kind = LlavaOnevisionProcessor
    build_processor(conversion.tokenizer, conversion.config, kind).save_pretrained(partial)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
            "weight_map": {move.target: s.name for s in shards for move in s.moves},
        }
        (partial / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _origins(moves: Sequence[Move]) -> Iterator[Path]:
    return (move.stored.file for move in moves if move.stored is not None)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
