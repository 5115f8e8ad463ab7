"""What every bench prints: one table with device, versions and commit; also written as JSON."""

import json
import platform
import subprocess
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


def commit() -> str:
    """The short hash of what was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
