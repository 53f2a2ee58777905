"""The schedule: what was really run, in order. See training/README.md for times and results."""

from __future__ import annotations

from dataclasses import dataclass

from training.ask import Recipe


@dataclass(frozen=True)
class Stage:
    """A stretch of training with its own optimiser and schedule.

    Attributes:
        name: of its log and its checkpoint.
        steps: optimiser steps.
        recipe: what the decoder is asked; None trains the tower alone.
        tower_rate: peak learning rate of tower, projector and cell heads.
        decoder_rate: peak learning rate of the decoder.
        warmup: steps.
        floor: share of the peak learning rate at the end.
        horizon: steps the cosine is laid out for; 0 means ``steps``.
        fresh_decoder: initialise the decoder first.
        order_heads: set some heads for questions about order and count first.
        weights: of tasks in the loss, where not 1: a clip has one question about its count
            and many about its digits.
        crowd_weight: of the per-cell loss on crowded frames.
        evaluate: held-out (frames, clips) for the log.
        scene_evaluate: the same for scenes.
        scenery: the tower sees scenes; fit all read-outs first.
        context_heads: set some heads for questions about the start, the end and the pan first.
        hold_context: keep what these heads look for as it is.
        scene_words: point the words that answer questions about scenes first.
        eval_every: steps between evaluations and checkpoints.
    """

    name: str
    steps: int
    recipe: Recipe | None
    tower_rate: float
    decoder_rate: float = 0.0
    warmup: int = 50
    floor: float = 0.05
    horizon: int = 0
    fresh_decoder: bool = False
    order_heads: bool = False
    weights: tuple[tuple[str, float], ...] = ()
    crowd_weight: float = 0.2
    evaluate: tuple[tuple[int, int], ...] = ((1, 48), (4, 32), (8, 32))
    eval_every: int = 100
    scene_evaluate: tuple[tuple[int, int], ...] = ()
    scenery: bool = False
    scene_words: bool = False
    context_heads: bool = False
    hold_context: bool = False


LONG = ((2, 10), (4, 6), (8, 4), (8, 4), (16, 2), (32, 1))
SCENE_LENGTHS = ((2, 8), (3, 8), (4, 6), (6, 4), (8, 3))
SCENES_TO_64 = (*SCENE_LENGTHS[1:], (4, 6), (8, 3), (16, 2), (16, 2), (32, 1), (64, 1))
UP_TO_FOUR = (1, 1, 1, 2, 2, 2, 3, 3, 4)
MIXED = (1,) * 12 + (2,) * 12 + (3,) * 11 + (4,)  # a quarter of it UP_TO_FOUR
NAMED = ("digit", "colour", "quadrant")

STAGES: tuple[Stage, ...] = (
    Stage("tower", 1400, None, 1e-3, horizon=3000, eval_every=200),
    Stage("tower2", 1000, None, 1e-3, warmup=20, floor=0.1, horizon=1500, eval_every=200),
    Stage(
        "one",
        100,
        Recipe(((1, 24), (2, 20)), needles=(1, 1, 2, 3), crowd=8),
        2e-4,
        1e-3,
        floor=1.0,
        eval_every=50,
        fresh_decoder=True,
    ),
    Stage(
        "two",
        150,
        Recipe(((1, 16), (2, 12), (4, 8)), needles=MIXED, crowd=4),
        2e-4,
        1e-3,
        warmup=10,
        floor=1.0,
        eval_every=50,
        evaluate=((2, 32), (8, 32)),
    ),
    Stage(
        "read",
        100,
        Recipe(((1, 16), (2, 12), (4, 8)), needles=MIXED, crowd=4),
        2e-4,
        1e-3,
        warmup=20,
        floor=1.0,
        fresh_decoder=True,
        eval_every=50,
        evaluate=((2, 32), (8, 32)),
    ),
    Stage(
        "bind",
        200,
        Recipe(((1, 10), (2, 6)), needles=(2, 2, 3, 4), questions=8, crowd=2, tasks=NAMED),
        1e-4,
        1.5e-3,
        warmup=20,
        floor=1.0,
        evaluate=((2, 32),),
    ),
    Stage(
        "wired",
        100,
        Recipe(((1, 12), (2, 8)), needles=(1, 2, 2, 3, 4), questions=8, crowd=2),
        2e-4,
        1e-3,
        warmup=20,
        floor=1.0,
        fresh_decoder=True,
        eval_every=50,
        evaluate=((2, 24), (8, 24)),
    ),
    Stage(
        "mid",
        300,
        Recipe(((2, 10), (4, 7), (8, 4)), needles=UP_TO_FOUR, gaps=0.5, talk=0.15, crowd=6),
        5e-4,
        1e-3,
        warmup=20,
        floor=1.0,
        eval_every=50,
        evaluate=((8, 32),),
    ),
    Stage(
        "order",
        250,
        Recipe(((2, 10), (4, 6), (8, 4)), needles=UP_TO_FOUR, gaps=0.5, talk=0.15, crowd=8),
        1.5e-4,
        1e-3,
        warmup=20,
        floor=1.0,
        order_heads=True,
        crowd_weight=0.5,
        eval_every=50,
        evaluate=((8, 32),),
    ),
    Stage(
        "long",
        200,
        Recipe(LONG, needles=UP_TO_FOUR, gaps=0.4, talk=0.15, crowd=6),
        1.5e-4,
        1e-3,
        warmup=10,
        floor=0.02,
        horizon=680,
        crowd_weight=0.5,
        evaluate=((8, 32), (32, 16)),
    ),
    Stage(
        "final",
        200,
        Recipe(LONG, needles=UP_TO_FOUR, gaps=0.4, talk=0.15, crowd=6),
        1.5e-4,
        8e-4,
        warmup=10,
        floor=0.01,
        horizon=600,
        weights=(("count", 4.0), ("order", 2.0)),
        crowd_weight=0.5,
        evaluate=((8, 32), (32, 16)),
    ),
    Stage(
        "finish",
        430,
        Recipe(((3, 8), (4, 7), (6, 5), (8, 4), (16, 2), (32, 1)), gaps=0.4, talk=0.15, crowd=6),
        1.5e-4,
        8e-4,
        warmup=10,
        floor=0.01,
        weights=(("count", 8.0), ("order", 3.0)),
        crowd_weight=0.5,
        evaluate=((8, 48), (32, 16)),
    ),
    Stage("scenery", 600, None, 1e-3, warmup=30, floor=0.3, eval_every=100, scenery=True),
    Stage(
        "scenes",
        400,
        Recipe(SCENE_LENGTHS, gaps=0.5, talk=0.1, crowd=4, questions=9, scenes=0.7),
        3e-4,
        1e-3,
        warmup=20,
        floor=1.0,
        weights=(("count", 4.0), ("order", 2.0), ("pan", 2.0), ("relation", 2.0)),
        crowd_weight=0.5,
        eval_every=50,
        evaluate=((8, 16),),
        scene_evaluate=((8, 48),),
        scene_words=True,
    ),
    Stage(
        "context",
        300,
        Recipe(SCENE_LENGTHS, gaps=0.5, talk=0.1, crowd=4, questions=9, scenes=0.7),
        2e-4,
        1e-3,
        warmup=10,
        floor=1.0,
        weights=(("count", 6.0), ("order", 3.0), ("pan", 3.0), ("relation", 2.0)),
        crowd_weight=0.5,
        eval_every=50,
        evaluate=((8, 16),),
        scene_evaluate=((8, 48),),
        context_heads=True,
    ),
    Stage(
        "scenes_long",
        300,
        Recipe(SCENES_TO_64, gaps=0.4, talk=0.1, crowd=4, questions=9, scenes=0.7),
        2e-4,
        6e-4,
        warmup=20,
        floor=0.02,
        horizon=500,
        weights=(("count", 6.0), ("order", 3.0), ("pan", 3.0), ("relation", 1.5), ("digit", 1.5)),
        crowd_weight=0.5,
        eval_every=100,
        evaluate=((8, 24),),
        scene_evaluate=((8, 48), (32, 8)),
        context_heads=True,
    ),
    Stage(
        "scenes_end",
        230,
        Recipe(SCENES_TO_64, gaps=0.4, talk=0.1, crowd=4, questions=9, scenes=0.7),
        1e-4,
        4e-4,
        warmup=10,
        floor=0.02,
        weights=(("count", 5.0), ("order", 3.0), ("pan", 3.0), ("relation", 1.5), ("digit", 2.0)),
        crowd_weight=0.5,
        eval_every=50,
        evaluate=((8, 16),),
        scene_evaluate=((8, 32), (32, 8)),
        context_heads=True,
        hold_context=True,
    ),
)


def stage_named(name: str) -> Stage:
    """The stage of this name. Raises: ValueError: there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    known = ", ".join(stage.name for stage in STAGES)
    raise ValueError(f"got stage {name!r}, expected one of {known}")
