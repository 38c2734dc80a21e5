"""The command scripts.upload_checkpoint, against a local fake of the Hub's HTTP interface."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch
from tiny import TINY, assert_one_line, command, random_model

from model import WorldModel
from training.logging import MetricsLog

COMMIT = "c" * 40


class FakeHub(BaseHTTPRequestHandler):
    """The requests that create, commit to and read a model repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, body=b"", **headers):
        body = json.dumps(body).encode() if isinstance(body, dict | list) else body
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        state = self.server.state
        if self.headers.get("Authorization") != "Bearer secret":
            return self.reply(401, {"error": "who are you?"})
        if self.path == "/api/repos/create":
            state["created"] = json.loads(body)
            return self.reply(200, {"url": f"{self.server.url}/user/name"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    state["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            response = {
                "commitUrl": f"{self.server.url}/user/name/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            }
            return self.reply(200, response)
        return self.reply(200, {})

    def do_GET(self):
        files = self.server.state["files"]
        if match := re.match(r"/user/name/resolve/\w+/(.+)", self.path):
            content = files.get(match.group(1))
            if content is None:
                return self.reply(404, X_Error_Code="EntryNotFound")
            return self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        if self.path.startswith("/api/models/user/name"):
            siblings = [{"rfilename": name} for name in files]
            tree = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()]
            response = tree if "/tree/" in self.path else {"id": "user/name", "sha": COMMIT, "siblings": siblings}
            return self.reply(200, response)
        return self.reply(404, {"error": "nothing here"})

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running fake Hub. Its state: the created repository and the committed files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.state = {"created": None, "files": {}}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
    }
    for name, value in values.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield server.state
    server.shutdown()
    server.server_close()


def test_an_uploaded_checkpoint_can_be_loaded(hub, monkeypatch, capsys, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoints" / "step_0000020"
    model = random_model()
    model.save_pretrained(checkpoint)
    (checkpoint / "training_state.pt").write_bytes(b"large and private")
    (checkpoint.parent / "latest").symlink_to("step_0000020")
    log = MetricsLog(tmp_path / "run", 0, "off", "p", None, {})
    for step, loss in ((10, 0.5), (20, 0.25), (30, 0.125)):
        log.log(step, {"val/loss": loss})
    code, _, err = command(
        monkeypatch, capsys, "scripts.upload_checkpoint",
        "--checkpoint", checkpoint.parent / "latest", "--repo", "user/name", "--private",
    )  # fmt: skip
    assert code == 0, err
    assert hub["created"]["visibility"] == "private"
    assert set(hub["files"]) == {"README.md", "config.json", "game.json", "model.safetensors"}
    card = hub["files"]["README.md"].decode()
    assert "| val/loss | 0.25 |" in card and "step_0000020" in card and f"| prediction | {TINY.prediction} |" in card

    loaded = WorldModel.from_pretrained("user/name", cache_dir=tmp_path / "cache")
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_nothing_is_uploaded_without_a_token(hub, monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.delenv("HF_TOKEN")
    options = ("--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    code, _, err = command(monkeypatch, capsys, "scripts.upload_checkpoint", *options)
    assert_one_line(code, err, "not logged in", "hf auth login", "HF_TOKEN")
    assert hub["created"] is None


def test_wrong_options_give_one_line_of_error(hub, monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    for checkpoint, repo, word in (
        (tmp_path / "absent", "user/name", "no checkpoint at"),
        (tmp_path / "checkpoint", "no/such/name", "the Hub refused no/such/name"),
    ):
        options = ("--checkpoint", checkpoint, "--repo", repo)
        code, _, err = command(monkeypatch, capsys, "scripts.upload_checkpoint", *options)
        assert_one_line(code, err, word)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    options = ("--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    code, _, err = command(monkeypatch, capsys, "scripts.upload_checkpoint", *options)
    assert_one_line(code, err, "the Hub refused user/name", "401")
    assert hub["files"] == {}


def test_upload_without_a_network(hub, monkeypatch, capsys, tmp_path):
    random_model().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    options = ("--checkpoint", tmp_path / "checkpoint", "--repo", "user/name")
    code, _, err = command(monkeypatch, capsys, "scripts.upload_checkpoint", *options)
    assert_one_line(code, err, "user/name could not be uploaded to http://127.0.0.1:9", "Connection refused")
