"""The loss of a batch and its gradients: on a GPU one launch, as soon as batches of a form repeat.

A step of a recurrent network on 15 frames is some 10,000 small kernels, and Python asks for them at
half the speed at which a GPU of today is done with them. Recorded as a CUDA graph they are asked
for once.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vrestore.models.temporal import Network
from vrestore.train.config import Stage, TrainConfig
from vrestore.train.objective import Judges, objective

log = logging.getLogger("vrestore.train")

SEEN_FIRST = 5  # steps of one form before it is recorded: cuDNN chooses its kernels in these
NEAR = 0.02  # of the loss: what half precision and the order of sums may change

Form = tuple[object, ...]


@dataclass(frozen=True)
class Made:
    """The loss of a batch; what was made of it and its truth, ``(N, T', 3, H, W)``; no graph."""

    loss: Tensor
    output: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Recording:
    """A CUDA graph, where it reads the batch, what it leaves, and the gradients among that."""

    graph: Any
    lq: Tensor
    gt: Tensor
    made: Made
    grads: tuple[Tensor | None, ...]


class Gradients:
    """Fills the gradients of ``net`` for a batch of ``stage``; called like a function.

    What is recorded must come out as it does step by step, or recording ends for the run. Stages
    with an adversary and runs with dropout are not recorded: there more than the gradients changes.
    """

    def __init__(
        self, net: Network, judges: Judges, config: TrainConfig, device: torch.device
    ) -> None:
        self.net, self.judges, self.config, self.device = net, judges, config, device
        self.records = device.type == "cuda" and not config.dropout
        self._form: Form = ()
        self._seen = 0
        self._recording: Recording | None = None
        self._stream = torch.cuda.Stream(device) if self.records else None  # type: ignore[no-untyped-call]

    def __call__(self, lq: Tensor, gt: Tensor, stage: Stage) -> Made:
        """LR ``(N, T, 3, h, w)`` and HR ``(N, T, 3, H, W)``, uint8; earlier gradients are lost."""
        parameters = tuple(self.net.parameters())
        lq, gt = lq.to(self.device), gt.to(self.device)
        form = stage, lq.shape, gt.shape, tuple(p.requires_grad for p in parameters)
        if form != self._form:
            self._form, self._seen, self._recording = form, 0, None
        if not self.records or stage.gan:
            return self._step_by_step(lq, gt, stage)
        self._seen += 1
        if self._recording is None:
            made = self._aside(lq, gt, stage)
            if self._seen > SEEN_FIRST:
                self._try_to_record(lq, gt, stage, made)
            return made
        recording = self._recording
        recording.lq.copy_(lq)
        recording.gt.copy_(gt)
        recording.graph.replay()
        for parameter, grad in zip(parameters, recording.grads, strict=True):
            parameter.grad = grad
        return recording.made

    def _step_by_step(self, lq: Tensor, gt: Tensor, stage: Stage) -> Made:
        config = self.config
        self.net.zero_grad(set_to_none=True)
        half = config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            small, large = lq.float() / 255, gt.float() / 255
            loss, output, truth = objective(self.net, small, large, stage, self.judges, config)
        loss.backward()  # type: ignore[no-untyped-call]
        return Made(loss.detach(), output.detach(), truth)

    def _aside(self, lq: Tensor, gt: Tensor, stage: Stage) -> Made:
        """Step by step on the stream that will be recorded: autograd remembers where it ran."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream), _kernels_are_tried():
            made = self._step_by_step(lq, gt, stage)
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        return made

    def _try_to_record(self, lq: Tensor, gt: Tensor, stage: Stage, made: Made) -> None:
        """Record this very step, play it, and compare; its gradients stay as they were."""
        parameters = tuple(self.net.parameters())
        loss, kept = made.loss.item(), [p.grad for p in parameters]
        norm = _norm(kept)
        try:
            recording = self._record(lq.clone(), gt.clone(), stage)
            recording.graph.replay()
            again, norm_again = recording.made.loss.item(), _norm(recording.grads)
            near = abs(again - loss) <= NEAR * abs(loss)  # what is no number is not
            if not near or not abs(norm_again - norm) <= 5 * NEAR * norm:
                raise RuntimeError(f"loss {again:.5g} and norm {norm_again:.5g}")
            self._recording = recording
            log.info(
                "steps are recorded: loss %.6f as %.6f, norm %.5f as %.5f",
                again,
                loss,
                norm_again,
                norm,
            )
        except RuntimeError as error:
            self.records = False
            log.warning("steps are not recorded, which is slower: %s", error)
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad

    def _record(self, lq: Tensor, gt: Tensor, stage: Stage) -> Recording:
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream), _kernels_are_tried():
            made = self._step_by_step(lq, gt, stage)
        grads = tuple(p.grad for p in self.net.parameters())
        return Recording(graph, lq, gt, made, grads)


def _kernels_are_tried() -> Any:
    """Let cuDNN time its kernels for the forms of a stage, of which there are few."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=True)


def _norm(grads: Any) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in grads if g is not None))
