"""How the decoder begins: words already point where the video tokens point.

A decoder that starts at random learns within a hundred steps to read a lone needle, and then stays
for long at guessing among several: to answer "Which digit is red?" the word "red" must find the
red token first. So each colour, numeral and corner word starts at the mean video token of its
class; one head of each of the first layers starts by looking at tokens that share such a fact
and copying them; another starts by looking a few tokens back, which carries them to the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Lexicon:
    """What the first label columns say about a needle, and the words for it.

    Args:
        classes: how many each column tells apart, cells without a needle left out.
        none: the first column's class of cells without a needle.
        words: word, column and the classes that it names.
    """

    classes: tuple[int, ...]
    none: int
    words: tuple[tuple[str, int, tuple[int, ...]], ...]

    def is_needle(self, labels: Tensor) -> Tensor:
        """Which of ``(N, columns)`` are of a cell with a needle: bool ``(N,)``."""
        return (labels[:, 0] >= 0) & (labels[:, 0] < self.none)


CORNER_WORDS = (("top", (0, 1)), ("bottom", (2, 3)), (" left", (0, 2)), (" right", (1, 3)))
NANO_LEXICON = Lexicon(
    (10, len(COLOUR_NAMES), 4),
    NO_DIGIT,
    (
        *((str(digit), 0, (digit,)) for digit in range(10)),
        *((w, 1, (i,)) for i, name in enumerate(COLOUR_NAMES) for w in (name, f" {name}")),
        *((word, 2, classes) for word, classes in CORNER_WORDS),
    ),
)


@torch.no_grad()
def prepare_decoder(
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    tokenizer: PreTrainedTokenizerFast,
    batches: list[CellBatch],
    seed: int,
    lexicon: Lexicon = NANO_LEXICON,
) -> None:
    """Initialise the decoder, in place, and bring the video tokens to a matching scale.

    Args:
        head: its read-outs are scaled along with the tokens.
        batches: clips on which scale and class means of the tokens are measured.
        lexicon: what their labels mean.
    """
    text = model.model.language_model
    randomise(text, seed, text.config.num_hidden_layers)
    tokens = torch.cat([video_tokens(model, b.frames)[:, :-1].flatten(0, 1) for b in batches])
    labels = torch.cat([b.labels.flatten(0, 2) for b in batches])
    scale = TOKEN_SCALE / float(tokens.pow(2).mean().sqrt())
    projector = model.model.multi_modal_projector.linear_2
    projector.weight.mul_(scale)
    projector.bias.mul_(scale)
    for weight in head.parameters():
        if weight.ndim == 2:
            weight.div_(scale)
    _point_words(model, tokenizer, tokens, labels, lexicon)
    facts = _facts(tokens, labels, lexicon)
    _wire(model, facts, _presence(tokens, labels, facts, lexicon))


@torch.no_grad()
def randomise(part: nn.Module, seed: int, layers: int) -> None:
    """Begin a decoder of so many layers, or a part of it, anew."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in part.named_parameters():
        if weight.ndim == 2:
            deviation = weight.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                deviation /= math.sqrt(2 * layers)
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
    lexicon: Lexicon,
) -> None:
    """Add the mean token of its class, less the mean of all needles, to each word."""
    needle = lexicon.is_needle(labels)
    tokens, labels = tokens[needle], labels[needle]
    centre = tokens.mean(0)
    embedding = model.get_input_embeddings().weight
    for word, column, classes in lexicon.words:
        members = torch.isin(labels[:, column], torch.tensor(classes))
        (index,) = tokenizer.encode(word, add_special_tokens=False)
        direction = tokens[members].mean(0) - centre
        embedding[index] += WORD_SCALE * direction / direction.pow(2).mean().sqrt()


def _facts(tokens: Tensor, labels: Tensor, lexicon: Lexicon) -> Tensor:
    """Directions in which needles differ: orthonormal rows ``(F, WIDTH)``, slowest to fade first.

    nano's ten digits, six colours and four quadrants leave 9 + 5 + 3 differences.
    """
    needle = lexicon.is_needle(labels)
    tokens, labels = tokens[needle], labels[needle]
    means = [
        tokens[labels[:, column] == value].mean(0)
        for column, count in enumerate(lexicon.classes)
        for value in range(count)
    ]
    differences = torch.stack(means) - tokens.mean(0)
    rank = sum(lexicon.classes) - len(lexicon.classes)
    basis: Tensor = torch.linalg.svd(differences, full_matrices=False).Vh[:rank]
    return basis


def _presence(tokens: Tensor, labels: Tensor, facts: Tensor, lexicon: Lexicon) -> Tensor:
    """The unit direction ``(WIDTH,)`` that tells needles from empty cells, apart from facts."""
    empty = tokens[labels[:, 0] == lexicon.none].mean(0)
    rest = torch.linalg.qr(torch.cat([facts, empty[None]]).T).Q
    centre = tokens[lexicon.is_needle(labels)].mean(0)
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
def add_order_heads(
    model: LlavaOnevisionForConditionalGeneration,
    batches: list[Packed],
    lexicon: Lexicon = NANO_LEXICON,
    time_pair: int = TIME_PAIR,
) -> None:
    """Set the second key-value group of one middle layer for questions about order and count.

    All its heads look for needles. The first prefers those that share facts with the question
    and, among them, the earliest; the second does the same for the latest; the third looks at
    all needles alike. Time comes from one slow rotary pair, whose sine grows with distance.

    Args:
        batches: packed questions, on which the inputs of the layer are measured.
        lexicon: what their labels mean.
        time_pair: the rotary pair; it should turn by about a radian in the longest clip.
    """
    text = model.model.language_model
    attention = text.layers[ORDER_LAYER].self_attn
    inputs, labels = _layer_inputs(model, batches)
    facts = _facts(inputs, labels, lexicon)
    presence = _needle_detector(inputs, labels, lexicon)
    width = text.config.hidden_size // text.config.num_attention_heads
    half = width // 2
    pairs = [pair for pair in range(half - 1, half - 10, -1) if pair != time_pair]
    slow = [row for pair in pairs for row in (pair, pair + half)]
    spot, rows = slow[0], torch.tensor(slow[1:])
    key, query = attention.k_proj, attention.q_proj
    key.weight[width:] *= 0.2
    key.weight[width + spot] = PRESENCE_BIAS * presence
    rows = rows[: len(facts)]
    key.weight[width + rows] = facts[: len(rows)]
    key.bias[width + time_pair] = TIME_BIAS
    attention.v_proj.weight[width : width + len(facts)] = facts
    for head, time in ((3, -1.0), (4, 1.0), (5, 0.0)):
        first = head * width
        query.weight[first : first + width] = 0
        if time:
            query.weight[first + rows] = 0.5 * facts[: len(rows)]
        query.bias[first : first + width] = 0
        query.bias[first + spot] = PRESENCE_BIAS
        query.bias[first + time_pair + half] = time * TIME_BIAS
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
        newline = batch.context_positions.shape[-1] - before.shape[1] - cells.shape[1]
        after = cells.new_full((len(cells), newline + batch.ids.shape[1], cells.shape[-1]), -1)
        labels.append(torch.cat([before, cells, after], dim=1).flatten(0, 1))
    handle.remove()
    return torch.cat(seen), torch.cat(labels)


def _needle_detector(inputs: Tensor, labels: Tensor, lexicon: Lexicon) -> Tensor:
    """The direction ``(WIDTH,)`` along which needles are 1 and all else is 0, by ridge."""
    needle = lexicon.is_needle(labels)
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
