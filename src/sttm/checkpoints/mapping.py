"""Which tensor of a LLaVA-NeXT checkpoint becomes which of transformers' LLaVA-OneVision."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from sttm.checkpoints.llava import LlavaVideoForConditionalGeneration
from sttm.checkpoints.shards import Stored, some_of
from sttm.checkpoints.source import Source
from sttm.checkpoints.tower import Tower
from sttm.errors import ConfigError

Shape = tuple[int, ...]
NEWLINE = "model.image_newline"
HEAD = "lm_head.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"
_PER_VOCABULARY = (EMBEDDING, HEAD)
_TOWER = "model.vision_tower."
# What names begin with here, and there; the first that fits counts.
_PREFIXES = (
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    (NEWLINE, NEWLINE),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)
_NO_WEIGHTS = (".inv_freq", ".position_ids")


@dataclass(frozen=True)
class Move:
    """One tensor of the result.

    Args:
        target: its name.
        shape: its shape.
        dtype: its dtype.
        source: the name that it comes from; None for one that is made: zeros.
        stored: where that is.
        rows: how many of its rows come from there; the others become the mean of those.
    """

    target: str
    shape: Shape
    dtype: torch.dtype
    source: str | None
    stored: Stored | None
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def unchanged(self) -> bool:
        """Whether it is the stored tensor as it is."""
        found = self.stored
        return found is not None and (found.shape, found.dtype) == (self.shape, self.dtype)

    def read(self, files: Mapping[Any, Any]) -> torch.Tensor:
        """Read the tensor, in the dtype of the result.

        Args:
            files: open safetensors files, by path.
        """
        if self.stored is None:
            return torch.zeros(self.shape, dtype=self.dtype)
        tensor: torch.Tensor = files[self.stored.file].get_tensor(self.source).to(self.dtype)
        if self.rows == self.shape[0]:
            return tensor
        # Placeholders need a row, but must never be the likeliest word: the mean never is.
        mean = tensor.mean(0, dtype=torch.float32).to(self.dtype)
        return torch.cat([tensor, mean.expand(self.shape[0] - self.rows, -1)])


@dataclass(frozen=True)
class TensorMap:
    """What becomes of every tensor.

    Args:
        moves: the tensors of the result, each exactly once.
        dropped: the others by name, and why.
    """

    moves: tuple[Move, ...]
    dropped: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return sum(move.nbytes for move in self.moves)

    @property
    def parameters(self) -> int:
        """Numbers in the result."""
        return sum(prod(move.shape) for move in self.moves)


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Name the tensors that the model of a configuration must be given."""
    with torch.device("meta"):
        model = LlavaVideoForConditionalGeneration(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def map_tensors(source: Source, tower: Tower, config: Any, dtype: torch.dtype) -> TensorMap:
    """Map a checkpoint to a model.

    Args:
        source: the checkpoint.
        tower: its vision tower.
        config: of the model.
        dtype: of the result.

    Raises:
        ConfigError: tensors are missing, of another shape, unknown or there twice.
    """
    expected = expected_shapes(config)
    stored = {**source.tensors, **tower.tensors}
    targets: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for name in stored:
        target, why = _place(name, tower, tied=config.tie_word_embeddings)
        if target:
            targets[name] = target
        else:
            dropped[name] = why
    optional = {NEWLINE} if config.mm_newline_position == "no_token" else set()
    problems = {
        **_count_problems(targets, expected, optional),
        "of another shape": list(_misfits(source, stored, targets, expected)),
    }
    told = [f"{kind}: {some_of(names)}" for kind, names in problems.items() if names]
    if told:
        raise ConfigError(
            f"{source.folder}: got tensors that do not make the model of its config.json "
            f"({'; '.join(told)}). Download the checkpoint again, or name the vision tower it was "
            "trained with (--vision-tower)."
        )
    origins = {target: name for name, target in targets.items()}
    return TensorMap(
        tuple(_move(target, shape, origins, stored, dtype) for target, shape in expected.items()),
        dropped,
    )


def _move(
    target: str,
    shape: Shape,
    origins: Mapping[str, str],
    stored: Mapping[str, Stored],
    dtype: torch.dtype,
) -> Move:
    name = origins.get(target)
    if name is None:
        return Move(target, shape, dtype, None, None, shape[0])
    return Move(target, shape, dtype, name, stored[name], stored[name].shape[0])


def _place(name: str, tower: Tower, *, tied: bool) -> tuple[str, str]:
    """Return a tensor's new name, or why it has none."""
    if name.endswith(_NO_WEIGHTS):
        return "", "computed, not learned"
    if name in tower.tensors:
        return _place_in_tower(name, tower)
    if name == HEAD and tied:
        return "", "the same as the embedding"
    for old, new in _PREFIXES:
        if name.startswith(old):
            return new + name.removeprefix(old), ""
    return name, ""


def _place_in_tower(name: str, tower: Tower) -> tuple[str, str]:
    part = name.removeprefix(tower.prefix)
    if part == name and tower.prefix:
        return ("", "not of the vision tower") if not tower.own else (name, "")
    if part.startswith("head."):
        return "", "the tower's pooling, which LLaVA does not use"
    if part.startswith(f"encoder.layers.{tower.dropped}."):
        return "", "the tower's last layer, which LLaVA does not use"
    return _TOWER + part, ""


def _count_problems(
    targets: Mapping[str, str], expected: Mapping[str, Shape], optional: set[str]
) -> dict[str, list[str]]:
    """Find what keeps a tensor of the model from being filled exactly once."""
    times = Counter(targets.values())
    absent = (name for name in expected if not times[name] and name not in optional)
    return {
        "missing": [f"{name} {list(expected[name])}" for name in absent],
        "unexpected": [name for name, target in targets.items() if target not in expected],
        "twice": [name for name, count in times.items() if count > 1 and name in expected],
    }


def _misfits(
    source: Source,
    stored: Mapping[str, Stored],
    targets: Mapping[str, str],
    expected: Mapping[str, Shape],
) -> Iterator[str]:
    for name, target in targets.items():
        shape, wanted = stored[name].shape, expected.get(target)
        if wanted is not None and target in _PER_VOCABULARY:
            wanted = (source.config.vocab_size, *wanted[1:])
        if wanted is not None and shape != wanted:
            yield f"{name} {list(shape)}, expected {list(wanted)}"
