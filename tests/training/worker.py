"""Trains in a process of its own, for tests that kill it: worker.py OUT WORLD PHOTOS TEXT RECIPE [WORKERS] [die-writing]."""

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    out, world, photos, text, recipe = sys.argv[1:6]
    from paintover.training import checkpoint
    from paintover.training.denoiser import train
    from paintover.training.recipe import Recipe
    from paintover.training.text import load

    if "die-writing" in sys.argv:
        whole, calls = checkpoint.save_file, []

        def half(tensors, file):
            calls.append(file)
            whole(tensors, file)
            if len(calls) == 2:
                os.truncate(file, file.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.save_file = half
    workers = int(sys.argv[6]) if len(sys.argv) > 6 and sys.argv[6].isdigit() else 0
    train(Path(out), Recipe(**json.loads(recipe)), Path(world), Path(photos), load(Path(text)), workers=workers)


if __name__ == "__main__":
    main()
