"""The command scripts.export_web: its files and its upload. Nothing is opened in a browser here."""

import hashlib
import json
import re
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny import refused, succeeded

from dreamrun.export import runtime
from dreamrun.export.site import SiteEntry, write_site
from dreamrun.model import WorldModel


@pytest.fixture
def export(run_script, pong_game, empty_runtime, tmp_path):
    """export(*options): run the command; exit code, standard output, standard error."""
    options = ("--checkpoint", pong_game.checkpoint, "--data", pong_game.data, "--out", tmp_path / "site")
    return lambda *more: run_script("export_web", *options, "--runtime", empty_runtime, *more)


@pytest.fixture(scope="module")
def site(tmp_path_factory, pong_game, empty_runtime) -> Path:
    """An exported site. Not to be written to."""
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, [pong_game], "Pong", "int8", empty_runtime)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_exports_have_equal_bytes_and_name_nothing_of_this_machine(export, pong_game, tmp_path):
    assert "python3 -m http.server" in succeeded(export("--title", "My <game>"))
    files = contents(tmp_path / "site")
    pages = {"index.html", "config.json", "LICENSE", "README.md", "worker.js", "stage.js", "prompts/0.png"}
    networks = {"table.bin", "prompts.bin", "model.int8.onnx", "model.fp16.onnx"}
    assert pages | networks | {"runtime/LICENSE", "runtime/ort.wasm.min.mjs"} < files.keys()
    assert export("--title", "My <game>")[0] == 0
    assert contents(tmp_path / "site") == files
    text = b"".join(content for name, content in files.items() if name.endswith((".html", ".js", ".json", ".md")))
    assert str(tmp_path).encode() not in text and str(pong_game.data).encode() not in text
    assert b"<h1>My &lt;game&gt;</h1>" in files["index.html"]


def test_links_are_relative_and_no_other_host_is_named(site):
    links = re.compile(r"""(?:href|src)=["'](?!data:)([^"']*)|url\(([^)]*)\)|(https?://[^\s"'`]+)""")
    for name, content in contents(site).items():
        if name.endswith((".html", ".js", ".css")) and not name.startswith("runtime/"):
            urls = links.findall(content.decode())
            assert all(not url.startswith(("/", "http")) for found in urls for url in found if url), name


def test_the_settings_are_those_of_the_checkpoint(site, pong_game):
    config = json.loads((site / "config.json").read_text())
    model = WorldModel.from_pretrained(pong_game.checkpoint).config
    assert (config["dim"], config["window"], config["blocks"]) == (model.dim, model.window_frames, model.num_blocks)
    assert config["passes"]["2"][1][0] == config["levels"].index(0.5) and len(config["passes"]["4"]) == 4
    assert config["models"] == {"wasm": "model.int8.onnx", "webgpu": "model.fp16.onnx"}
    table_bytes = len(config["levels"]) * (1 + 3) * config["vectors"] * model.dim * 2
    assert config["files"]["table.bin"]["size"] == table_bytes == (site / "table.bin").stat().st_size
    assert config["hello"]["keys"] == {"UP": "up", "DOWN": "down"}
    assert config["step_actions"] == {"noop": 0, "up": 1, "down": 2}


def test_the_page_knows_each_of_its_files(site):
    """Their sizes and hashes, so that a half-loaded or changed one is noticed."""
    config = json.loads((site / "config.json").read_text())
    named = {**config["files"], **{f"runtime/{name}": of for name, of in config["runtime"]["files"].items()}}
    assert {"prompts.bin", "table.bin", "model.int8.onnx", "runtime/ort-wasm-simd-threaded.wasm"} <= named.keys()
    for name, expected in named.items():
        content = (site / name).read_bytes()
        assert expected == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_an_export_replaces_its_own_files_alone(export, site, tmp_path):
    site = shutil.copytree(site, tmp_path / "site")
    first = contents(site)
    (site / ".git" / "objects").mkdir(parents=True)
    mine = {".git/objects/1": "history", "CNAME": "example.org", ".nojekyll": ""}
    for name, text in mine.items():
        (site / name).write_text(text)
    (site / "old.js").write_text("of an earlier version")
    manifest = json.loads((site / "export.json").read_text())
    (site / "export.json").write_text(json.dumps([*manifest, "old.js"]))
    assert export("--title", "New")[0] == 0
    after = contents(site)
    assert after.keys() == first.keys() | mine.keys() and after["index.html"] != first["index.html"]
    assert {name: after[name].decode() for name in mine} == mine
    (site / "export.json").write_text(json.dumps([name for name in manifest if name != "LICENSE"]))
    refused(export(), "LICENSE would be replaced")
    (site / "export.json").unlink()  # a site of an early version
    assert export()[0] == 0 and contents(site)["CNAME"] == b"example.org"


def test_several_games_get_a_page_that_lists_them(pong_game, custom_game, empty_runtime, tmp_path):
    mine = shutil.copytree(custom_game.checkpoint, tmp_path / "mine")
    (tmp_path / "site").mkdir()
    write_site(tmp_path / "site", [pong_game, SiteEntry(mine, custom_game.data)], "My games", "int8", empty_runtime)
    files = contents(tmp_path / "site")
    pages = {"index.html", "page.css", "random/index.html", "mine/index.html"}
    assert pages | {"runtime/ort.webgpu.min.mjs"} < files.keys()
    assert b'<a href="mine/index.html">' in files["index.html"] and b'href="../LICENSE"' in files["mine/index.html"]
    config = json.loads(files["mine/config.json"])
    assert config["runtime"]["folder"] == "../runtime/" and "table.bin" not in config["files"]
    assert config["space"]["unknown"] == [None] * 6 and config["step_actions"]["dx=-1"] == [0, 0, 0, 0, -1, 0]


def test_mistakes_give_one_line(export, run_script, pong_game, empty_runtime, monkeypatch, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "precious.txt").write_text("mine")
    refused(export(), "not empty and not a site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["precious.txt"]
    options = ("--checkpoint", pong_game.checkpoint, "--data", pong_game.data, "--out", tmp_path / "new")
    refused(run_script("export_web", *options, "--runtime", tmp_path), "is not onnxruntime-web", runtime.VERSION)
    (empty_runtime / "old").mkdir(exist_ok=True)
    for name in runtime.ALL_FILES:
        (empty_runtime / "old" / name).write_text("/*! ONNX Runtime Web v1.2.3 */")
    refused(run_script("export_web", *options, "--runtime", empty_runtime / "old"), "another version")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(run_script("export_web", *options), "npm was not found", "--runtime")
    options = ("--checkpoint", pong_game.checkpoint, "--data", pong_game.data, pong_game.data)
    refused(run_script("export_web", *options), "1 checkpoints for 2 data sets")
    assert not (tmp_path / "new").exists()


def test_npm_is_asked_once_and_its_archive_is_checked(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/bin/sh\necho broken >$5/onnxruntime-web.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match="another checksum"):
        runtime.find_runtime()
    npm.write_text("#!/bin/sh\necho 'no such registry' >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"could not download .*no such registry"):
        runtime.find_runtime()
    cache = tmp_path / "cache" / "dreamrun" / f"onnxruntime-web-{runtime.VERSION}"
    assert not cache.exists()
    cache.mkdir(parents=True)
    assert runtime.find_runtime() == cache


def test_exports_at_the_same_time_download_the_runtime_once(empty_runtime, monkeypatch, tmp_path):
    archive, calls = tmp_path / "runtime.tgz", tmp_path / "calls"
    with tarfile.open(archive, "w:gz") as files:
        files.add(empty_runtime, "package/dist")
    (tmp_path / "npm").write_text(f"#!/bin/sh\necho called >>{calls}\nsleep 0.5\ncp {archive} $5\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(runtime, "SHA512", hashlib.sha512(archive.read_bytes()).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with ThreadPoolExecutor(4) as threads:
        folders = list(threads.map(lambda _: runtime.find_runtime(), range(4)))
    assert calls.read_text().split() == ["called"]
    assert len(set(folders)) == 1 and {path.name for path in folders[0].iterdir()} == set(runtime.ALL_FILES)


def test_the_site_is_uploaded_as_a_static_space(export, hub):
    assert "uploaded to" in succeeded(export("--push", "user/name", "--private", "--title", 'Say "dream"'))
    assert hub["created"]["type"] == "space" and hub["created"]["sdk"] == "static"
    assert hub["created"]["visibility"] == "private"
    assert {"index.html", "README.md", "model.fp16.onnx", "runtime/ort.wasm.min.mjs"} <= set(hub["files"])
    readme = hub["files"]["README.md"].decode()
    assert "sdk: static" in readme and "cross-origin-embedder-policy: require-corp" in readme


def test_nothing_is_written_without_a_token(export, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    refused(export("--push", "user/name"), "not logged in", "HF_TOKEN")
    assert not (tmp_path / "site").exists() and hub["created"] is None
