"""The training loop: no hooks, one function that reads from top to bottom."""

from __future__ import annotations

import copy
import csv
import logging
import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from vrestore.evaluate.metrics import luma, psnr, to_8bit
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.layers import ResidualBlockNoBN
from vrestore.models.resize import imresize
from vrestore.train.config import TrainConfig
from vrestore.train.data import Batches, Material, batches, read_frames, shrink
from vrestore.train.flow import warm_up_flow
from vrestore.train.losses import LOSSES
from vrestore.train.share import Share

log = logging.getLogger("vrestore.train")


def train(config: TrainConfig, run: Path, device: torch.device, stop_after_s: float | None) -> None:
    """Train to the end of the last stage, or for ``stop_after_s`` seconds; resumes from ``run``.

    ``run/state.pt`` holds all that a later call needs to go on as if never stopped;
    ``run/log.csv`` one row per ``log_every`` steps.
    """
    share = Share.join()
    for stage in config.stage:
        share.check(stage.batch)
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.txt").write_text(str(config) + "\n", "utf-8")
    started = time.monotonic()
    torch.manual_seed(config.seed)
    net = BasicVSR(**config.network)
    initialise(net)
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    material = Material.load(config.data.folder)
    validation = load_validation(config.data.validation) if share.rank == 0 else {}
    log.info("%d clips, %d photographs", len(material.clips), len(material.photos))

    state_file = run / "state.pt"
    state = (
        torch.load(state_file, map_location=device, weights_only=True)
        if state_file.exists()
        else None
    )
    if state is None:
        warm_up_flow(net.spynet, config, material, run, device, share)
    ema = copy.deepcopy(net).requires_grad_(False)
    optimiser = build_optimiser(net, config)
    step = 0
    if state is not None:
        net.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimiser.load_state_dict(state["optimiser"])
        step = int(state["step"])
        if share.rank == 0:
            forget_rows_after(step, run / "log.csv")
        log.info("resumed at step %d", step)

    losses: list[float] = []
    tick = time.monotonic()
    for lq, gt in batches(Batches(config, material, share), step, config.data.workers):
        net.spynet.requires_grad_(step >= config.optimiser.flow_fixed)
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, config) * group["share"]
        output = net(lq.to(device).float() / 255)
        loss = LOSSES[config.stage_at(step).loss](output, gt.to(device).float() / 255)
        if not torch.isfinite(loss):
            torch.save({"lq": lq, "gt": gt, "step": step}, run / "bad_batch.pt")
            raise FloatingPointError(
                f"loss is {loss.item()} at step {step}; see {run}/bad_batch.pt"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        share.average_gradients(net.parameters())
        norm = nn.utils.clip_grad_norm_(net.parameters(), config.optimiser.clip)
        optimiser.step()
        step += 1
        update_average(ema, net, min(config.optimiser.ema, (1 + step) / (10 + step)))
        losses.append(share.average(loss.item(), device))

        late = stop_after_s is not None and time.monotonic() - started > stop_after_s
        out_of_time = share.anyone(late, device)
        last = step == config.steps or out_of_time
        if share.rank > 0:
            if out_of_time:
                return
            continue
        gains: dict[str, float] = {}
        if step % config.validate_every == 0 or last:
            gains = validate(ema, validation, device)
        if step % config.log_every == 0 or gains:
            seconds = (time.monotonic() - tick) / len(losses)
            row = {"step": step, "loss": sum(losses) / len(losses), "norm": float(norm)}
            write_row(
                run / "log.csv",
                row | {"s_per_step": seconds} | gains,
                [*row, "s_per_step", *validation],
            )
            log.info("step %d loss %.5f %.2f s/step %s", step, row["loss"], seconds, gains or "")
            losses, tick = [], time.monotonic()
        if step % config.save_every == 0 or last:
            save(state_file, net, ema, optimiser, step)
        if out_of_time:
            log.info("stopped at step %d of %d; run again to go on", step, config.steps)
            return


def initialise(net: nn.Module) -> None:
    """He initialisation, a tenth of it inside residual blocks (ESRGAN, sec. 3.1, after EDSR)."""
    small = {m for b in net.modules() if isinstance(b, ResidualBlockNoBN) for m in b.modules()}
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
            module.weight.data.mul_(0.1 if module in small else 1)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    net.conv_last.weight.data.mul_(0.1)  # type: ignore[union-attr, operator]
    for level in net.spynet.basic_module:  # type: ignore[union-attr]
        level.basic_module[-1].weight.data.mul_(0.3)


def build_optimiser(net: BasicVSR, config: TrainConfig) -> torch.optim.Adam:
    """Adam with the flow network in a group of its own."""
    flow = list(net.spynet.parameters())
    rest = [p for name, p in net.named_parameters() if not name.startswith("spynet.")]
    return torch.optim.Adam(
        [{"params": rest, "share": 1.0}, {"params": flow, "share": config.optimiser.flow_share}],
        lr=config.optimiser.rate,
        betas=(0.9, 0.99),
    )


def rate_at(step: int, config: TrainConfig) -> float:
    """The learning rate of a step: linear rise, then a cosine over the whole run."""
    o = config.optimiser
    rise = min(1.0, (step + 1) / max(o.warm_up, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return rise * (o.final_rate + (o.rate - o.final_rate) * cosine)


@torch.no_grad()
def update_average(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights: what is validated and shipped."""
    for average, value in zip(ema.parameters(), net.parameters(), strict=True):
        average.lerp_(value, 1 - decay)


def load_validation(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Every clip of the folder: name -> (LR, HR), uint8."""
    clips = {path.stem: read_frames(path) for path in sorted(folder.glob("*.mp4"))}
    return {name: (shrink(hr), hr) for name, hr in clips.items()}


@torch.no_grad()
def validate(
    net: nn.Module,
    clips: dict[str, tuple[Tensor, Tensor]],
    device: torch.device,
    frames: int | None = 12,
) -> dict[str, float]:
    """Y-PSNR over bicubic in dB (8 bit, crop 4), mean of each clip's first ``frames`` frames."""
    gains = {}
    for name, (lr, hr) in clips.items():
        x = (lr[:frames].to(device).float() / 255).contiguous()
        truth = luma(hr[:frames].to(device))
        scores = []
        for y in (net(x), imresize(x, 4)):
            scores.append(psnr(luma(to_8bit(y)), truth, crop=4).mean().item())
        gains[name] = round(scores[0] - scores[1], 4)
    return gains


def save(
    path: Path, net: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer, step: int
) -> None:
    """All that is needed to go on; complete under its name or not there."""
    partial = path.with_suffix(".part")
    state = {"net": net.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state | {"step": step}, partial)
    os.replace(partial, path)


def forget_rows_after(step: int, path: Path) -> None:
    """Drop from the log what the run is about to do again."""
    if path.exists():
        header, *rows = path.read_text().splitlines()
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        path.write_text("\n".join([header, *kept]) + "\n")


def write_row(path: Path, row: dict[str, float], columns: list[str]) -> None:
    """Append one row to the log, with the header first in a new file."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)
