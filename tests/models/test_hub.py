"""The hub, against a server of our own on this machine: huggingface_hub's real client, real files, no network."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from paintover.errors import ModelError
from paintover.models.hub import choose

REVISION = "0123456789abcdef0123456789abcdef01234567"
FETCH = """
import json, sys
from paintover.errors import ModelError
from paintover.models import fingerprint, list_bundles
from paintover.models.hub import fetch
try:
    folder, name = fetch(sys.argv[1])
    print(json.dumps([name, fingerprint(folder), [b.name for b in list_bundles() if b.where == "cache"]]))
except ModelError as error:
    print(error)
    sys.exit(2)
assert "torch" not in sys.modules, "finding a bundle needs no torch"
"""


def in_new_process(name, cache, **environment):
    """The client reads its settings at import, so each case has a process of its own."""
    env = {**os.environ, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run([sys.executable, "-c", FETCH, name], env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.strip(), done.stderr


class Hub(http.server.BaseHTTPRequestHandler):
    folder = None
    asked: list[str]

    def answer(self, body, headers=()):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        self.asked.append(self.path)
        files = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/tiny"):
            siblings = [{"rfilename": name} for name in [*files, "v1-pruned.ckpt", "unet/diffusion_pytorch_model.bin"]]
            info = {"id": "me/tiny", "modelId": "me/tiny", "sha": REVISION, "siblings": siblings}
            if "/tree/" in path:
                info = [{"type": "file", "path": name, "oid": "0" * 40, "size": files[name].stat().st_size} for name in files]
            return self.answer(json.dumps(info).encode(), [("Content-Type", "application/json")])
        prefix = f"/me/tiny/resolve/{REVISION}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in files:
            body = files[path.removeprefix(prefix)].read_bytes()
            etag = f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"'
            return self.answer(body, [("ETag", etag), ("X-Repo-Commit", REVISION)])
        return self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tiny_bundle):
    handler = type("TinyHub", (Hub,), {"folder": tiny_bundle("instruct"), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        server.asked = handler.asked
        yield server
        server.shutdown()


def test_a_bundle_is_fetched_once_pinned_and_then_works_offline(hub, tmp_path, tiny_bundle):
    from paintover.models import fingerprint

    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    code, out, err = in_new_process("me/tiny", tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
    assert code == 0, out + err
    expected = [f"me/tiny@{REVISION}", fingerprint(tiny_bundle("instruct")), [f"me/tiny@{REVISION}"]]
    assert json.loads(out) == expected
    assert not any(path.endswith((".bin", ".ckpt")) for path in hub.asked)
    hub.asked.clear()
    for name in ("me/tiny", f"me/tiny@{REVISION}"):
        code, out, err = in_new_process(name, tmp_path, HF_HUB_OFFLINE="1")
        assert (code, json.loads(out or "null")) == (0, expected), err
    assert hub.asked == []


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}],
    ids=["offline", "unreachable"],
)
def test_a_bundle_that_cannot_be_had_is_one_line(tmp_path, environment):
    code, out, err = in_new_process("nobody/nothing", tmp_path, **environment)
    assert code == 2, err
    assert out.startswith("bundle nobody/nothing is not in the local cache")
    assert len(out.splitlines()) == 1


def test_one_precision_of_each_part_is_chosen_and_no_pickle():
    both = [
        "README.md",
        "model_index.json",
        "v1-5-pruned.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model.safetensors.index.fp16.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
    ]
    assert set(both) - set(choose(both, "x/y")) == {
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "text_encoder/model.safetensors.index.fp16.json",
        "safety_checker/model.safetensors",
    }
    with pytest.raises(ModelError, match="no safetensors in unet/"):
        choose([name for name in both if not name.startswith("unet/diffusion") or name.endswith(".bin")], "x/y")
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        choose(["README.md"], "x/y")
