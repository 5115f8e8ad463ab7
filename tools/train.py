"""Train a network: ``python tools/train.py configs/train/NAME.toml --folder runs/NAME``."""

import argparse
import logging
import os
import sys
from pathlib import Path

import torch

from vrestore.engine.restorer import find_device
from vrestore.errors import Interrupted, VrestoreError, told
from vrestore.train.config import read_config
from vrestore.train.loop import train
from vrestore.train.plot import plot
from vrestore.train.stop import Stop


def main() -> None:
    """Flags in, one call out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a TOML of configs/train")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of state and log; resumed"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; of torchrun each process has its own")
    parser.add_argument("--plot", type=Path, help="draw the folder's log into this PNG, and end")
    parser.add_argument("--minutes", type=float, help="stop, resumable, after this long")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the configuration: stage.0.steps=3, data.folder=DIR; may be repeated",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        config = read_config(args.config, args.set)
        if args.plot:
            plot(args.folder / "log.csv", config, args.plot)
            return
        with Stop(args.minutes * 60 if args.minutes else None) as stop:
            done = train(config, args.folder, find_device(args.device or own_device()), stop)
        if stop.asked and not done:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        saved = args.folder / "state.pt"
        where = f"what {saved} holds" if saved.exists() else "the start: nothing was saved yet"
        print(f"train.py: interrupted; run again to go on from {where}", file=sys.stderr)
        raise SystemExit(Interrupted.exit_code) from None
    except (VrestoreError, FloatingPointError, OSError) as error:
        said = error if isinstance(error, FloatingPointError) else told(error)
        print(f"train.py: {said}", file=sys.stderr)
        raise SystemExit(getattr(said, "exit_code", 1)) from None


def own_device() -> str:
    """The GPU of this process, where there is any."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    main()
