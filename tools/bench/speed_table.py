"""The README's table of speed: ``python tools/bench/speed_table.py``, out of the benches' files.

Run ``model.py``, ``pipeline.py --memory`` and ``scaling.py`` before; what is between the two marks
in README.md is replaced.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- speed: tools/bench/speed_table.py -->\n", "<!-- end of speed -->"


def main() -> None:
    """Three JSON files in, one section of the README out."""
    model, pipeline, scaling = (read(name) for name in ("model", "pipeline", "scaling"))
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [*of_networks(model), "", *of_the_road(pipeline), *of_threads(scaling), ""]
    README.write_text(before + BEGIN + "\n".join(lines) + END + after, "utf-8")


def read(bench: str) -> dict[str, Any]:
    """What a bench wrote; it must have been run."""
    file = HERE / f"{bench}.json"
    if not file.exists():
        raise SystemExit(f"{file}: is not there; run {file.with_suffix('.py').name} first")
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return result


def of_networks(model: dict[str, Any]) -> list[str]:
    """Every network in every precision against the research scripts' way to run it."""
    lines = [
        f"{model['device']}, torch {model['torch']}; 320x180 to 1280x720 (`tools/bench/model.py`):",
        "",
        "| network | precision | frames/s | against `net(chunk)` in float32 "
        "| of the machine's limit | memory | PSNR to float32 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in model["rows"]:
        memory = f"{row['peak_MiB']} MiB, {row['of_baseline_peak']:.2f} of its"
        limit = "" if row["precision"] == "int8" else f"{row['of_the_roof']:.0%}"  # float32's
        lines.append(
            f"| {row['network']} | {row['precision']} | {row['frames_per_second']:.2f} "
            f"| {row['times_baseline']:.2f} times | {limit} | {memory} "
            f"| {row['dB_to_float32']:.0f} dB |"
        )
    return lines


def of_the_road(pipeline: dict[str, Any]) -> list[str]:
    """File to file against the slowest stage, and memory against length."""
    text = (
        f"File to file ({pipeline['model']}, {pipeline['film']}) takes "
        f"{pipeline['road_over_slowest']:.2f} times what its slowest stage takes alone"
    )
    if "peak_ratio" in pipeline:
        text += (
            f"; 20,000 frames of 64x48 take {pipeline['peak_ratio']:.2f} times the memory of 200 "
            f"({pipeline['peak_20000_frames_MiB']} MiB)"
        )
    return [f"{text} (`tools/bench/pipeline.py`)."]


def of_threads(scaling: dict[str, Any]) -> list[str]:
    """What more threads bring."""
    rows = [row for row in scaling["rows"] if row["against"] == "threads"]
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    gain = first["ms_per_frame"] / last["ms_per_frame"]
    count = last["threads"]
    return [f"{count} threads are {gain:.2f} times as fast as one (`tools/bench/scaling.py`)."]


if __name__ == "__main__":
    main()
