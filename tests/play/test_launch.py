"""The command scripts.play and its options."""

import sys
import types
import urllib.request
from dataclasses import replace

import pytest
from playing import serving
from tiny import assert_one_line, command


def test_share_opens_a_tunnel_and_needs_the_password(play_config, monkeypatch, capsys):
    calls = []
    gradio = types.ModuleType("gradio.networking")
    gradio.setup_tunnel = lambda *arguments: calls.append(arguments) or "https://abc.gradio.live"
    monkeypatch.setitem(sys.modules, "gradio.networking", gradio)
    monkeypatch.setenv("SECRET", "open sesame")
    with serving(replace(play_config, share=True, password_env="SECRET")) as address:
        port = int(address.rsplit(":", 1)[1])
        assert calls[0][:2] == ("127.0.0.1", port)
        assert "shared at https://abc.gradio.live" in capsys.readouterr().out
        request = urllib.request.Request(address, headers={"Host": "abc.gradio.live"})
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)


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
    code, _, err = command(monkeypatch, capsys, "scripts.play", "--data", pong_set, "--port", 0)
    assert_one_line(code, err, "no checkpoint at checkpoints/coinrun-nano: train one")
