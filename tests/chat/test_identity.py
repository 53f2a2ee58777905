"""Whatever changes what a cache holds changes its key."""

import copy
import functools
import subprocess
import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import peft
import pytest
import torch

import sttm
from sttm.chat.identity import content_digest, fingerprint, method_digest, method_key
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.methods import Method, VideoFeatures
from sttm.plan import MergePlan
from sttm.video.decode import video_of_frames
from sttm.video.sampling import Sampling
from tests.models.methods import KeepEvery

from .tiny import FAMILIES, bundle, clip


class Plain(Method):
    """No dataclass: its object holds what it likes."""

    name: ClassVar[str] = "plain"

    def __init__(self, **options: Any) -> None:
        vars(self).update(options)

    def plan(self, video: VideoFeatures) -> MergePlan:
        return MergePlan.identity(video.grid.num_tokens)


class Slotted(Plain):
    """Holds its option in a slot, and reads it through a cached property."""

    __slots__ = ("__step",)

    def __init__(self, step: int) -> None:
        self.__step = step

    @functools.cached_property
    def doubled(self) -> int:
        return 2 * self.__step


@dataclass(frozen=True)
class Hidden(Plain):
    """A dataclass with a field that its repr does not show."""

    step: int = field(default=1, repr=False, compare=False)


class Side(Enum):
    LEFT = "x"
    RIGHT = "y"


def test_a_fingerprint_sees_every_weight() -> None:
    tiny = bundle("llava_onevision")
    model = copy.deepcopy(tiny.model)
    before = fingerprint(model)
    assert before == fingerprint(tiny.model) == fingerprint(model)
    for parameter in list(model.parameters())[::7]:
        with torch.no_grad():
            flat = parameter.view(-1)
            place = len(flat) * 2 // 3
            kept = flat[place].clone()
            flat[place] += 1
            assert fingerprint(model) != before
            flat[place] = kept
            assert fingerprint(model) == before


def test_a_fingerprint_sees_swapped_numbers() -> None:
    model = copy.deepcopy(bundle("llava_onevision").model)
    before = fingerprint(model)
    with torch.no_grad():
        weight = max(model.parameters(), key=torch.numel).view(-1)
        rows = 512 * 8 // weight.element_size()  # so far apart that the sums of columns are equal
        for one, other in ((0, 1), (0, 2), (3, len(weight) - 3), (5, 5 + rows)):
            kept = weight.clone()
            weight[one], weight[other] = kept[other], kept[one]
            assert fingerprint(model) != before
            weight.copy_(kept)
    assert fingerprint(model) == before


def test_a_fingerprint_sees_the_configuration_and_the_dtype() -> None:
    model = copy.deepcopy(bundle("llava_onevision").model)
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model).bfloat16()) != before
    model.config.add_time_instruction = True
    assert fingerprint(model) != before


def test_a_fingerprint_sees_which_adapter_is_in_use() -> None:
    """The weights of both are there all the time."""
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(bundle("llava_onevision").model), config, "one")
    model.add_adapter("two", config)
    found = []
    for name in ("one", "two"):
        model.set_adapter(name)
        found.append(fingerprint(model.base_model.model))
    with model.disable_adapter():
        found.append(fingerprint(model.base_model.model))
    model.merge_adapter()
    found.append(fingerprint(model.base_model.model))
    assert len(set(found)) == 4


def test_offloaded_weights_are_refused() -> None:
    with torch.device("meta"):
        model = copy.deepcopy(bundle("llava_onevision").model).to("meta")
    with pytest.raises(UnsupportedModelError, match="is offloaded, expected all weights"):
        fingerprint(model)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (sttm.STTM(keep=0.3), sttm.STTM(keep=0.2)),
        (sttm.STTM(keep=1), sttm.STTM(keep=1.0)),
        (KeepEvery(2), KeepEvery(3)),
        (Plain(step=1), Plain(step=2)),
        (Plain(step=1), Plain(other=1)),
        (Plain(step=torch.arange(2000)), Plain(step=torch.arange(2000).flip(0))),
        (Plain(step=torch.zeros(2)), Plain(step=torch.zeros(2, 1))),
        (Plain(step=np.float32(1)), Plain(step=np.float32(2))),
        (Plain(step=np.arange(3)), Plain(step=np.arange(3) + 1)),
        (Plain(step=Side.LEFT), Plain(step=Side.RIGHT)),
        (Plain(step=[1, 2]), Plain(step=(1, 2))),
        (Plain(step={"a": 1}), Plain(step={"a": 2})),
        (Plain(step={1, 2}), Plain(step={1, 3})),
        (Plain(step=KeepEvery(2)), Plain(step=KeepEvery(3))),
        (Slotted(1), Slotted(2)),
        (Hidden(1), Hidden(2)),
    ],
    ids=lambda method: type(method).__name__,
)
def test_options_of_any_class_count(one: Method, other: Method) -> None:
    assert method_key(one) == method_key(copy.deepcopy(one)) != method_key(other)
    assert method_digest(one) == method_digest(copy.deepcopy(one)) != method_digest(other)


def test_the_order_of_names_does_not_count() -> None:
    assert method_key(Plain(a=1, b={"x": 1, "y": 2})) == method_key(Plain(b={"y": 2, "x": 1}, a=1))


def test_what_is_computed_does_not_count() -> None:
    method = Slotted(1)
    before = method_digest(method)
    assert method.doubled == 2
    assert method_digest(method) == before


def test_values_that_cannot_be_told_apart() -> None:
    method = Plain(step=object())
    assert method_key(method) != method_key(method)
    with pytest.raises(ConfigError, match="got step of type object, expected numbers"):
        method_digest(method)


def test_a_class_made_in_a_function_is_refused() -> None:
    class Inner(Plain):
        pass

    with pytest.raises(ConfigError, match="made in a function"):
        method_digest(Inner())


def test_a_constant_of_the_class_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, "step", 1, raising=False)
    before = method_digest(Plain())
    monkeypatch.setattr(Plain, "step", 2)
    assert method_digest(Plain()) != before


def test_the_source_of_a_method_of_others_counts(tmp_path: Path) -> None:
    """Whoever edits a method does not want the videos of the one before."""
    source = """
from sttm import Method, MergePlan
from sttm.chat.identity import method_digest
def kept(n): return n
class Mine(Method):
    name = "mine"
    def plan(self, video): return MergePlan.identity(kept(video.grid.num_tokens))
"""
    found = []
    for text in (source, source, source.replace("return n", "return n - 1")):
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-c", "import mine; print(mine.method_digest(mine.Mine()))"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        found.append(done.stdout)
    assert found[0] == found[1] != found[2]


def test_content_is_bytes_and_not_names(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4"))
    for path, text in ((one, "abc"), (same, "abc"), (other, "abd")):
        path.write_text(text)
    assert content_digest(one) == content_digest(str(same)) != content_digest(other)


def test_frames_and_their_times_count() -> None:
    video = video_of_frames(clip(4), Sampling())
    digest = content_digest(video)
    assert content_digest(replace(video, path="other.mp4")) == digest
    changed = video.frames.copy()
    changed[-1, -1, -1, -1] ^= 1
    assert content_digest(replace(video, frames=changed)) != digest
    assert content_digest(replace(video, timestamps=(0.0, 1.0, 2.0, 9.0))) != digest
    assert content_digest(replace(video, duration=9.0)) != digest
    assert content_digest(replace(video, frames=video.frames[:, ::-1])) != digest


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fingerprint_is_the_same_in_every_copy(name: str) -> None:
    model = bundle(name).model
    assert fingerprint(model) == fingerprint(copy.deepcopy(model))
