"""A library that changed under the hooks is an error with a sentence, or changes nothing at all."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import StaticCache, masking_utils
from transformers.cache_utils import DynamicLayer, StaticLayer

from sttm import attach
from sttm.errors import (
    IncompatibleTransformersError,
    UnreducedVideoError,
    UnsupportedModelError,
    UntestedVersionWarning,
)
from sttm.models import adapter_for, families, transformers_api
from sttm.models import versions as tested_versions

from . import mutations
from .families import BY_NAME, Family, every_family, shared_model, shared_out, unlike_families
from .layouts import Row, Text, Video
from .methods import PairMerge
from .names import CACHE
from .running import Answer, greedy

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))
INPUTS = ("input_ids", "attention_mask", "position_ids", "mm_encoder_outputs", "PIXELS", CACHE)
# part of the model -> the arguments that are renamed in turn
ARGUMENTS = {
    "model": INPUTS,
    "base": INPUTS,
    "text": ("inputs_embeds", "attention_mask", "position_ids", CACHE),
    "layer": ("hidden_states", "attention_mask", "position_ids", "position_embeddings", CACHE),
    "rotary": ("x", "position_ids"),
}
DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
CASES = [(part, name) for part, names in ARGUMENTS.items() for name in names]


def parts(model: Any, part: str) -> list[Any]:
    """The modules that play one part."""
    text = model.get_decoder()
    found = {"model": [model], "base": [model.base_model], "text": [text]}
    return {**found, "layer": list(text.layers), "rotary": [text.rotary_emb]}[part]


@cache
def unchanged(name: str, layer: int) -> Answer:
    """What a family answers as the library has it."""
    with attach(shared_model(name), PairMerge(), layer=layer):
        return greedy(shared_model(name), BY_NAME[name].make_inputs(ROW), 4)


def right_or_refused(family: Family, change: Callable[[Any], None], layer: int = 1) -> str:
    """Reduce and answer with a changed model: as before, or an error; returns its message."""
    inputs, wanted = family.make_inputs(ROW), unchanged(family.name, layer)
    changed = copy.deepcopy(shared_model(family.name))
    change(changed)
    try:
        with attach(changed, PairMerge(), layer=layer) as attachment:
            got = greedy(changed, inputs, 4)
            assert len(attachment.reports) == 1
    except (IncompatibleTransformersError, UnreducedVideoError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    assert torch.equal(got.logits, wanted.logits)
    assert got.tokens.tolist() == wanted.tokens.tolist()
    return "the same answer"


@pytest.mark.parametrize(("part", "name"), CASES)
@every_family
def test_a_renamed_argument(family: Family, part: str, name: str) -> None:
    pixels = adapter_for(shared_model(family.name)).pixels
    name = pixels if name == "PIXELS" else name

    def change(model: Any) -> None:
        for module in parts(model, part):
            mutations.rename_argument(module, name, "renamed")

    said = right_or_refused(family, change)
    if name in (CACHE, "hidden_states", "x") or (part, name) == ("rotary", "position_ids"):
        assert said == "the same answer"  # found by type or by place, whatever it is called
    if part in ("model", "base") and name not in (CACHE,):
        assert name in said
        assert "transformers" in said


@pytest.mark.parametrize("name", DEEPSTACK)
@pytest.mark.parametrize("how", [mutations.rename_argument, mutations.rename_unseen])
def test_renamed_deepstack(name: str, how: Callable[[Any, str, str], None]) -> None:
    family = BY_NAME["qwen3_vl"]
    for layer in (0, 2):
        said = right_or_refused(family, lambda m: how(m.get_decoder(), name, "renamed"), layer)
        assert "IncompatibleTransformersError" in said


@shared_out("part,name", [case for case in CASES if case[0] in ("text", "layer")])
def test_a_renamed_argument_that_no_signature_shows(family: Family, part: str, name: str) -> None:
    def change(model: Any) -> None:
        for module in parts(model, part):
            mutations.rename_unseen(module, name, "renamed")

    right_or_refused(family, change)


@shared_out("part", ["text", "layer", "rotary"])
def test_arguments_by_position(family: Family, part: str) -> None:
    def change(model: Any) -> None:
        for module in parts(model, part):
            mutations.by_position(module, "position_ids" if part == "rotary" else CACHE)

    assert right_or_refused(family, change) == "the same answer"


@shared_out("part", ["base", "text"])
def test_a_module_called_past_its_hooks(family: Family, part: str) -> None:
    def change(model: Any) -> None:
        for module in parts(model, part):
            mutations.past_the_hooks(module)

    assert "Error" in right_or_refused(family, change)


@shared_out("index", [1, 2, 4])
def test_a_layer_called_past_its_hooks(family: Family, index: int) -> None:
    said = right_or_refused(
        family, lambda model: mutations.past_the_hooks(model.get_decoder().layers[index])
    )
    assert "Error" in said  # in between, torch itself complains about the lengths


@shared_out("layer", [0, 1])
def test_a_rotary_embedding_called_past_its_hooks(family: Family, layer: int) -> None:
    def change(model: Any) -> None:
        mutations.past_the_hooks(model.get_decoder().rotary_emb)

    said = right_or_refused(family, change, layer)
    assert said == "the same answer" if family.rope == "mrope" else "rotary_emb" in said


@shared_out("index", [1, 3])
def test_a_layer_without_the_cache(family: Family, index: int) -> None:
    said = right_or_refused(
        family, lambda model: mutations.without_argument(model.get_decoder().layers[index], CACHE)
    )
    assert "not given the cache" in said


@unlike_families
def test_a_renamed_output(family: Family) -> None:
    def rename(fields: dict[str, Any]) -> dict[str, Any]:
        return {("states" if n == "last_hidden_state" else n): v for n, v in fields.items()}

    said = right_or_refused(
        family, lambda model: mutations.change_output(model.get_decoder(), rename)
    )
    assert "last_hidden_state" in said


@unlike_families
def test_another_cache_in_the_output(family: Family) -> None:
    def swap(fields: dict[str, Any]) -> dict[str, Any]:
        return {n: copy.deepcopy(v) if n == CACHE else v for n, v in fields.items()}

    said = right_or_refused(
        family, lambda model: mutations.change_output(model.get_decoder(), swap)
    )
    assert "another cache" in said


@every_family
def test_a_renamed_encoder_and_its_arguments(family: Family) -> None:
    adapter = adapter_for(shared_model(family.name))
    encoder = adapter.encoder
    said = right_or_refused(
        family, lambda model: mutations.rename_method(model.base_model, encoder, "embed_video")
    )
    assert f"without {encoder}" in said
    for name in (adapter.pixels, *adapter.encoder_arguments):

        def change(model: Any, name: str = name) -> None:
            mutations.rename_encoder_argument(model.base_model, encoder, name, "renamed")

        assert name in right_or_refused(family, change)


@pytest.mark.parametrize("name", ["config", "inputs_embeds", "attention_mask", "layer_idx", CACHE])
def test_a_renamed_argument_of_the_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = BY_NAME["qwen2_vl"]
    factory = mutations.renamed(masking_utils.create_causal_mask, name, "renamed")
    mapping = {**masking_utils.LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING, "full_attention": factory}

    def change(model: Any) -> None:
        monkeypatch.setattr(masking_utils, "LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING", mapping)

    said = right_or_refused(family, change)
    assert said == "the same answer" if name == CACHE else name in said


def test_masks_that_are_made_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(masking_utils, "LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING")
    with pytest.raises(IncompatibleTransformersError, match="LAYER_PATTERN"):
        attach(BY_NAME["qwen2_vl"].make_model(), PairMerge())


@pytest.mark.parametrize("kind", [DynamicLayer, StaticLayer])
@pytest.mark.parametrize("name", ["get_seq_length", "get_mask_sizes", "update", "reset"])
def test_a_cache_layer_with_another_method(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for base in kind.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)
    with pytest.raises(IncompatibleTransformersError, match=name):
        attach(BY_NAME["qwen2_vl"].make_model(), PairMerge())


def test_every_method_of_the_cache_layers_is_known() -> None:
    """A new one may need a counterpart in ``ReducedLayer``: look at it, then add it here."""
    known = {
        *("update", "get_seq_length", "get_mask_sizes", "get_max_cache_shape", "max_cache_len"),
        *("crop", "reset", "reorder_cache", "batch_repeat_interleave", "batch_select_indices"),
        *("lazy_initialization", "offload", "prefetch", "get_max_length", "max_batch_size"),
        *("activate_past_recording", "deactivate_past_recording"),
        *("is_compileable", "is_croppable", "is_sliding", "supports_early_init"),
    }
    for kind in (DynamicLayer, StaticLayer):
        assert {name for name in dir(kind) if not name.startswith("_")} <= known


def hooks(model: torch.nn.Module) -> int:
    """Count the hooks of all modules."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


class TestWrapped:
    """Models in a wrapper are reduced like the model in it."""

    @shared_out("wrap", ["lora", "forward", "module"])
    def test_is_reduced(self, family: Family, wrap: str) -> None:
        inputs, inner = family.make_inputs(ROW), family.make_model()
        with attach(inner, PairMerge(), layer=2):
            wanted = inner(**inputs.tensors).logits
        model = WRAPPERS[wrap](family.make_model())
        model(**inputs.tensors)  # the library sets hooks of its own
        before = hooks(model)
        with attach(model, PairMerge(), layer=2) as attachment:
            got = model(**inputs.tensors).logits
            assert len(attachment.reports) == 1
            assert hooks(model) > before
        assert torch.equal(got, wanted)
        assert hooks(model) == before

    def test_without_a_model_in_it(self) -> None:
        with pytest.raises(UnsupportedModelError, match="got Linear"):
            attach(torch.nn.Linear(2, 2), PairMerge())


class Forwarding(torch.nn.Module):
    """Calls its model's ``forward`` past the hooks."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.forward(*args, **kwargs)


def _lora(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    targets = r".*(language_model|text_model).*layers\..*(q_proj|v_proj|in_proj_qkv)"
    config = peft.LoraConfig(r=4, target_modules=targets)
    return peft.get_peft_model(model, config).eval()


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "lora": _lora,
    "forward": lambda model: Forwarding(Forwarding(model)),
    "module": torch.nn.DataParallel,
}


def test_a_family_that_a_release_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BY_NAME["smolvlm"].make_model()
    monkeypatch.setattr(families, "version", lambda name: "5.20.2")
    able = ", ".join(tested_versions.versions_for("smolvlm"))
    with pytest.raises(
        UnsupportedModelError, match="9 tokens of a frame into pieces of 2"
    ) as error:
        attach(model, PairMerge())
    assert able
    assert able in str(error.value)
    model.config.scale_factor = 3
    adapter_for(model)  # 4 tokens a frame, in pieces of 2


def test_an_untested_release_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BY_NAME["qwen2_vl"].make_model()
    monkeypatch.setattr(tested_versions, "version", lambda name: "99.0")
    tested_versions.warn_if_untested.cache_clear()
    with pytest.warns(UntestedVersionWarning, match=r"transformers 99\.0 is newer than"):
        attach(model, PairMerge()).detach()
    attach(model, PairMerge()).detach()  # a second warning would be an error


class TestSequences:
    """What the hooks take for the prompt is the prompt."""

    @unlike_families
    def test_a_text_model_that_is_given_fewer_tokens(self, family: Family) -> None:
        def change(model: Any) -> None:
            text = model.get_decoder()
            called = type(text).__call__

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                for name in ("inputs_embeds", "attention_mask", "visual_pos_masks"):
                    if kwargs.get(name) is not None:
                        kwargs[name] = kwargs[name][:, 1:]
                if kwargs.get("position_ids") is not None:
                    kwargs["position_ids"] = kwargs["position_ids"][..., 1:]
                return called(self, *args, **kwargs)

            mutations.change_class(text, __call__=call)

        for layer in (0, 2):
            assert "ids, expected as many" in right_or_refused(family, change, layer)

    @pytest.mark.parametrize("name", ["llava_onevision", "internvl", "qwen2_vl"])
    def test_layers_that_rotate_by_themselves(self, name: str) -> None:
        def change(model: Any) -> None:
            for module in model.get_decoder().layers:
                mutations.set_argument(module, "position_embeddings", None)

        assert "rotates by itself" in right_or_refused(BY_NAME[name], change, layer=0)

    def test_masks_by_layer_without_that_of_full_attention(self) -> None:
        mask = torch.ones(1, 4)
        assert transformers_api.full_mask(mask) is mask
        assert transformers_api.full_mask({"full_attention": None}) is None
        with pytest.raises(IncompatibleTransformersError, match="full_attention"):
            transformers_api.full_mask({"sliding_attention": mask})

    @pytest.mark.parametrize("kind", ["tensor", "dict"])
    def test_a_mask_that_is_more_than_causal_and_padding(self, kind: str) -> None:
        family = BY_NAME["llava_onevision"]
        model, inputs = family.make_model(), family.make_inputs(ROW)
        length = inputs.length
        mask = torch.ones(1, 1, length, length + 4, dtype=torch.bool).tril()
        plain = {**inputs.tensors, CACHE: StaticCache(model.config, max_cache_len=length + 4)}
        with attach(model, PairMerge(), layer=1):
            wanted = model(**inputs.tensors).logits
            got = model(**{**plain, "attention_mask": mask}).logits  # causal: as without a mask
            torch.testing.assert_close(got, wanted, atol=2e-4, rtol=0)
            mask[:, :, 20:-1, :5] = False
            given: Any = mask if kind == "tensor" else {"full_attention": mask}
            plain[CACHE] = StaticCache(model.config, max_cache_len=length + 4)
            with pytest.raises(UnsupportedModelError, match="more than causal and padding"):
                model(**{**plain, "attention_mask": given})


def test_a_wrapper_of_two_models_is_refused() -> None:
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reference, self.policy = (BY_NAME["qwen2_vl"].make_model() for _ in range(2))

    with pytest.raises(UnsupportedModelError, match="with 2 models in it"):
        attach(Pair(), PairMerge())


@pytest.mark.parametrize("name", ["llava_onevision", "qwen3_vl"])
def test_an_attached_model_can_be_copied(name: str) -> None:
    family, inputs = BY_NAME[name], BY_NAME[name].make_inputs(ROW)
    model = family.make_model()
    with attach(model, PairMerge(), layer=1):
        wanted = model(**inputs.tensors).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**inputs.tensors).logits, wanted)


def test_a_layer_that_something_wraps_is_read() -> None:
    """``torch.compile``, FSDP and checkpoint wrappers take any arguments, and hold one module."""

    class Wrapper(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    def change(model: Any) -> None:
        layers = model.get_decoder().layers
        for index, layer in enumerate(layers):
            layers[index] = Wrapper(layer)

    assert right_or_refused(BY_NAME["llava_onevision"], change) == "the same answer"


@pytest.mark.parametrize("part", ["base", "text", "layer"])
def test_a_subclass_that_takes_any_arguments_is_read(part: str) -> None:
    def change(model: Any) -> None:
        for module in parts(model, part):
            inner = type(module).forward

            def forward(self: Any, *args: Any, __inner: Any = inner, **kwargs: Any) -> Any:
                return __inner(self, *args, **kwargs)

            mutations.change_class(module, forward=_open(forward))

    assert right_or_refused(BY_NAME["qwen2_vl"], change) == "the same answer"


def _open(forward: Callable[..., Any]) -> Callable[..., Any]:
    def anything(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    return anything
