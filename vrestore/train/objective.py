"""What a stage makes small: its kinds of loss, added up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vrestore.errors import UsageError
from vrestore.models.checkpoint import load_network
from vrestore.models.temporal import Network
from vrestore.train.config import Stage, TrainConfig
from vrestore.train.discriminator import UNetDiscriminator
from vrestore.train.kernels import sharpen
from vrestore.train.losses import LOSSES, discriminator_losses, generator_loss, reduced_truth
from vrestore.train.network import forward, middle
from vrestore.train.perceptual import PerceptualLoss


@dataclass(frozen=True)
class Judges:
    """The other networks of a run; None where no stage asks for them."""

    perceptual: PerceptualLoss | None
    teacher: Network | None
    discriminator: UNetDiscriminator | None

    @staticmethod
    def of(config: TrainConfig, scale: int, device: torch.device) -> Judges:
        """Loaded, or made, on the device, for a network of that scale.

        ModelError for a file that is not what it should be, UsageError for patches that a
        discriminator cannot halve three times.
        """
        for n, stage in enumerate(config.stage):
            if stage.gan and stage.patch * scale % UNetDiscriminator.multiple:
                raise UsageError(
                    f"stage.{n}.patch = {stage.patch}: what is restored of it is "
                    f"{stage.patch * scale} pixels wide, and a discriminator needs a multiple of "
                    f"{UNetDiscriminator.multiple}"
                )
        perceptual = teacher = discriminator = None
        if config.perceptual is not None and any(s.perceptual for s in config.stage):
            perceptual = PerceptualLoss.load(config.perceptual).to(device)
        if config.teacher is not None and any(s.teacher for s in config.stage):
            teacher = load_network(config.teacher.weights).to(device)
        if any(s.gan for s in config.stage):
            how = config.gan
            discriminator = UNetDiscriminator(3, how.num_feat, how.skip_connection).to(device)
        return Judges(perceptual, teacher, discriminator)


def objective(
    net: Network, lq: Tensor, gt: Tensor, stage: Stage, judges: Judges, config: TrainConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of clips ``(N, T, 3, h, w)``, ``gt`` scaled, in 0..1; what was made, its truth.

    Both ``(N, T', 3, H, W)``, float32, T' as ``network.forward`` gives it.
    """
    output, cleaned = forward(net, lq)
    output, truth = output.float(), middle(net, gt)
    wanted = sharpened(gt) if stage.sharpened else gt
    pixel = LOSSES[stage.loss]
    loss = stage.loss_share * pixel(output, middle(net, wanted))
    if stage.cleaning and cleaned is not None:
        loss = loss + stage.cleaning * pixel(cleaned.float(), reduced_truth(wanted))
    if stage.perceptual and judges.perceptual is not None:
        seen = judges.perceptual(output.flatten(0, 1), middle(net, wanted).flatten(0, 1))
        loss = loss + stage.perceptual * seen
    if stage.teacher and judges.teacher is not None:
        with torch.no_grad():
            taught = forward(judges.teacher, lq)[0].float()
        if taught.shape != output.shape:
            raise UsageError(
                f"[teacher]: it makes {tuple(taught.shape)}, and {tuple(output.shape)} is learned: "
                "take a network that sees time in the same way, and of the same scale"
            )
        loss = loss + stage.teacher * pixel(output, taught)
    if stage.gan and judges.discriminator is not None:
        judges.discriminator.requires_grad_(False)
        fake = judges.discriminator(output.flatten(0, 1)).float()
        real = None
        if config.gan.form == "relativistic":
            real = judges.discriminator(truth.flatten(0, 1)).float().detach()
        loss = loss + stage.gan * generator_loss(config.gan.form, fake, real)
    return loss, output, truth


def teach(
    discriminator: UNetDiscriminator, output: Tensor, truth: Tensor, config: TrainConfig
) -> Tensor:
    """The discriminator's loss on pictures that were made, ``(N, T, 3, H, W)``, and true ones."""
    discriminator.requires_grad_(True)
    real = discriminator(truth.flatten(0, 1)).float()
    fake = discriminator(output.detach().flatten(0, 1)).float()
    right, caught = discriminator_losses(config.gan.form, real, fake)
    return right + caught


def sharpened(clips: Tensor) -> Tensor:
    """Clips ``(N, T, 3, H, W)`` after unsharp masking."""
    return torch.stack([sharpen(clip) for clip in clips])
