"""The two faces of the model for lmms-eval: chat messages, and texts with visuals."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from sttm.checkpoints import Placement
from sttm.cli.loading import Loaded, load_model, load_nano
from sttm.errors import ConfigError
from sttm.integrations.lmms_eval.answering import Answerer, Counts, Response
from sttm.integrations.lmms_eval.arguments import Arguments, read_arguments, reworded
from sttm.integrations.lmms_eval.requests import Request, from_messages, from_visuals


class Sttm(lmms):
    """A video model behind a reduction, asked in chat messages.

    Args:
        given: what stands in ``--model_args``, ``--batch_size`` and ``--device``.

    Raises:
        ConfigError: a bad argument, or a model that cannot be loaded.
        UnsupportedModelError: a model of another kind.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        arguments = read_arguments(given)
        self.accelerator = _accelerator()
        if self.accelerator is not None:
            self._rank = self.accelerator.process_index
            self._world_size = self.accelerator.num_processes
        loaded = _load(arguments, self.accelerator)
        self.device = loaded.model.device
        reduction = arguments.reduction
        layer = loaded.layer if reduction.layer is None else reduction.layer
        with reworded():
            self._answerer: Answerer | None = Answerer(
                loaded.model,
                loaded.processor,
                replace(arguments, positions=arguments.positions or loaded.positions),
                layer=layer,
                warn=logger.warning,
            )
        misfit = reduction.misfit(loaded.name, layer)
        if misfit:
            logger.warning(misfit)

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer; questions about one video share one prefill, whatever their order."""
        assert self._answerer is not None
        found: dict[int, Response] = {}
        asked = [self._read(request) for request in requests]
        unused = sorted({name for request in asked for name in request.unused})
        if unused:
            logger.warning(f"generation arguments that sttm does not use: {', '.join(unused)}")
        before = self._answerer.counts
        with tqdm(total=len(asked), disable=self.rank != 0, desc="Model Responding") as bar:
            for place, response in self._answerer.answer(asked):
                found[place] = response
                bar.update(1)
        _log(list(found.values()), before, self._answerer.counts)
        return [_result(found[place]) for place in range(len(asked))]

    def loglikelihood(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: only generated answers are supported."""
        _refuse("loglikelihood or multiple_choice")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> NoReturn:
        """Refuse: only single questions are supported."""
        _refuse("generate_until_multi_round")

    def clean(self) -> None:
        """Release the model."""
        self._answerer = None
        super().clean()

    def _read(self, request: Instance) -> Request:
        _, to_messages, generation, doc_id, task, split = request.args
        messages = to_messages(self.task_dict[task][split][doc_id])
        return from_messages(f"{task}, document {doc_id}", messages, generation)


class SttmSimple(Sttm):
    """The same, asked with a text and its visuals (``--force_simple``)."""

    is_simple = True

    def _read(self, request: Instance) -> Request:
        text, generation, to_visual, doc_id, task, split = request.args
        visuals = to_visual(self.task_dict[task][split][doc_id])
        return from_visuals(f"{task}, document {doc_id}", text, visuals, generation)


def _accelerator() -> Any:
    """Join the other processes of ``accelerate launch``, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def _load(arguments: Arguments, accelerator: Any) -> Loaded:
    where = arguments.where
    if where is None and accelerator is not None:
        where = str(accelerator.device)
    with reworded():
        if arguments.pretrained is not None:
            return load_model(arguments.pretrained, where)
        placement = Placement(where or "cpu")
        loaded = load_nano()
        return replace(loaded, model=placement.settle(loaded.model))


def _result(response: Response) -> GenerationResult:
    return GenerationResult(response.text, TokenCounts(output_tokens=response.tokens))


def _log(responses: Sequence[Response], before: Counts, after: Counts) -> None:
    """Put the speed and the share of tokens kept beside the scores."""
    skipped = after.skipped - before.skipped
    seconds = sum(one.seconds for one in responses)
    tokens = sum(one.tokens for one in responses)
    kept = [one.retention for one in responses if one.retention is not None]
    log_metrics(
        total_elapsed_time=seconds,
        total_gen_tokens=tokens,
        avg_speed=tokens / seconds if seconds else 0.0,
        additional_metrics={
            "sttm_retention": sum(kept) / len(kept) if kept else None,
            "sttm_prefills": after.prefills - before.prefills,
            "sttm_skipped": skipped,
        },
    )
    if skipped:
        logger.warning(
            f"{skipped} of {len(responses)} questions were skipped: their videos could not be "
            "read. Their answers are empty, which the harness counts as wrong."
        )


def _refuse(kind: str) -> NoReturn:
    raise ConfigError(
        f"task: got output_type {kind}, expected generate_until: sttm answers single questions in "
        "words. Choose the task's generative variant."
    )
