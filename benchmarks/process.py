"""What a person waits for and pays: wall time and peak memory of whole `paintover` processes.

    python benchmarks/process.py [--repeats 5] [--out benchmarks/process.json]

Runs `paintover --help` and `paintover edit` (built-in model, the example photograph) as fresh processes, in turn, and
prints the median wall time and the largest peak memory. The first run of each warms the disk and is not counted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHOTO = Path(__file__).parent.parent / "examples" / "pictures" / "meadow.jpg"


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of one process. Raises CalledProcessError if it fails."""
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    return time.perf_counter() - began, int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    program = [sys.executable, "-m", "paintover"]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.png")
        commands = {
            "nothing (python -c pass)": [sys.executable, "-c", "pass"],
            "help": [*program, "--help"],
            "edit": [*program, "edit", str(PHOTO), "make it look like dusk", "-o", out, "--force"],
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for repeat in range(options.repeats + 1):
            for name, command in commands.items():
                sample = measure(command)
                if repeat:
                    runs[name].append(sample)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "repeats": options.repeats,
        "processes": {
            name: {
                "seconds_median": round(statistics.median(seconds for seconds, _ in samples), 3),
                "peak_mb": round(max(peak for _, peak in samples)),
            }
            for name, samples in runs.items()
        },
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
