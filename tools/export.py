"""Ship a run's weights: ``python tools/export.py CONFIG runs/NAME FILE.safetensors``.

The averaged weights go into the file; the figures are Y-PSNR over bicubic on whole validation
clips (8 bit, crop 4), as the model card quotes them.
"""

import argparse
from pathlib import Path

import torch

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network, save_network
from vrestore.settings import read_toml
from vrestore.train.config import TrainConfig
from vrestore.train.loop import load_validation, validate


def main() -> None:
    """Flags in, one file and one table out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="the TOML that the run was made from")
    parser.add_argument("folder", type=Path, help="the run")
    parser.add_argument("target", type=Path, help="a .safetensors file")
    args = parser.parse_args()
    config = read_toml(args.config, TrainConfig)
    state = torch.load(args.folder / "state.pt", map_location="cpu", weights_only=True)
    net = BasicVSR(**config.network)
    net.load_state_dict(state["ema"])
    args.target.parent.mkdir(parents=True, exist_ok=True)
    save_network(net, args.target, {"steps": str(state["step"]), "licence": "Apache-2.0"})
    clips = load_validation(config.data.validation)
    gains = validate(load_network(args.target), clips, torch.device("cpu"), frames=None)
    print(f"step {state['step']}, {args.target.stat().st_size / 2**20:.2f} MiB")
    for clip, gain in gains.items():
        print(f"| {clip} | {gain:+.2f} |")


if __name__ == "__main__":
    main()
