"""The training loop: no hooks, one function that reads from top to bottom."""

from __future__ import annotations

import copy
import logging
import math
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vrestore.errors import InputError, ModelError
from vrestore.evaluate.metrics import luma, psnr, to_8bit
from vrestore.models.resize import imresize
from vrestore.models.temporal import Network
from vrestore.train.config import TrainConfig, to_toml
from vrestore.train.data import Batches, Material, batches
from vrestore.train.flow import warm_up_flow
from vrestore.train.footage import pictures_in, read_frames
from vrestore.train.gradients import Gradients
from vrestore.train.muon import Muon
from vrestore.train.network import (
    begin,
    build_network,
    drop_before_last,
    flow_network,
    let_learn,
    restored,
    share_flow,
)
from vrestore.train.objective import Judges
from vrestore.train.records import (
    keep_config,
    load,
    open_curves,
    resume_log,
    save,
    save_strip,
    write_curves,
    write_row,
)
from vrestore.train.reduction import reduce_clip
from vrestore.train.rival import Rival
from vrestore.train.share import Share
from vrestore.train.stop import Stop

log = logging.getLogger("vrestore.train")

VALIDATED_FRAMES = 12  # of each clip, while a run goes on
WILD_FACTOR, WILD_STEPS = 20, 3  # what is no longer noise


def train(config: TrainConfig, run: Path, device: torch.device, stop: Stop | None = None) -> bool:
    """Train to the end of the last stage, or until ``stop`` is due; resumes from ``run``.

    Whether the end is reached.

    ``run/state.pt`` holds all that a later call needs to go on as if never stopped;
    ``run/config.toml`` the run as it was asked for, ``config_to_step_N.toml`` as it was asked for
    before; ``run/log.csv`` one row per ``log_every``
    steps, ``run/strips`` pictures of every validation. FloatingPointError where the loss is no
    number, or the error ``WILD_FACTOR`` times what it was for ``WILD_STEPS`` steps: the batch is
    kept in ``run/bad_batch_RANK.pt``.
    """
    share = Share.join(device)
    for stage in config.stage:
        share.check(stage.batch)
    if config.flow is not None and share.world > 1:  # pairs of pairs: a photograph's, a clip's
        for batch in (config.flow.tied_batch, config.flow.batch):
            share.check(batch, 2)
    torch.manual_seed(config.seed)
    net = build_network(config.network)
    state_file = run / "state.pt"
    state = load(state_file, device)
    new = begin(net, config) if state is None else tuple(state.get("new", ()))
    if config.dropout:
        drop_before_last(net, config.dropout)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    judges = Judges.of(config, net.scale, device)
    material = Material.load(config.data)
    validated = validation_clips(config.data.validation)  # in every process: all end where one does
    validation = load_validation(config, net.scale, VALIDATED_FRAMES) if share.rank == 0 else {}
    log.info("%d clips, %d photographs", len(material.clips), len(material.photos))
    run.mkdir(parents=True, exist_ok=True)

    spynet = flow_network(net)
    if spynet is not None and any("spynet." in name for name in new) and state is None:
        if not warm_up_flow(spynet, config, material, run, device, share, stop):
            return False
        share_flow(net, new)
    ema = copy.deepcopy(net).requires_grad_(False).eval()
    optimiser = build_optimiser(net, config)
    rival = Rival(judges.discriminator, config, share) if judges.discriminator else None
    gradients = Gradients(net, judges, config, device)
    watch = Watch()
    step = 0
    losses: list[float] = []  # since the last row of the log
    if state is not None:
        restore_state(state, state_file, net, ema, optimiser, rival)
        watch = Watch(*state.get("watch", ()))
        step, losses = int(state["step"]), list(state.get("losses", ()))
        log.info("resumed at step %d", step)
    curves, columns = None, ["step", "loss", "norm", "s_per_step", *validated]
    if share.rank == 0:  # only now: a run that is refused changes nothing there
        keep_config(run, to_toml(config), step)
        columns = resume_log(run / "log.csv", step, columns)
        curves = open_curves(run, step)

    first = timed = step
    tick = time.monotonic()
    samples = Batches(config, material, net.scale, share)
    for lq, gt in batches(samples, step, config.data.workers):
        stage = config.stage_at(step)
        let_learn(net, step, config.optimiser, new)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, config) * group["share"]
            group["shrink"] = config.optimiser.shrink
        torch.manual_seed((config.seed << 32) + step * share.world + share.rank)  # for dropout
        made = gradients(lq, gt, stage)
        share.average_gradients(net.parameters())
        norm = nn.utils.clip_grad_norm_(net.parameters(), config.optimiser.clip)
        losses.append(share.average(made.loss.item(), device))
        error = share.average((made.output - made.truth).abs().mean().item(), device)
        trouble = watch.trouble(losses[-1] + norm.item(), error)
        if trouble:
            raise stray(trouble, step, (lq, gt), run, share)
        if watch.wild_steps and share.rank == 0:
            usual = watch.usual
            log.warning("step %d: mean error %.3g, where %.3g was usual", step, error, usual)
        optimiser.step()
        if stage.gan and rival is not None:
            trouble = rival.learn(made.output, made.truth)
            if trouble:
                raise stray(trouble, step, (lq, gt), run, share)
        step += 1
        update_average(ema, net, min(config.optimiser.ema, (1 + step) / (10 + step)))

        if step == first + 1 and share.rank == 0:
            took = time.monotonic() - tick
            log.info("step %d of %d took %.1f s, with what comes first", step, config.steps, took)
        asked = share.anyone(stop is not None and stop.asked, device)
        stopped = asked or share.anyone(stop is not None and stop.due(), device)
        last = step == config.steps or stopped
        if share.rank > 0:
            if stopped:
                return step == config.steps
            losses.clear()  # the first process writes the log
            continue
        seconds = (time.monotonic() - tick) / (step - timed)
        gains: dict[str, float] = {}
        if step % config.validate_every == 0 or step == config.steps:
            gains = validate(ema, validation, device, strips=run / "strips", step=step)
        if step % config.log_every == 0 or gains:  # not where it is stopped: it is the same log
            row = {"step": step, "loss": sum(losses) / len(losses), "norm": float(norm)}
            row |= {"s_per_step": seconds}
            write_row(run / "log.csv", row | gains, columns)
            write_curves(curves, row | gains)
            log.info("step %d loss %.5f %.2f s/step %s", step, row["loss"], seconds, gains or "")
            losses, timed, tick = [], step, time.monotonic()
        if step % config.save_every == 0 or last:
            parts = {"net": net, "ema": ema, "optimiser": optimiser}
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= rival.state() if rival is not None else {}
            state |= {"step": step, "new": new, "watch": watch.kept(), "losses": losses}
            save(state_file, state)
        if stopped and step < config.steps:
            log.info("stopped at step %d of %d; run again to go on", step, config.steps)
            return False
    return True


def stray(
    trouble: str, step: int, batch: tuple[Tensor, Tensor], run: Path, share: Share
) -> FloatingPointError:
    """What ends a run that has gone astray; the batch is kept."""
    kept, state_file = run / f"bad_batch_{share.rank}.pt", run / "state.pt"
    save(kept, {"lq": batch[0], "gt": batch[1], "step": step})
    where = f"go on from {state_file}, which is of an earlier step,"
    return FloatingPointError(
        f"{trouble} at step {step}; its batch is in {kept}: look at it, and "
        f"{where if state_file.exists() else 'begin anew'} with a lower rate"
    )


@dataclass
class Watch:
    """Tells a run that has gone astray from noise: by its mean absolute error so far."""

    usual: float = 0.0  # 0 before the first step
    wild_steps: int = 0

    def trouble(self, finite: float, error: float) -> str:
        """What is wrong, if anything is; ``finite`` must be a number, ``error`` near the usual."""
        if not math.isfinite(finite) or not math.isfinite(error):
            return f"the loss or its gradient is {finite}"
        if self.usual and error > WILD_FACTOR * self.usual:
            self.wild_steps += 1
            if self.wild_steps == WILD_STEPS:
                return f"the mean error is {error:.3g}, and {self.usual:.3g} was usual,"
            return ""
        self.wild_steps = 0
        self.usual = error if not self.usual else self.usual + (error - self.usual) / 100
        return ""

    def kept(self) -> tuple[float, int]:
        """What a resumed run needs."""
        return self.usual, self.wild_steps


def build_optimiser(net: nn.Module, config: TrainConfig) -> torch.optim.Adam:
    """Adam with the flow network in a group of its own; of ``muon`` the convolutions, too."""
    flow = [p for name, p in net.named_parameters() if "spynet." in name]
    rest = [p for name, p in net.named_parameters() if "spynet." not in name]
    o = config.optimiser
    groups: list[dict[str, Any]] = [{"params": rest, "share": 1.0}]
    if o.method == "muon":  # three outputs are no matrix to speak of
        inner = [p for p in rest if p.dim() == 4 and len(p) > 3]
        outer = [p for p in rest if p.dim() != 4 or len(p) <= 3]
        groups = [{"params": inner, "share": 1.0}, {"params": outer, "share": o.adam_share}]
    if flow:
        groups.append({"params": flow, "share": o.flow_share})
    for group in groups:
        group["orthogonal"] = o.method == "muon" and group is groups[0]
    kind = Muon if o.method == "muon" else torch.optim.Adam
    return kind(groups, lr=o.rate, betas=(0.9, 0.99))


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: a linear rise, times what the schedule says."""
    o = config.optimiser
    rise = min(1.0, (step + 1) / max(o.warm_up, 1))
    if o.schedule == "multistep":
        return rise * o.rate * o.decay ** sum(step >= at for at in o.milestones)
    peak, length, since = o.rate, config.steps, step
    if o.schedule == "restarts":
        for period, part in zip(o.periods, o.restart_shares, strict=True):
            peak, length = o.rate * part, period
            if since < period:
                break
            since -= period
    cosine = 0.5 * (1 + math.cos(math.pi * since / length))
    return rise * (o.final_rate + (peak - o.final_rate) * cosine)


@torch.no_grad()
def update_average(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights: what is validated and shipped."""
    for average, value in zip(ema.parameters(), net.parameters(), strict=True):
        average.lerp_(value, 1 - decay)


def load_validation(
    config: TrainConfig, scale: int, frames: int | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """The first ``frames`` of every clip there: name -> (LR, HR), uint8; LR made as in training.

    What is random in that is drawn from the clip's name: it is the same at every validation.
    """
    clips = {}
    for name, path in validation_clips(config.data.validation).items():
        if path.is_dir():
            hr = torch.cat([read_frames(picture) for picture in pictures_in(path)[:frames]])
        else:
            hr = read_frames(path)[:frames]
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        clips[name] = (reduce_clip(rng, hr, config, scale), hr)
    return clips


def validation_clips(folder: Path) -> dict[str, Path]:
    """Films and folders of frames by their names; InputError where there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; mend [data] validation")
    found = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix == ".mp4" or p.is_dir()}
    if not found:
        raise InputError(
            f"{folder}: neither films (.mp4) nor folders of frames in it; mend [data] validation"
        )
    return found


@torch.no_grad()
def validate(
    net: Network,
    clips: dict[str, tuple[Tensor, Tensor]],
    device: torch.device,
    frames: int | None = VALIDATED_FRAMES,
    strips: Path | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Y-PSNR over bicubic in dB (8 bit, crop 4), mean of each clip's first ``frames`` frames.

    Of a network of scale 1 it is over the input as it is.
    ``strips``: a folder that gets a picture of each clip's middle frame, named by ``step``.
    """
    gains = {}
    for name, (lr, hr) in clips.items():
        x = (lr[:frames].to(device).float() / 255).contiguous()
        truth = luma(hr[:frames].to(device))
        output = restored(net, x)
        plain = imresize(x, net.scale)
        scores = [psnr(luma(to_8bit(y)), truth, crop=4).mean().item() for y in (output, plain)]
        gains[name] = round(scores[0] - scores[1], 4)
        if strips is not None:
            i = len(x) // 2
            save_strip(strips / f"{name}_{step:07d}.png", x[i], to_8bit(output[i]), hr[i])
    return gains


def restore_state(
    state: dict[str, Any],
    path: Path,
    net: nn.Module,
    ema: nn.Module,
    optimiser: torch.optim.Optimizer,
    rival: Rival | None,
) -> None:
    """Everything as it was when it was saved; ModelError where the run is of another network."""
    try:
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        if rival is not None:
            rival.restore(state)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{path}: is of another network than the configuration ({reason}); name another folder"
        ) from error
