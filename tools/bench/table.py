"""What every bench prints: one table with device, versions and commit; also written as JSON."""

import json
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any


def show(bench: str, rows: list[dict[str, Any]], device: Any) -> None:
    """Print the rows as a table and write ``bench`` (a script's path) as JSON with its facts."""
    import torch

    name = torch.cuda.get_device_name() if str(device) != "cpu" else f"CPU, {cpu_threads()} threads"
    facts = {
        "device": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")
    result = json.dumps(facts | {"rows": rows}, indent=1) + "\n"
    Path(bench).with_suffix(".json").write_text(result)


def cpu_threads() -> int:
    """How many threads torch computes with."""
    import torch

    return torch.get_num_threads()


def peak_mib() -> int:
    """The most memory that this process held.

    Of Linux, where getrusage begins with what the parent held.
    """
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def commit() -> str:
    """The short hash of what was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
