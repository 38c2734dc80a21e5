"""The command scripts.play and its options."""

import contextlib
import os
import signal
from dataclasses import replace
from unittest.mock import patch

import pytest
from playing import request, serving
from tiny import command, refused

from dreamrun.play import launch
from dreamrun.play.launch import running_app


def test_share_opens_a_tunnel_and_needs_the_password(play_config, monkeypatch, capsys):
    calls, tunnel = [], "http://abc.gradio.live"
    monkeypatch.setattr("gradio.networking.setup_tunnel", lambda **options: calls.append(options) or tunnel)
    monkeypatch.setenv("SECRET", "open sesame")
    with serving(replace(play_config, share=True, password_env="SECRET")) as address:
        assert calls[0]["local_port"] == int(address.rsplit(":", 1)[1])
        assert "shared at https://abc.gradio.live" in capsys.readouterr().out
        status, _, body = request(address, "/", Host="abc.gradio.live")
        assert status == 200 and b'"auth_required":true' in body
        assert b"amazonaws" not in body  # otherwise the page loads its front end from a foreign host
        assert request(address, "/config", Host="abc.gradio.live")[0] == 401


def test_a_tunnel_that_cannot_be_opened_is_one_line_of_error(play_config, monkeypatch, run_script):
    def fail(**_):
        raise OSError("no network")

    monkeypatch.setattr("gradio.networking.setup_tunnel", fail)
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--share")
    refused(run_script("play", *options, "--no-password"), "--share", "could not open a tunnel")


def test_sigterm_ends_the_server_as_ctrl_c_does(play_config, monkeypatch, run_script):
    """So exit handlers run, of which one of Gradio's ends the tunnel's program."""
    addresses, before = [], signal.getsignal(signal.SIGTERM)

    @contextlib.contextmanager
    def running_until_sigterm(config):
        with running_app(config) as app:
            addresses.append(app.address)
            signal.raise_signal(signal.SIGTERM)
            yield app

    monkeypatch.setattr(launch, "running_app", running_until_sigterm)
    options = ("--checkpoint", play_config.checkpoint, "--data", play_config.data, "--port", 0, "--num-steps", 1)
    try:
        with patch.dict(os.environ):
            code, _, err = run_script("play", *options)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 130 and err.splitlines()[-1] == "stopped"
    with pytest.raises(ConnectionRefusedError):
        request(addresses[0], "/")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "nowhere/at/all"), ("no checkpoint at nowhere/at/all",)),
        (("--host", "0.0.0.0"), ("--host 0.0.0.0 lets others connect", "--password-env", "--no-password")),
        (("--share",), ("--share lets others connect",)),
        (("--password-env", "NOT_SET"), ("NOT_SET", "not set")),
        (("--password-env", "X", "--no-password"), ("contradict",)),
        (("--port", 99999), ("port is 99999",)),
        (("--fps", 0), ("fps is 0",)),
        (("--max-players", 0), ("max_players is 0",)),
        (("--follow",), ("no checkpoint to follow",)),
        (("--host", "203.0.113.7", "--no-password"), ("cannot listen on 203.0.113.7",)),
    ],
)
def test_wrong_options_give_one_line_of_error(play_config, pong_set, options, words, run_script):
    defaults = ("--checkpoint", play_config.checkpoint, "--data", pong_set, "--port", 0)
    refused(run_script("play", *defaults, *options), *words)


def test_a_missing_checkpoint_folder_is_not_looked_up_on_the_hub(monkeypatch, capsys, tmp_path, pong_set):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    options = ("--checkpoint", "checkpoints/absent", "--data", pong_set, "--port", 0)
    refused(command(monkeypatch, capsys, "scripts.play", *options), "no checkpoint at checkpoints/absent: train one")
