"""The flow network before all else: no foreign weights, exact truth from a synthetic camera.

All levels at once on all motions at once, a small network stays at one flow for everything. But
what is left to a level of the pyramid is the same small motion at every level (SPyNet, sec. 3):
one network first learns that for all of them; then each level goes on as its own.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from vrestore.errors import ModelError
from vrestore.models.spynet import SPyNet
from vrestore.train.config import FlowWarmUp, TrainConfig
from vrestore.train.data import FlowPairs, Material, batches
from vrestore.train.losses import end_point_error, photometric
from vrestore.train.records import load, save
from vrestore.train.share import ALONE, Share
from vrestore.train.stop import Stop

log = logging.getLogger("vrestore.train")


def warm_up_flow(
    spynet: SPyNet,
    config: TrainConfig,
    material: Material,
    run: Path,
    device: torch.device,
    share: Share = ALONE,
    stop: Stop | None = None,
) -> bool:
    """Teach ``spynet`` motion, in place; goes on from ``run/flow.pt`` where that is there.

    Whether the end is reached, or ``stop`` was due. FloatingPointError where the loss is no number.
    """
    plan = config.flow
    assert plan is not None
    tied, one = tie(spynet, plan.tied_levels)
    optimiser = torch.optim.Adam(spynet.parameters(), plan.tied_rate)
    saved, step = run / "flow.pt", 0
    state = load(saved, device)
    if state is not None:
        try:
            spynet.load_state_dict(state["spynet"])
            optimiser.load_state_dict(state["optimiser"])
        except (KeyError, RuntimeError, ValueError) as other:
            raise ModelError(
                f"{saved}: is of another flow network than the configuration; name another folder"
            ) from other
        step = int(state["step"])
        log.info("flow resumed at step %d", step)
    seen: list[tuple[float, float]] = []
    data = FlowPairs(config, material, share)
    for pairs, truth in batches(data, step, config.data.workers):
        for group in optimiser.param_groups:
            group["lr"] = flow_rate_at(step, plan)
        net = tied if step < plan.tied_steps else spynet
        ref, supp = (pairs.to(device).float() / 255).unbind(1)
        loss, errors = flow_loss(net.pyramid(ref, supp), ref, supp, truth.to(device))
        if not math.isfinite(share.average(loss.item(), device)):
            raise FloatingPointError(
                f"the flow network's loss is no number at its step {step}; begin anew with a lower "
                "rate in [flow]"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        share.average_gradients(spynet.parameters())
        nn.utils.clip_grad_norm_(spynet.parameters(), plan.clip)
        optimiser.step()
        step += 1
        if step == plan.tied_steps:
            for level in spynet.basic_module:
                level.load_state_dict(one.state_dict())
        seen.append(errors)
        if share.rank == 0 and step % config.log_every == 0:
            error, still = (sum(column) / len(seen) for column in zip(*seen, strict=True))
            log.info("flow step %d: end-point %.3f px, zero flow %.3f px", step, error, still)
            seen = []
        stopped = share.anyone(stop is not None and stop.due(), device) and step < len(data)
        if share.rank == 0 and (step % config.save_every == 0 or step == len(data) or stopped):
            state = {"spynet": spynet.state_dict(), "optimiser": optimiser.state_dict()}
            save(saved, state | {"step": step})
        if stopped:
            log.info("flow stopped at step %d of %d; run again to go on", step, len(data))
            return False
    return True


def tie(spynet: SPyNet, levels: int) -> tuple[SPyNet, nn.Module]:
    """A pyramid of ``levels`` levels that are all ``spynet``'s finest network; that network."""
    one = spynet.basic_module[-1]
    tied = SPyNet(min(levels, spynet.levels)).to(spynet.mean.device)
    tied.basic_module = nn.ModuleList([one] * tied.levels)
    return tied, one


def flow_rate_at(step: int, plan: FlowWarmUp) -> float:
    """A short linear rise and a cosine for each of the two parts."""
    rate, length = plan.tied_rate, plan.tied_steps
    if step >= plan.tied_steps:
        rate, length, step = plan.rate, plan.steps, step - plan.tied_steps
    return rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / length))


def flow_loss(
    pyramid: list[Tensor], ref: Tensor, supp: Tensor, truth: Tensor
) -> tuple[Tensor, tuple[float, float]]:
    """What to make small, and the mean end-point error in pixels: of the flow, and of zero flow.

    Samples whose truth is NaN are judged by how well the warped neighbour explains the reference.
    """
    known = torch.isfinite(truth[:, 0, 0, 0])
    loss = end_point_error([flow[known] for flow in pyramid], truth[known])
    if not known.all():
        blind = ~known
        loss = loss + 10 * photometric(pyramid[-1][blind], ref[blind], supp[blind])
    error = (pyramid[-1][known] - truth[known]).norm(dim=1).mean().item()
    return loss, (error, truth[known].norm(dim=1).mean().item())
