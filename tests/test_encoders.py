"""Published encoders: fetched with a user's own token, then read without any connection."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
import torch
from safetensors.torch import save

COMMIT = "1f" * 20
FETCH = """
import json, os, sys
from mil_workbench.jobs.cli import main
for name, token in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    os.environ |= {"HF_TOKEN": token} if token else {}
    print(main(["fetch-weights", name]), flush=True)
"""
TRAIN = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise AssertionError(f"a run opens a connection: {event} {arguments}")
sys.addaudithook(refuse)
from mil_workbench.record.parameters import defaults_of, shipped_parameters
from mil_workbench.workflows.run_many import run_once
defaults = defaults_of(shipped_parameters("train"))
given = {"cohort": "mri-phantom-small", "n_folds": 3, "epochs": 1, "device": "cpu", "slice_size": 32, "study": "s"}
given |= {"encoder": "timm:test_vit.r160_in1k", "run_name": "r", "warmup_epochs": 0}
run_once(defaults | given, defaults)
"""


@pytest.fixture(scope="module")
def weights() -> dict[str, bytes]:
    "The files of a small encoder's snapshot, with random weights."
    torch.manual_seed(0)
    network = timm.create_model("test_vit")
    facts = {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3}}
    return {"config.json": json.dumps(facts).encode(), "model.safetensors": save(network.state_dict())}


@pytest.fixture(scope="module")
def hub(weights):
    "A server that answers as the Hugging Face hub does, and the requests that it got."
    requests = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self, status, content=b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_GET(self):
            requests.append(self.path)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token == "hf_wrong":
                return self.answer(401, X_Error_Message="Invalid credentials in Authorization header")
            if self.path.startswith("/api/models/"):
                files = [{"type": "file", "path": name, "oid": "0", "size": len(weights[name])} for name in weights]
                return self.answer(200, json.dumps(files).encode(), Content_Type="application/json")
            if "UNI2-h" in self.path:
                waits = {"X_Error_Message": "Your request to access model MahmoodLab/UNI2-h is awaiting a review"}
                more = waits if token == "hf_waiting" else {}
                return self.answer(403 if token else 401, X_Error_Code="GatedRepo", **more)
            content = weights[self.path.rsplit("/", 1)[1]]
            facts = {"X_Repo_Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            return self.answer(200, content, **facts)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()


def python(code, *arguments, folder, **environment):
    folder.mkdir(exist_ok=True)
    (folder / "settings.ini").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    cache = {"HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=kept | cache | environment)


def test_fetching_says_what_is_missing_and_runs_then_open_no_connection(tmp_path, hub):
    endpoint, requests = hub
    tries = [("uni2_h", token) for token in (None, "hf_stranger", "hf_waiting", "hf_wrong")]
    tries += [("timm:test_vit.r160_in1k", None)]
    done = python(FETCH, json.dumps(tries), folder=tmp_path / "project", HF_ENDPOINT=endpoint)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mil-workbench: ")]
    page = "(CC BY-NC-ND 4.0) at https://huggingface.co/MahmoodLab/UNI2-h"
    for line, start, part in zip(
        lines,
        ("there is no Hugging Face token", "your account has no access", "its authors have not yet", "the hub does"),
        (page, page, "answered your request for MahmoodLab/UNI2-h", "not accept your token"),
        strict=True,
    ):
        assert line.startswith(f"mil-workbench: encoder uni2_h: {start}") and part in line, line
    codes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert codes == ["2", "2", "2", "2", "0"], done.stderr[-2000:]
    assert f"snapshots/{COMMIT}/model.safetensors" in done.stdout

    n_requests = len(requests)
    done = python(TRAIN, folder=tmp_path / "project", HF_ENDPOINT=endpoint)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(requests) == n_requests
    metrics = tmp_path / "project" / "papermill_runs" / "s" / "r" / "metrics.json"
    assert metrics.exists()


def test_without_a_way_to_the_hub(tmp_path):
    done = python(FETCH, json.dumps([("rad_dino", None)]), folder=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "rad_dino: microsoft/rad-dino cannot be reached" in done.stderr.splitlines()[-1], done.stderr[-2000:]
