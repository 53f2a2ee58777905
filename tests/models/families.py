"""The families under test: one tiny random model and one prompt writer each."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForImageTextToText, PretrainedConfig

from . import configs
from .layouts import (
    CompressedLayout,
    FramesLayout,
    Image,
    Layout,
    LlavaLayout,
    PatchLayout,
    Prompt,
    Row,
    Text,
    VideoPlace,
)

Rope = Literal["1d", "mrope"]


@dataclass(frozen=True)
class Inputs:
    """A batch as a processor would give it.

    Args:
        tensors: what the model is called with.
        videos: per row, where its videos stand.
    """

    tensors: dict[str, torch.Tensor]
    videos: tuple[tuple[VideoPlace, ...], ...]

    @property
    def length(self) -> int:
        """Tokens per row, padding included."""
        return self.tensors["input_ids"].shape[1]

    def followed_by(self, ids: torch.Tensor) -> "Inputs":
        """Return the same batch with ``(rows, n)`` ordinary tokens appended."""
        grown = dict(self.tensors)
        grown["input_ids"] = torch.cat([grown["input_ids"], ids], 1)
        grown["attention_mask"] = torch.cat([grown["attention_mask"], torch.ones_like(ids)], 1)
        if "mm_token_type_ids" in grown:
            kinds = grown["mm_token_type_ids"]
            grown["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(ids)], 1)
        return Inputs(grown, self.videos)


@dataclass(frozen=True)
class Family:
    """A video LLM family.

    Args:
        name: also the library's ``model_type``.
        config: builds the tiny configuration.
        layout: how prompts are written.
        rope: positions of text and video: one axis, or time, height and width.
        ragged: videos of one batch may differ in length.
        images: a prompt may hold an image beside a video.
        typed: the model wants ``mm_token_type_ids``.
        broken: what the library itself cannot do with this family, and why.
    """

    name: str
    config: Callable[[], PretrainedConfig]
    layout: Layout
    rope: Rope = "1d"
    ragged: bool = True
    images: bool = True
    typed: bool = False
    broken: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def model_type(self) -> str:
        """The library's name of the family."""
        return self.name

    def make_model(
        self, attention: str = "sdpa", seed: int = 0, layers: int = configs.LAYERS
    ) -> Any:
        """Build a model whose logits react to every position and every mask."""
        skip_if_faulty(self.name)
        torch.manual_seed(seed)
        config = self.config()
        config.get_text_config().num_hidden_layers = layers
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        return _sharpen(model, seed).eval()

    def make_inputs(
        self, *rows: Row, padding: Literal["left", "right"] = "left", seed: int = 0
    ) -> Inputs:
        """Write a batch of prompts, padded to the longest."""
        prompts = [self._write(row, seed) for row in rows]
        longest = max(len(prompt.ids) for prompt in prompts)
        shifts = [longest - len(p.ids) if padding == "left" else 0 for p in prompts]

        def pad(values: list[int], shift: int, filler: int) -> list[int]:
            return [filler] * shift + values + [filler] * (longest - shift - len(values))

        tensors = {
            "input_ids": [pad(p.ids, s, configs.PAD) for p, s in zip(prompts, shifts, strict=True)],
            "attention_mask": [
                pad([1] * len(p.ids), s, 0) for p, s in zip(prompts, shifts, strict=True)
            ],
        }
        if self.typed:
            tensors["mm_token_type_ids"] = [
                pad(p.kinds, s, 0) for p, s in zip(prompts, shifts, strict=True)
            ]
        videos = tuple(
            tuple(VideoPlace(grid, torch.tensor(at) + s) for grid, at in p.videos)
            for p, s in zip(prompts, shifts, strict=True)
        )
        ids = {name: torch.tensor(values) for name, values in tensors.items()}
        return Inputs({**ids, **self.layout.pixels(rows)}, videos)

    def _write(self, row: Row, seed: int) -> Prompt:
        prompt = Prompt()
        for part in row:
            if isinstance(part, Text):
                prompt.words(part.length, seed=part.seed + seed)
            elif isinstance(part, Image):
                self.layout.image(prompt, part)
            else:
                self.layout.video(prompt, part)
        return prompt


def _sharpen(model: Any, seed: int) -> Any:
    """Larger random weights than the library's, and no marks or placeholders among the answers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2, generator=generator)
            elif name.endswith("A_log"):  # slow decay: recurrent layers remember the video
                parameter.uniform_(0.01, 0.3, generator=generator).log_()
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.add_(0.7)
        model.get_input_embeddings().weight.normal_(0.0, 1.0, generator=generator)
        model.lm_head.weight[[configs.PAD, *range(configs.IMAGE_TOKEN, configs.VOCAB)]] = 0.0
    model.generation_config.pad_token_id = configs.PAD
    model.generation_config.eos_token_id = None
    return model


_GLM_BEAMS = {
    "beams": "the library counts video_token_id, which glm4v does not write, to expand features"
}
_HYBRID_CACHE = {
    "crop": "a recurrent state cannot be cropped",
    "repeat": "the library's linear cache layers have no batch_repeat_interleave",
    "bare cache": "linear layers need a cache that was built from the configuration",
}

_COPIES = {
    "beams": "before 5.20.1 the library lost or scrambled the frames of a prompt that it repeats"
}
_FAULTY = {"smolvlm": ("5.20.1", "5.20.2")}


def is_faulty(name: str) -> bool:
    """Whether the installed library cannot run a family at all; the adapter refuses it."""
    return transformers.__version__ in _FAULTY.get(name, ())


def skip_if_faulty(name: str) -> None:
    """Skip a test of a family that the installed library cannot run."""
    if is_faulty(name):
        pytest.skip(f"transformers {transformers.__version__} cannot run {name}")


def _before(release: str, broken: dict[str, str]) -> dict[str, str]:
    """Return what was broken in the library until ``release``, if that is so still."""
    return broken if Version(transformers.__version__) < Version(release) else {}


_NO_LOGITS_TO_KEEP = {"logits_to_keep": "video_llama_3 computes all logits, whatever is asked for"}

_EVERY: tuple[Family, ...] = (
    Family(
        "llava_onevision",
        configs.llava_onevision,
        LlavaLayout(image_size=10, side=3, newline=True),
        ragged=False,
    ),
    Family(
        "llava_next_video",
        configs.llava_next_video,
        LlavaLayout(image_size=12, side=3, newline=False),
        ragged=False,
        broken=_before("5.20.1", _COPIES),
    ),
    Family("qwen2_vl", configs.qwen2_vl, PatchLayout(), rope="mrope", typed=True),
    Family(
        "qwen2_5_vl",
        configs.qwen2_5_vl,
        PatchLayout(second_per_grid=True),
        rope="mrope",
        typed=True,
    ),
    Family("qwen3_vl", configs.qwen3_vl, PatchLayout(per_frame=True), rope="mrope", typed=True),
    Family(
        "qwen3_5",
        configs.qwen3_5,
        PatchLayout(per_frame=True),
        rope="mrope",
        typed=True,
        broken={**_HYBRID_CACHE, **_before("5.20.2", _COPIES)},
    ),
    Family(
        "glm4v",
        configs.glm4v,
        PatchLayout(per_frame=True, glm=True),
        rope="mrope",
        typed=True,
        images=False,
        broken=_GLM_BEAMS,
    ),
    Family(
        "internvl",
        configs.internvl,
        FramesLayout(image_size=12, side=3, before=2, smol=False),
    ),
    Family(
        "smolvlm",
        configs.smolvlm,
        FramesLayout(image_size=12, side=3, before=3, smol=True),
    ),
    Family("video_llama_3", configs.video_llama_3, CompressedLayout(), broken=_NO_LOGITS_TO_KEEP),
)
FAMILIES = tuple(family for family in _EVERY if not is_faulty(family.name))
BY_NAME = {family.name: family for family in _EVERY}
# One axis; three axes and DeepStack; recurrent layers: these differ most.
UNLIKE = tuple(BY_NAME[name] for name in ("llava_onevision", "qwen3_vl", "qwen3_5"))

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
unlike_families = pytest.mark.parametrize("family", UNLIKE, ids=lambda f: f.name)


def shared_out(names: str, settings: Sequence[Any]) -> pytest.MarkDecorator:
    """Run every setting on the families that differ most; the others take one each, in turn.

    Args:
        names: of the parameters of one setting, behind "family".
        settings: their values, tuples if there are several.
    """
    turn = itertools.cycle(settings)
    cases = [
        (family, *(setting if isinstance(setting, tuple) else (setting,)))
        for family in FAMILIES
        for setting in (settings if family in UNLIKE else [next(turn)])
    ]
    ids = ["-".join([family.name, *map(str, setting)]) for family, *setting in cases]
    return pytest.mark.parametrize(("family", *names.split(",")), cases, ids=ids)


@cache
def shared_model(name: str, attention: str = "sdpa") -> Any:
    """One model per family and attention for all tests; every test leaves it as it was."""
    return BY_NAME[name].make_model(attention)


def flat(places: Sequence[Sequence[VideoPlace]]) -> list[VideoPlace]:
    """All videos of a batch, in order of row and place."""
    return list(itertools.chain.from_iterable(places))
