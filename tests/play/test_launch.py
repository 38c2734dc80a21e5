"""The command scripts.play and its options."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from gradio import networking
from playing import request, serving
from tiny import assert_one_line, command


def test_share_opens_a_tunnel_and_needs_the_password(play_config, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(networking, "setup_tunnel", lambda **options: calls.append(options) or "http://abc.gradio.live")
    monkeypatch.setenv("SECRET", "open sesame")
    with serving(replace(play_config, share=True, password_env="SECRET")) as address:
        assert calls[0]["local_port"] == int(address.rsplit(":", 1)[1])
        assert "shared at https://abc.gradio.live" in capsys.readouterr().out
        status, _, body = request(address, "/", Host="abc.gradio.live")
        assert status == 200 and b'"auth_required":true' in body
        assert b"amazonaws" not in body  # otherwise the page loads its front end from a foreign host
        assert request(address, "/config", Host="abc.gradio.live")[0] == 401


def test_a_tunnel_that_cannot_be_opened_is_one_line_of_error(play_config, monkeypatch, capsys):
    def fail(**_):
        raise OSError("no network")

    monkeypatch.setattr(networking, "setup_tunnel", fail)
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--share")
    code, _, err = command(monkeypatch, capsys, "scripts.play", *options, "--no-password")
    assert_one_line(code, err, "--share", "could not open a tunnel")


def test_sigterm_ends_the_server_and_runs_the_exit_handlers(play_config):
    """Gradio ends the tunnel's program in an exit handler."""
    program = (
        "import atexit, sys; atexit.register(print, 'exit handlers ran');"
        "sys.argv[0] = 'play'; import runpy; runpy.run_module('scripts.play', run_name='__main__')"
    )
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--num-steps", 1)
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, options)], stdout=subprocess.PIPE, text=True)
    while "play at http://" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert "exit handlers ran" in process.communicate(timeout=120)[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "nowhere/at/all"), ("no checkpoint at nowhere/at/all",)),
        (("--data", "nowhere"), ("no data set at nowhere",)),
        (("--split", "holdout"), ("holdout",)),
        (("--host", "0.0.0.0"), ("--host 0.0.0.0 lets others connect", "--password-env", "--no-password")),
        (("--share",), ("--share lets others connect",)),
        (("--password-env", "NOT_SET"), ("NOT_SET", "not set")),
        (("--password-env", "X", "--no-password"), ("contradict",)),
        (("--port", 99999), ("port is 99999",)),
        (("--fps", 0), ("fps is 0",)),
        (("--num-steps", 0), ("num_steps is 0",)),
        (("--max-players", 0), ("max_players is 0",)),
        (("--follow",), ("no checkpoint to follow",)),
        (("--host", "203.0.113.7", "--no-password"), ("cannot listen on 203.0.113.7",)),
    ],
)
def test_wrong_options_give_one_line_of_error(monkeypatch, capsys, play_config, pong_set, options, words):
    defaults = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--port", 0)
    assert_one_line(*command(monkeypatch, capsys, "scripts.play", *defaults, *options)[::2], *words)


def test_a_missing_checkpoint_folder_is_not_looked_up_on_the_hub(monkeypatch, capsys, tmp_path, pong_set):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    options = ("--checkpoint", "checkpoints/absent", "--data", pong_set, "--port", 0)
    code, _, err = command(monkeypatch, capsys, "scripts.play", *options)
    assert_one_line(code, err, "no checkpoint at checkpoints/absent: train one")
