"""The package from a wheel: in a fresh environment, and an empty folder that holds a package `model` of its own."""

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from playing import Client

ROOT = Path(__file__).parent.parent


def test_every_package_is_packaged():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {path.relative_to(ROOT).parent for path in ROOT.glob("*/**/*.py") if path.name == "__init__.py"}
    found = {folder for folder in found if folder.parts[0] not in (".venv", "build", "tests", "datasets", "runs")}
    assert set(packages) == {"dreamrun", *("dreamrun." + ".".join(folder.parts) for folder in found)}


class Installed:
    """An environment with the wheel. Commands run in `folder`."""

    def __init__(self, home: Path):
        source, self.bin, self.folder = home / "source", home / "venv" / "bin", home / "empty"
        (self.folder / "model").mkdir(parents=True)
        (self.folder / "model" / "__init__.py").write_text("raise AssertionError('the user has a package model, too')")
        tracked = subprocess.check_output(("git", "ls-files", "-z"), cwd=ROOT, text=True).split("\0")
        for name in tracked:  # setuptools writes into the folder
            if name and not name.startswith(("docs/", "tests/")) and (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes((ROOT / name).read_bytes())
        subprocess.run((sys.executable, "-m", "venv", home / "venv"), check=True)
        self.run("pip", "install", "--quiet", f"torch=={torch.__version__.partition('+')[0]}", source, folder=home)

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(self, program: str, *arguments, folder: Path | None = None) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=folder or self.folder, env=self.environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert result.returncode in (0, 2), result.stderr
        return result

    def plays(self) -> None:
        """A frame follows a key."""
        command = [self.bin / "dreamrun", "play", "--port", "0"]
        server = subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdout=subprocess.PIPE, text=True)
        try:
            while not (address := re.search(r"play at (http://\S+)", server.stdout.readline())):
                assert server.poll() is None
            with Client(address[1]) as client:
                client.join().start()
                first, second = client.step(("RIGHT",)), client.step(("RIGHT",))
                assert client.hello["actions"][first.header["action"]] == "right"
                assert (first.pictures != second.pictures).any()
        finally:
            server.terminate()
            server.communicate(timeout=60)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_commands_and_the_api_of_the_readme_run_from_a_wheel(installed):
    start = time.perf_counter()
    assert "export-web" in installed.run("dreamrun", "--help").stdout
    assert time.perf_counter() - start < 0.5
    installed.plays()
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        result = installed.run("python", "-c", example)
        assert result.returncode == 0, result.stderr
    for command in ("infer --num-samples 1 --num-frames 8", "infer --checkpoint pong-pico --data pong --num-frames 8"):
        result = installed.run("dreamrun", *command.split())
        assert result.returncode == 0 and "wrote dream.mp4" in result.stdout, result.stderr


@pytest.mark.slow
def test_training_runs_from_a_wheel(installed):
    collect = ("--env", "pong", "--records", 4, "--val-records", 2, "--test-records", 2, "--out", "set")
    result = installed.run("dreamrun", "collect", *collect)
    assert result.returncode == 0, result.stderr
    few = ("--preset", "pico", "--batch-size", 2, "--max-steps", 1, "--val-batches", 1, "--epoch-clips", 2)
    result = installed.run("dreamrun", "train", "--data", "set", "--out", "run", "--init-from", "pong-pico", *few)
    assert "dream with it: dreamrun infer" in result.stdout, result.stderr


@pytest.mark.slow
def test_what_is_missing_is_one_line(installed):
    for command, word in (
        ("collect --env coinrun --records 1 --out real", "pip install --no-deps procgen-mirror"),
        ("collect --env ale:pong --records 1 --out real", "dreamrun[atari]"),
        ("train-agent --env dream --checkpoint pong-pico --data pong --out agent", "dreamrun[rl]"),
        ("export-onnx --checkpoint pong-pico --out model.onnx", "dreamrun[export]"),
    ):
        result = installed.run("dreamrun", *command.split())
        assert result.returncode == 2 and word in result.stderr and "Traceback" not in result.stderr, result.stderr


@pytest.mark.slow
def test_procgen_beside_the_package(installed):
    installed.run("pip", "install", "--quiet", "--no-deps", "-r", ROOT / "requirements-procgen.txt")
    collect = ("--env", "coinrun", "--records", 2, "--val-records", 1, "--test-records", 1, "--out", "coinrun-set")
    result = installed.run("dreamrun", "collect", *collect)
    assert result.returncode == 0, result.stderr
    installed.plays()
