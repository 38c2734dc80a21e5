"""The command `dreamrun`."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import assert_one_line, config_class

import dreamrun
from dreamrun import cli

ROOT = Path(__file__).parent.parent


def dreamrun_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "dreamrun", *arguments],
        cwd=folder, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True,
    )  # fmt: skip


def test_every_command_is_in_the_table_with_its_options():
    modules = {module for module, _ in cli.COMMANDS.values()}
    scripts = {f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("*.py")} - {"scripts.__init__"}
    assert modules == scripts | {"train_world_model"}
    for name in modules:
        assert config_class(importlib.import_module(f"dreamrun.{name}"))


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_list_of_commands_needs_no_slow_imports(arguments, tmp_path):
    start = time.perf_counter()
    result = dreamrun_command(*arguments, folder=tmp_path)
    assert time.perf_counter() - start < 2  # 0.1 on an idle machine
    assert result.returncode == 0 and all(f"  {name} " in result.stdout for name in cli.COMMANDS)
    code = "import sys, dreamrun.cli; print({'torch', 'numpy', 'tyro'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_command_has_its_own_help(tmp_path):
    result = dreamrun_command("visualize", "--help", folder=tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("usage: dreamrun visualize ")
    assert "\ndreamrun visualize --data datasets/coinrun --check\n" in result.stdout and "--shard" in result.stdout


def test_mistakes_give_one_line(tmp_path):
    for arguments, words in (
        (("plya",), ("no command 'plya'", "did you mean play?")),
        (("visualize", "--data", "nowhere", "--check"), ("no data set at nowhere", "dreamrun collect")),
        (("visualize", "--nonsense"), ("nonsense",)),
    ):
        result = dreamrun_command(*arguments, folder=tmp_path)
        assert_one_line(result.returncode, result.stderr, *words)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", "auto"), ("--compile", "on"), ("--compile --seed 1", "on"), ("--compile auto", "auto"),
        ("--compile=off", "off"), ("--no-compile", "off"), ("--compile --no-compile", "off"),
    ],
)  # fmt: skip
def test_an_option_that_was_a_flag_still_stands_alone(monkeypatch, words, value):
    from dreamrun.training.train_config import TrainConfig

    monkeypatch.setattr(sys, "argv", ["train", "--data", "a", "--out", "b", *words.split()])
    assert cli._parse(TrainConfig, None).compile == value


def test_a_missing_library_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "dreamrun.scripts.export_onnx", raising=False)
    for name in [name for name in sys.modules if name.startswith("dreamrun.export.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", ["dreamrun", "export-onnx"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert_one_line(stop.value.code, capsys.readouterr().err, "onnx is not installed", "dreamrun[export]")


def test_names_of_the_package_are_imported_at_their_first_use():
    code = "import sys, dreamrun; print('torch' in sys.modules, hasattr(dreamrun, 'Sampler'), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False True True\n"
    assert all(getattr(dreamrun, name) for name in dreamrun.__all__) and set(dreamrun.__all__) <= set(dir(dreamrun))
