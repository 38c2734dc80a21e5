"""Places, the waiting list, and recorded files."""

import os
import time
from dataclasses import replace

import pytest
from playing import Client, raw_connection, record, recorded_file, serving

from dreamrun.play.server import delete_old_files


def test_players_without_a_place_wait_until_one_is_free(play_config):
    with serving(replace(play_config, max_players=1), max_waiting=2) as address, Client(address) as first:
        first.join()
        first.start()
        with Client(address) as second, Client(address) as third:
            assert second.wait_for("wait")["ahead"] == 0
            assert third.wait_for("wait")["ahead"] == 1
            with Client(address) as fourth, pytest.raises(Exception, match="too many players are waiting"):
                fourth.join()
            second.send("start", record=0)  # does nothing
            left = time.monotonic()
            first.socket.close()
            second.join()
            assert time.monotonic() - left < 3
            assert third.wait_for("wait")["ahead"] == 0
            second.start()
            assert second.step().header["frame"] == 1


def test_idle_players_are_paused_and_lose_their_place_to_a_waiting_one(play_config):
    config = replace(play_config, max_players=1)
    with serving(config, idle_secs=0.5, release_secs=2.0) as address, Client(address) as first:
        first.join()
        first.start()
        first.send("pause", on=False)
        first.wait_for("frame")
        while "not pressed a key" not in first.wait_for("paused")["reason"]:
            pass  # the answer to our own "pause" message comes first
        with Client(address) as second:
            second.join()
            with pytest.raises(Exception, match="another player was waiting"):
                while True:
                    first.receive()


def test_a_browser_that_reads_nothing_loses_its_place(play_config):
    """The server drops frames that the browser does not read, then closes the connection."""
    config = replace(play_config, max_players=1, fps=120, num_steps=1)
    with (
        serving(config, send_secs=1.0) as address,
        Client(address, sock=raw_connection(address, small=True), max_queue=1) as stuck,
    ):
        stuck.join().start()
        stuck.send("pause", on=False)
        with Client(address) as second:  # gets the place although `stuck` never disconnects
            second.join().start()
            assert second.step().header["frame"] >= 1


def test_recordings_are_deleted_when_their_player_leaves(play, address):
    client = play()
    client.start()
    recorded = record(client, 2)[0]
    assert recorded_file(address, recorded, "dream.json")
    with pytest.raises(KeyError):
        recorded_file(address, {"place": "guessed"}, "dream.json")
    client.close()
    time.sleep(0.5)
    with pytest.raises(KeyError):
        recorded_file(address, recorded, "dream.json")


def test_old_and_too_many_files_are_deleted(tmp_path):
    now = time.time()
    for name, age in (("gallery", 9000), ("ancient", 4000), ("older", 60), ("newer", 40), ("newest", 20)):
        path = tmp_path / name / "file"
        path.parent.mkdir()
        path.write_bytes(bytes(10))
        os.utime(path, (now - age, now - age))
    delete_old_files(tmp_path, keep={tmp_path / "gallery" / "file"}, max_bytes=25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery", "newer", "newest"]
