"""DyCoke: while answering, upper layers see the most attended video tokens only, as by hand."""

import copy
import itertools
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import pytest
import torch
from transformers import DynamicCache, StaticCache

import sttm
from sttm import attach
from sttm.errors import ConfigError
from sttm.methods import DyCoke, VideoFeatures
from sttm.methods.base import DecodePruning

from .families import BY_NAME, Family, Inputs, every_family, shared_model, shared_out
from .layouts import Row, Text, Video
from .methods import FrameMerge, PairMerge
from .names import with_cache
from .oracle import _positions, _rotary, decoder_inputs, reduction
from .running import assert_same, greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

STEPS = 5
ROW: Row = (Text(4), Video(4), Text(5, seed=1))
SECOND: Row = (Text(2, seed=2), Video(4, seed=3), Text(9, seed=4))


@dataclass(frozen=True)
class Pruned(PairMerge):
    """Merges pairs, and hides two thirds of them while answering."""

    decode_pruning: ClassVar[DecodePruning] = DecodePruning(layer=3, keep=0.34)


def by_hand(
    model: Any, inputs: Inputs, method: Any, layer: int, positions: str, answer: int
) -> torch.Tensor:
    """Logits of a prompt and its ``answer`` tokens in one dense pass, without a cache.

    The model has to run eager attention, whose weights choose what each answer token sees: all, or
    the most attended part if it is the first one or its weights differ from the previous one's.
    """
    text, begin, places = model.get_decoder(), decoder_inputs(model, inputs), inputs.videos[0]
    hidden, rotary = begin.hidden, _rotary(model.get_decoder(), begin.hidden, begin.ids)
    reduced, video = reduction(len(hidden), []), torch.zeros(0, dtype=torch.bool)
    weights: list[torch.Tensor] = []
    pruning, kinds = method.decode_pruning, getattr(text.config, "layer_types", None)
    hook = text.layers[asked(kinds, pruning.layer)].self_attn.register_forward_hook(
        lambda module, args, output: weights.append(output[1][0].mean(0))
    )
    for index in range(len(text.layers)):
        if index == layer:
            parts = [(v.index, method.plan(VideoFeatures(hidden[v.index], v.grid))) for v in places]
            reduced = reduction(len(hidden), parts)
            rotary = _positions(text, begin, [v.index for v in places], positions, reduced)
            hidden = reduced.matrix @ hidden
            video = torch.isin(reduced.kept, torch.cat([v.index for v in places]))
        size = len(hidden)
        blocked = torch.ones(size, size, dtype=torch.bool).triu(1)
        if index >= pruning.layer:
            count = int(int(video.sum()) * pruning.keep)
            for row in range(size - answer, size):
                now, before = weights[0][row][video], weights[0][row - 1][video]
                alike = float(torch.cosine_similarity(now, before, dim=0))
                if row > size - answer and alike >= pruning.threshold:
                    continue
                kept = torch.where(video, weights[0][row], -1.0).topk(count).indices
                hidden_ones = video.clone()
                hidden_ones[kept] = False
                blocked[row] |= hidden_ones
        recurrent = kinds is not None and kinds[index] == "linear_attention"
        mask = torch.zeros(size, size).masked_fill(blocked, torch.finfo(torch.float32).min)
        hidden = text.layers[index](
            hidden[None],
            attention_mask=None if recurrent else mask[None, None],
            position_embeddings=rotary,
            position_ids=None,
            **with_cache(None),
        )[0]
        if index < len(begin.deepstack):
            hidden = hidden + reduced.matrix @ begin.deepstack[index]
    hook.remove()
    logits: torch.Tensor = model.lm_head(text.norm(hidden[None]))[0]
    return logits


def asked(kinds: Any, layer: int) -> int:
    """The nearest layer with attention weights in front of ``layer``."""
    plain = [i for i in range(layer) if kinds is None or kinds[i] == "full_attention"]
    return plain[-1]


@shared_out("attention,positions", list(product(["eager", "sdpa"], ["survived", "reassigned"])))
def test_as_by_hand(family: Family, attention: str, positions: str) -> None:
    inputs, method = family.make_inputs(ROW), Pruned()
    model = shared_model(family.name, attention)
    with attach(model, PairMerge(), layer=1, positions=positions):
        unpruned = greedy(model, inputs, STEPS)
    with attach(model, method, layer=1, positions=positions) as attachment:
        assert attachment.decode_score_layer == 2
        answer = greedy(model, inputs, STEPS)
    whole = inputs.followed_by(answer.tokens[:, :-1])
    eager = shared_model(family.name, "eager")
    hand = by_hand(eager, whole, method, 1, positions, STEPS - 1)
    got, bound = answer.logits[0], tolerance(family.name)
    torch.testing.assert_close(got, hand[-STEPS:], atol=bound, rtol=0)
    # The prompt sees everything; the answer does not, and it matters.
    torch.testing.assert_close(got[0], unpruned.logits[0, 0], atol=bound, rtol=0)
    assert float((got[1] - unpruned.logits[0, 1]).abs().max()) > 2 * bound


def alikes(model: Any, inputs: Inputs, method: Any, answer: int) -> list[float]:
    """Cosines of every answer token's attention to the video with that of the one before."""
    found: list[float] = []
    similarity = torch.cosine_similarity

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        value = similarity(*args, **kwargs)
        found.append(float(value))
        return value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cosine_similarity", spy)
        by_hand(model, inputs, method, 1, "survived", answer)
    return found[1:answer]  # of the first pruned layer; the first one's does not matter


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_5"])
def test_only_tokens_whose_attention_changed_see_less(name: str) -> None:
    """Thresholds at which no later token, some and all of them are pruned."""
    family, model = BY_NAME[name], shared_model(name)
    inputs, eager = family.make_inputs(ROW), shared_model(name, "eager")
    with attach(model, Pruned(), layer=1, positions="survived"):
        tokens = greedy(model, inputs, STEPS).tokens
    whole = inputs.followed_by(tokens[:, :-1])
    between = sorted(alikes(eager, whole, Pruned(), STEPS - 1))
    assert between[0] < between[-1]
    answers = []
    for threshold in (-1.0, (between[0] + between[-1]) / 2, 1.0):

        @dataclass(frozen=True)
        class Changing(PairMerge):
            decode_pruning: ClassVar[DecodePruning] = DecodePruning(3, 0.34, threshold)

        with attach(model, Changing(), layer=1, positions="survived"):
            answers.append(teacher_forced(model, inputs, tokens))
        hand = by_hand(eager, whole, Changing(), 1, "survived", STEPS - 1)
        torch.testing.assert_close(answers[-1], hand[-STEPS:], atol=tolerance(name), rtol=0)
    for one, other in itertools.pairwise(answers):
        torch.testing.assert_close(one[1], other[1], atol=tolerance(name), rtol=0)
        assert float((one - other).abs().max()) > 2 * tolerance(name)


def teacher_forced(model: Any, inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
    """Logits ``(STEPS, vocabulary)`` of a prompt's last token and of given tokens, one by one."""
    more = {"max_new_tokens": STEPS, "do_sample": False, "output_logits": True}
    forced = iter(range(STEPS))

    def choose(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = tokens[:, next(forced)]
        return torch.full_like(scores, -torch.inf).scatter_(1, wanted[:, None], 0.0)

    out = model.generate(
        **inputs.tensors, **more, return_dict_in_generate=True, logits_processor=[choose]
    )
    return torch.stack(out.logits, 1)[0]


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_other_layers_and_the_method_itself(name: str, layer: int) -> None:
    family, method = BY_NAME[name], DyCoke(keep=0.6, decode_keep=0.25)
    inputs, model = family.make_inputs((*ROW, Video(4, seed=7), Text(3))), shared_model(name)
    with attach(model, method, layer=layer, positions="survived") as attachment:
        answer = greedy(model, inputs, STEPS)
        assert all(r.tokens_out == int(0.6 * r.tokens_in) for r in attachment.reports)
    whole = inputs.followed_by(answer.tokens[:, :-1])
    hand = by_hand(shared_model(name, "eager"), whole, method, layer, "survived", STEPS - 1)
    torch.testing.assert_close(answer.logits[0], hand[-STEPS:], atol=tolerance(name), rtol=0)


@every_family
def test_seeing_all_is_the_same_as_no_pruning(family: Family) -> None:
    @dataclass(frozen=True)
    class SeesAll(PairMerge):
        decode_pruning: ClassVar[DecodePruning] = DecodePruning(layer=3, keep=1.0)

    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    with attach(model, PairMerge(), layer=1):
        wanted = greedy(model, inputs, STEPS)
    with attach(model, SeesAll(), layer=1):
        assert_same(greedy(model, inputs, STEPS), wanted, tolerance(family.name))


@every_family
def test_batches(family: Family) -> None:
    model, rows = shared_model(family.name), (ROW, SECOND)
    with attach(model, Pruned(), layer=1):
        single = [greedy(model, family.make_inputs(row), 4) for row in rows]
        batch = greedy(model, family.make_inputs(*rows), 4)
    for row, answer in enumerate(single):
        assert_same(batch.row(row), answer, tolerance(family.name))


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_beams(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    more = {"max_new_tokens": 4, "do_sample": False, "num_beams": 3}
    with attach(model, Pruned(), layer=1):
        cached = model.generate(**family.make_inputs(ROW, SECOND).tensors, **more)[:, -4:]
        single = [model.generate(**family.make_inputs(r).tensors, **more) for r in (ROW, SECOND)]
    assert cached.tolist() == [one[0, -4:].tolist() for one in single]


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_static_caches(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROW, SECOND)
    with attach(model, Pruned(), layer=1):
        wanted = greedy(model, inputs, 4)
        cache = StaticCache(model.config.get_text_config(), max_cache_len=inputs.length + 8)
        assert_same(greedy(model, inputs, 4, **with_cache(cache)), wanted, tolerance(name))


def test_a_layer_that_cannot_decide_is_refused() -> None:
    model = shared_model("llava_onevision")
    for layer, decode_layer in ((3, 3), (4, 3), (1, 5), (1, 9)):
        with pytest.raises(ConfigError, match="decode_layer"):
            attach(model, DyCoke(0.5, decode_layer=decode_layer), layer=layer)
    with pytest.raises(ConfigError, match="decode_layer"):
        attach(shared_model("qwen3_5"), DyCoke(0.5, decode_layer=4), layer=3)
    with attach(model, DyCoke(0.5, decode_layer=3), layer=2):
        pass
    assert getattr(model.model, "_sttm_hooks", None) is None


def test_a_chat_refuses_it() -> None:
    with pytest.raises(ConfigError, match="dycoke"):
        sttm.VideoChat(shared_model("llava_onevision"), None, DyCoke(0.5))


def test_groups_over_several_frames_count_once() -> None:
    @dataclass(frozen=True)
    class Both(FrameMerge):
        decode_pruning: ClassVar[DecodePruning] = DecodePruning(layer=2, keep=0.5)

    family, model = BY_NAME["llava_onevision"], shared_model("llava_onevision")
    inputs = family.make_inputs(ROW)
    with attach(model, Both(), layer=0, positions="merged"):
        answer = greedy(model, inputs, STEPS)
    whole = inputs.followed_by(answer.tokens[:, :-1])
    hand = by_hand(shared_model(family.name, "eager"), whole, Both(), 0, "merged", STEPS - 1)
    torch.testing.assert_close(answer.logits[0], hand[-STEPS:], atol=2e-4, rtol=0)


def test_the_record_of_video_entries_follows_the_cache() -> None:
    family, model = BY_NAME["llava_onevision"], shared_model("llava_onevision")
    with attach(model, Pruned(), layer=1):
        cache = greedy(model, family.make_inputs(ROW, SECOND), 4).cache
    counts = []
    for step in range(2):
        if step == 0:
            cache.crop(-2)
        else:
            cache.batch_repeat_interleave(2)
        for layer in cache.layers[1:]:
            assert layer.video_mask.shape == (layer.keys.shape[0], layer.num_entries())
            counts.append(layer.video_mask.sum(1).tolist())
    assert counts == [[18, 18]] * 4 + [[18] * 4] * 4


def test_the_record_of_attention_follows_the_cache() -> None:
    """It lies with the layer that is asked, for the latest new token, and is never changed."""
    family, model = BY_NAME["llava_onevision"], shared_model("llava_onevision")
    inputs = family.make_inputs(ROW, SECOND)
    with attach(model, Pruned(), layer=1):
        cache = DynamicCache(config=model.config.get_text_config())
        model(**inputs.tensors, **with_cache(cache))
        assert all(getattr(layer, "attended", None) is None for layer in cache.layers)
        cache = greedy(model, inputs, 4).cache
        asked_layer = cache.layers[2]
        assert [layer.attended is None for layer in cache.layers[1:]] == [True, False, True, True]
        attended, video = asked_layer.attended, asked_layer.video_mask
        assert attended.shape == (2, asked_layer.num_entries())
        assert bool((attended[~video] == 0).all())
        assert bool((attended.sum(1) > 0).all())

        # A fork that goes on by itself leaves it alone.
        fork, before = copy.deepcopy(cache), attended.clone()
        shared = copy.copy(asked_layer)
        model(input_ids=torch.tensor([[5], [7]]), **with_cache(fork))
        assert not torch.equal(fork.layers[2].attended[:, :-1], before)
        assert torch.equal(asked_layer.attended, before)
        assert torch.equal(shared.attended, before)

        # A turn of several tokens begins anew.
        model(input_ids=torch.tensor([[5, 6], [7, 8]]), **with_cache(fork))
        assert fork.layers[2].attended is None

    asked_layer.batch_repeat_interleave(2)
    assert torch.equal(asked_layer.attended, before.repeat_interleave(2, 0))
    asked_layer.reorder_cache(torch.tensor([3, 0, 1, 2]))
    assert torch.equal(asked_layer.attended, before[[1, 0, 0, 1]])
    asked_layer.batch_select_indices(torch.tensor([2]))
    assert torch.equal(asked_layer.attended, before[[0]])
    shared.crop(-1)
    assert shared.attended is None
    assert asked_layer.attended is not None
    asked_layer.reset()
    assert asked_layer.attended is None
