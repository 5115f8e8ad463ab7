"""Train a network: ``python tools/train.py configs/train/NAME.toml --folder runs/NAME``."""

import argparse
import logging
from pathlib import Path

import torch

from vrestore.settings import read_toml
from vrestore.train.config import TrainConfig
from vrestore.train.loop import train
from vrestore.train.plot import plot


def main() -> None:
    """Flags in, one call out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a TOML of configs/train")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of state and log; resumed"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--plot", type=Path, help="draw the folder's log into this PNG, and end")
    parser.add_argument("--minutes", type=float, help="stop, resumable, after this long")
    args = parser.parse_args()
    config = read_toml(args.config, TrainConfig)
    if args.plot:
        plot(args.folder / "log.csv", config, args.plot)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    stop_after_s = args.minutes * 60 if args.minutes else None
    train(config, args.folder, torch.device(args.device), stop_after_s)


if __name__ == "__main__":
    main()
