"""Ship a run's weights: ``python tools/export.py CONFIG runs/NAME FILE.safetensors``.

The averaged weights go into the file; the figures are Y-PSNR over bicubic (over the input, of a
network of scale 1) on whole validation clips (8 bit, crop 4), as the model card quotes them.
"""

import argparse
import sys
from pathlib import Path

import torch

from vrestore.errors import InputError, ModelError, UsageError, VrestoreError, told
from vrestore.models.checkpoint import load_network, save_network
from vrestore.train.config import read_config
from vrestore.train.loop import load_validation, validate
from vrestore.train.network import build_network
from vrestore.train.records import load


def main() -> None:
    """Flags in, one file and one table out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="the TOML that the run was made from")
    parser.add_argument("folder", type=Path, help="the run")
    parser.add_argument("target", type=Path, help="a .safetensors file")
    parser.add_argument(
        "--half", action="store_true", help="as float16: half the bytes, outputs 90 dB alike"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args()
    try:
        if args.target.exists() and not args.overwrite:
            raise UsageError(f"{args.target}: is there already; --overwrite replaces it")
        export(args.config, args.folder, args.target, half=args.half)
    except (VrestoreError, OSError) as error:
        print(f"export.py: {told(error)}", file=sys.stderr)
        raise SystemExit(told(error).exit_code) from None


def export(config_file: Path, folder: Path, target: Path, *, half: bool = False) -> None:
    """The run's averaged weights into ``target``, its figures onto the screen."""
    config = read_config(config_file)
    state = load(folder / "state.pt", torch.device("cpu"))
    if state is None:
        raise InputError(f"{folder}: holds no state.pt; train it first")
    net = build_network(config.network)
    try:
        net.load_state_dict(state["ema"])
    except RuntimeError as error:
        raise ModelError(
            f"{folder}/state.pt: is of another network than {config_file}; give the run's own"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    about = {"steps": str(state["step"]), "licence": "Apache-2.0"}
    save_network(net, target, about, half=half)
    clips = load_validation(config, net.scale)
    gains = validate(load_network(target), clips, torch.device("cpu"), frames=None)
    print(f"step {state['step']}, {target.stat().st_size / 2**20:.2f} MiB")
    for clip, gain in gains.items():
        print(f"| {clip} | {gain:+.2f} |")


if __name__ == "__main__":
    main()
