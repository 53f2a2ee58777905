"""The heads by which a copy of nano knows the time."""

import torch
from training.checkpoint import new_model
from training.packing import ATTENTION, packed_logits
from training.when import CLOCK_LAYER, HANDS, SECONDS, add_clock, held_out
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.model import weights_path
from tests.cli.marks import needs_nano


@needs_nano
def test_the_hands_of_the_clock_turn() -> None:
    model, _ = new_model(0)
    nano = LlavaOnevisionForConditionalGeneration.from_pretrained(
        weights_path(), dtype=torch.float32
    )
    model.load_state_dict(nano.state_dict())
    model.set_attn_implementation({"text_config": ATTENTION})
    (batch,) = held_out(4)
    add_clock(model, batch)
    text = model.model.language_model
    width = text.config.hidden_size // text.config.num_attention_heads
    seen: list[torch.Tensor] = []
    output = text.layers[CLOCK_LAYER].self_attn.o_proj
    handle = output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        packed_logits(model, batch)
    handle.remove()
    prefix = len(batch.prefix)
    video = slice(prefix, prefix + SECONDS * 64)
    positions = batch.context_positions[0, video].float()
    for head, (pair, phase) in enumerate(HANDS, 3):
        told = seen[0][0, video, head * width]
        angle = text.rotary_emb.inv_freq[pair] * positions + phase
        assert torch.corrcoef(torch.stack([told, angle.cos()]))[0, 1] > 0.95
