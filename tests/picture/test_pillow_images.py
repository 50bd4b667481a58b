"""The files that Pillow is tested with: each gives a picture or a PictureError, soon and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL
import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "pillow-images" / PIL.__version__

# One worker opens many files. It says which file it is at, so that whatever kills it can be blamed on that file.
WORKER = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
import paintover.picture as picture
from paintover.errors import PictureError
for line in sys.stdin:
    path = line.rstrip("\\n")
    print(json.dumps({"at": path}), flush=True)
    try:
        found = picture.open(path)
        answer = "picture" if found.rgb_HWC.ndim == 3 and found.rgb_HWC.size and found.rgb_HWC.dtype == "uint8" else "no pixels"
    except PictureError as error:
        answer = "refused" if "\\n" not in str(error) and path in str(error) else f"bad message {error!s}"
    except BaseException as error:
        answer = f"leaked {error!r}"
    print(json.dumps({"path": path, "answer": answer}), flush=True)
"""


def test_each_is_a_picture_or_a_picture_error() -> None:
    if not FOLDER.is_dir():
        pytest.skip("python tests/fetch_pillow_images.py fetches the files")
    files = sorted(str(path) for path in FOLDER.rglob("*") if path.is_file())
    assert len(files) > 800
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    answers: dict[str, str] = {}
    for index, worker in enumerate(workers):
        assert worker.stdin is not None
        worker.stdin.write("\n".join(files[index::2]) + "\n")
        worker.stdin.close()
        worker.stdin = None
    for worker in workers:
        try:
            output, _ = worker.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            worker.kill()
            output, _ = worker.communicate()
        for line in map(json.loads, output.splitlines()):
            answers |= {line["at"]: "hung or died"} if "at" in line else {line["path"]: line["answer"]}
    assert set(answers) == set(files)
    wrong = {path: answer for path, answer in answers.items() if answer not in ("picture", "refused")}
    assert not wrong
    # Refusing everything would also leak nothing: most of these files are pictures.
    assert sum(answer == "picture" for answer in answers.values()) > 700
