"""The discriminator of a run, which learns beside the network."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from vrestore.train.config import TrainConfig
from vrestore.train.discriminator import UNetDiscriminator
from vrestore.train.objective import teach
from vrestore.train.share import Share


class Rival:
    """A discriminator and its Adam (Real-ESRGAN, sec. 4.1: a constant rate)."""

    def __init__(self, net: UNetDiscriminator, config: TrainConfig, share: Share) -> None:
        self.net, self.config, self.share = net, config, share
        self.optimiser = torch.optim.Adam(net.parameters(), config.gan.rate, (0.9, 0.99))

    def learn(self, output: Tensor, truth: Tensor) -> str:
        """One step on what was made and what is true, ``(N, T, 3, H, W)``; what is wrong, if so."""
        device = output.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = teach(self.net, output, truth, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.share.average_gradients(self.net.parameters())
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), math.inf)  # clips nothing
        watched = self.share.average(loss.item(), device) + norm.item()
        if not math.isfinite(watched):
            return f"the discriminator's loss or gradient is {watched}"
        self.optimiser.step()
        return ""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"rival": self.net.state_dict(), "rival_optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """As ``state`` gave it; a stage with a discriminator may follow a run without: from new."""
        if "rival" in state:
            self.net.load_state_dict(state["rival"])
            self.optimiser.load_state_dict(state["rival_optimiser"])
