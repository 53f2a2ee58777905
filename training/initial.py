"""How the decoder begins: words already point where the video tokens point.

A decoder that starts at random learns within a hundred steps to read a lone needle, and then stays
for long at guessing among several: to answer "Which digit is red?" the word "red" must find the
red token first. So each colour, numeral and corner word starts at the mean video token of its
class; one head of each of the first layers starts by looking at tokens that share such a fact
and copying them; another starts by looking a few tokens back, which carries them to the answer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from sttm.nano.backdrop import BACKDROP_COLOURS, PATTERNS
from sttm.nano.clips import COLOUR_NAMES
from training.labels import BACKGROUND, IGNORE, NO_DIGIT, RELATION, TEXTURE, CellBatch
from training.model import CellHead, video_tokens
from training.packing import Packed, packed_logits
from training.text import SIDES
from training.tower import cell_loss

TOKEN_SCALE = 0.5  # root mean square of video tokens
WORD_SCALE = 0.042  # root mean square of the part of a word that comes from its class
MATCHING_LAYERS = 2
SHARPNESS = 0.7
LOCAL_LAYERS = 3  # from layer 1 on
LOCAL_PAIRS = (2, 3, 4)  # rotary pairs whose cosines add up to a window of about ten tokens
LOCAL_BIAS = 3.0
COPY = 0.5
FIT_STEPS = 300
FIT_CELLS = 4096
PRESENCE_BIAS = 6.0
ORDER_LAYER = 3
TIME_PAIR = 9  # turns by 0.9 rad in 2048 tokens
TIME_BIAS = 12.0


@torch.no_grad()
def prepare_decoder(
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[CellBatch],
    seed: int,
) -> None:
    """Initialise the decoder, in place, and bring the video tokens to a matching scale.

    Args:
        head: its read-outs are scaled along with the tokens.
        batches: clips on which scale and class means of the tokens are measured.
    """
    _randomise(model, seed)
    tokens = torch.cat([video_tokens(model, b.frames)[:, :-1].flatten(0, 1) for b in batches])
    labels = torch.cat([b.labels.flatten(0, 2) for b in batches])
    scale = TOKEN_SCALE / float(tokens.pow(2).mean().sqrt())
    projector = model.model.multi_modal_projector.linear_2
    projector.weight.mul_(scale)
    projector.bias.mul_(scale)
    for weight in head.parameters():
        if weight.ndim == 2:
            weight.div_(scale)
    _point_words(model, tokenizer, tokens, labels)
    facts = _facts(tokens, labels)
    _wire(model, facts, _presence(tokens, labels, facts))


def _randomise(model: LlavaOnevisionForConditionalGeneration, seed: int) -> None:
    text = model.model.language_model
    generator = torch.Generator().manual_seed(seed)
    for name, weight in text.named_parameters():
        if weight.ndim == 2:
            deviation = weight.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                deviation /= math.sqrt(2 * text.config.num_hidden_layers)
            weight.normal_(0.0, deviation, generator=generator)
        elif "norm" in name:
            weight.fill_(1.0)
        else:
            weight.zero_()


def _point_words(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    tokens: Tensor,
    labels: Tensor,
) -> None:
    """Add the mean token of its class, less the mean of all needles, to each word."""
    needle = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    tokens, labels = tokens[needle], labels[needle]
    centre = tokens.mean(0)
    embedding = model.get_input_embeddings().weight
    words: list[tuple[str, Tensor]] = []
    for digit in range(10):
        words.append((str(digit), labels[:, 0] == digit))
    for i, colour in enumerate(COLOUR_NAMES):
        words += [(word, labels[:, 1] == i) for word in (colour, f" {colour}")]
    words += [("top", labels[:, 2] < 2), ("bottom", labels[:, 2] >= 2)]
    words += [(" left", labels[:, 2] % 2 == 0), (" right", labels[:, 2] % 2 == 1)]
    for word, members in words:
        (index,) = tokenizer.encode(word, add_special_tokens=False)
        direction = tokens[members].mean(0) - centre
        embedding[index] += WORD_SCALE * direction / direction.pow(2).mean().sqrt()


def _facts(tokens: Tensor, labels: Tensor) -> Tensor:
    """Directions in which needles differ: orthonormal rows ``(17, WIDTH)``, slowest to fade first.

    Ten digits, six colours and four quadrants leave 9 + 5 + 3 differences.
    """
    needle = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    tokens, labels = tokens[needle], labels[needle]
    means = [
        tokens[labels[:, column] == value].mean(0)
        for column, count in enumerate((10, 6, 4))
        for value in range(count)
    ]
    differences = torch.stack(means) - tokens.mean(0)
    basis: Tensor = torch.linalg.svd(differences, full_matrices=False).Vh[:17]
    return basis


def _presence(tokens: Tensor, labels: Tensor, facts: Tensor) -> Tensor:
    """The unit direction ``(WIDTH,)`` that tells needles from empty cells, apart from facts."""
    needle = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    empty = tokens[labels[:, 0] == NO_DIGIT].mean(0)
    rest = torch.linalg.qr(torch.cat([facts, empty[None]]).T).Q
    centre = tokens[needle].mean(0)
    centre = centre - rest @ (rest.T @ centre)
    direction: Tensor = centre / centre.norm()
    return direction


def _wire(model: LlavaOnevisionForConditionalGeneration, facts: Tensor, presence: Tensor) -> None:
    """Set two heads of the first key-value group in the first layers.

    The matching head looks for needles and compares facts, along the rotary pairs that turn
    slowest, and copies them to the word that asks. The local head looks about ten tokens back
    and copies them on.
    """
    text = model.model.language_model
    width = text.config.hidden_size // text.config.num_attention_heads
    half = width // 2
    slow = [row for pair in range(half - 1, half - 10, -1) for row in (pair, pair + half)]
    spot, rows = slow[0], torch.tensor(slow[1 : 1 + len(facts)])
    for layer in text.layers[:MATCHING_LAYERS]:
        attention = layer.self_attn
        attention.k_proj.weight[:width] *= 0.3
        attention.k_proj.weight[rows] = facts
        attention.k_proj.weight[spot] = presence
        attention.q_proj.weight[:width] = 0
        attention.q_proj.bias[spot] = PRESENCE_BIAS
        attention.q_proj.weight[rows] = SHARPNESS * facts
        _copy_facts(attention, facts, head=0, width=width)
    for layer in text.layers[1:LOCAL_LAYERS]:
        attention = layer.self_attn
        pairs = torch.tensor(LOCAL_PAIRS)
        attention.k_proj.bias[pairs] = LOCAL_BIAS
        attention.q_proj.weight[width : 2 * width] = 0
        attention.q_proj.bias[width + pairs] = LOCAL_BIAS
        _copy_facts(attention, facts, head=1, width=width)


def _copy_facts(attention: nn.Module, facts: Tensor, *, head: int, width: int) -> None:
    """Let a head of the first group carry facts over unchanged, at half their size."""
    value, output = attention.get_submodule("v_proj"), attention.get_submodule("o_proj")
    assert isinstance(value, nn.Linear)
    assert isinstance(output, nn.Linear)
    value.weight[: len(facts)] = facts
    columns = slice(head * width, head * width + len(facts))
    output.weight[:, columns] = COPY * facts.T


@torch.no_grad()
def add_order_heads(model: LlavaOnevisionForConditionalGeneration, batches: list[Packed]) -> None:
    """Set the second key-value group of one middle layer for questions about order and count.

    All its heads look for needles. The first prefers those that share facts with the question
    and, among them, the earliest; the second does the same for the latest; the third looks at
    all needles alike. Time comes from one slow rotary pair, whose sine grows with distance.

    Args:
        batches: packed questions, on which the inputs of the layer are measured.
    """
    text = model.model.language_model
    attention = text.layers[ORDER_LAYER].self_attn
    inputs, labels = _layer_inputs(model, batches)
    facts, presence = _facts(inputs, labels), _needle_detector(inputs, labels)
    width = text.config.hidden_size // text.config.num_attention_heads
    half = width // 2
    slow = [row for pair in (15, 14, 13, 12, 11, 10, 8, 7) for row in (pair, pair + half)]
    spot, rows = slow[0], torch.tensor(slow[1:])
    key, query = attention.k_proj, attention.q_proj
    key.weight[width:] *= 0.2
    key.weight[width + spot] = PRESENCE_BIAS * presence
    key.weight[width + rows] = facts[: len(rows)]
    key.bias[width + TIME_PAIR] = TIME_BIAS
    attention.v_proj.weight[width : width + len(facts)] = facts
    for head, time in ((3, -1.0), (4, 1.0), (5, 0.0)):
        first = head * width
        query.weight[first : first + width] = 0
        if time:
            query.weight[first + rows] = 0.5 * facts[: len(rows)]
        query.bias[first : first + width] = 0
        query.bias[first + spot] = PRESENCE_BIAS
        query.bias[first + TIME_PAIR + half] = time * TIME_BIAS
    columns = slice(3 * width, 3 * width + len(facts))
    attention.o_proj.weight[:, columns] = COPY * facts.T


def _layer_inputs(
    model: LlavaOnevisionForConditionalGeneration, batches: list[Packed]
) -> tuple[Tensor, Tensor]:
    """What the order layer sees: ``(N, WIDTH)`` and cell labels ``(N, 7)``, -1 for text."""
    seen: list[Tensor] = []
    norm = model.model.language_model.layers[ORDER_LAYER].input_layernorm
    handle = norm.register_forward_hook(lambda _, __, output: seen.append(output.flatten(0, 1)))
    labels = []
    for batch in batches:
        packed_logits(model, batch)
        cells = batch.cells.flatten(1, 2)
        before = cells.new_full((len(cells), len(batch.prefix), cells.shape[-1]), -1)
        after = cells.new_full((len(cells), 1 + batch.ids.shape[1], cells.shape[-1]), -1)
        labels.append(torch.cat([before, cells, after], dim=1).flatten(0, 1))
    handle.remove()
    return torch.cat(seen), torch.cat(labels)


def _needle_detector(inputs: Tensor, labels: Tensor) -> Tensor:
    """The direction ``(WIDTH,)`` along which needles are 1 and all else is 0, by ridge."""
    needle = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    weight = torch.where(needle, 20.0, 1.0)[:, None] * (labels[:, :1] != IGNORE)
    gram = inputs.T @ (weight * inputs)
    ridge = 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
    detector: Tensor = torch.linalg.solve(gram + ridge, inputs.T @ (weight[:, 0] * needle))
    return detector


def fit_read_outs(
    model: LlavaOnevisionForConditionalGeneration, head: CellHead, batches: list[CellBatch]
) -> None:
    """Fit the read-outs to the tower as it is."""
    tokens, labels = _cells(model, batches)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(FIT_STEPS):
        part = torch.randint(len(tokens), (FIT_CELLS,))
        optimiser.zero_grad()
        torch.autograd.backward(cell_loss(head, tokens[part], labels[part]))
        optimiser.step()


@torch.no_grad()
def point_scene_words(
    model: LlavaOnevisionForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[CellBatch],
) -> None:
    """Add the mean token of its class to each word that answers a question about a scene."""
    tokens, labels = _cells(model, batches)
    embedding = model.get_input_embeddings().weight
    groups = ((BACKGROUND, tuple(BACKDROP_COLOURS)), (TEXTURE, PATTERNS), (RELATION, SIDES))
    for column, words in groups:
        known = labels[:, column] >= 0
        centre = tokens[known].mean(0)
        for i, word in enumerate(words):
            (index,) = tokenizer.encode(word, add_special_tokens=False)
            direction = tokens[labels[:, column] == i].mean(0) - centre
            embedding[index] += WORD_SCALE * direction / direction.pow(2).mean().sqrt()


@torch.no_grad()
def _cells(
    model: LlavaOnevisionForConditionalGeneration, batches: list[CellBatch]
) -> tuple[Tensor, Tensor]:
    """Video tokens ``(N, WIDTH)`` and their labels ``(N, 7)``."""
    tokens = torch.cat([video_tokens(model, b.frames)[:, :-1].flatten(0, 1) for b in batches])
    return tokens, torch.cat([b.labels.flatten(0, 2) for b in batches])
