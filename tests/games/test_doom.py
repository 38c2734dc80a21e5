"""Doom by ViZDoom: names, actions, the mouse, moments that are replayed, and its data sets."""

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from playing import PlayConfig, random_checkpoint
from tiny import in_this_process, refused

from dreamrun.data import collecting
from dreamrun.data.alignment import check_alignment
from dreamrun.data.collecting import CollectConfig, collect
from dreamrun.data.index import split_shards
from dreamrun.data.metadata import read_metadata
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.shards import ShardReader
from dreamrun.evaluation.counterfactuals import collect_counterfactuals
from dreamrun.games import gymnasium as gymnasium_games
from dreamrun.games.doom import SCENARIOS
from dreamrun.games.factory import describe_environment, make_environment
from dreamrun.games.game import Game
from dreamrun.games.policies import make_policy
from dreamrun.play.launch import load_engines

GAMES = [(name, mouse) for name in (*SCENARIOS, "freedoom2-MAP01") for mouse in (False, True)]
GAMES.remove(("take_cover", True))
needs_vizdoom = pytest.mark.usefixtures("vizdoom")


@pytest.fixture(scope="module")
def vizdoom():
    return pytest.importorskip("vizdoom")


def play_randomly(environment, num_steps, seed):
    """Frames, rewards and ends of that many steps."""
    rng, space = np.random.default_rng(seed), environment.actions
    return [environment.step(space.random(rng, environment.num_envs)) for _ in range(num_steps)]


def assert_same_steps(one, other):
    for (*values, info), (*other_values, other_info) in zip(one, other, strict=True):
        assert all(map(np.array_equal, values, other_values))
        assert np.array_equal(info["level_seed"], other_info["level_seed"])


# Names and options


@needs_vizdoom
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("no_such", (), ("is not the name of a Doom game", "my_way_home", "freedoom2-MAP01")),
        ("freedoom2-MAP77", (), ("freedoom2.wad has no map MAP77: choose MAP01, MAP02",)),
        ("none.wad:MAP01", (), ("cannot read", "none.wad: No such file")),
        ("junk.wad:MAP01", (), ("junk.wad is not a WAD",)),
        ("empty.wad:MAP01", (), ("empty.wad has no map MAP01: choose another file",)),
        ("take_cover", ("--mouse",), ("doom:take_cover has no mouse",)),
        ("my_way_home", ("--size", "1000x700"), ("size is '1000x700': Doom is drawn in at most 640x480",)),
        ("my_way_home", ("--frame-skip", "101"), ("frame_skip is 101",)),
    ],
)
def test_mistakes(run_script, name, options, words):
    Path("junk.wad").write_text("no wad at all")
    Path("empty.wad").write_bytes(b"PWAD" + bytes(8))
    refused(run_script("collect", "--env", f"doom:{name}", *options, "--out", "set"), *words)
    assert not Path("set").exists() and not Path("set.partial").exists()


def test_missing_vizdoom(monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(ValueError, match=r"ViZDoom is not installed: pip install .dreamrun\[doom\]"):
        make_environment("doom:my_way_home", 1)


def test_a_wad_is_opened_only_if_the_user_typed_its_name(vizdoom, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gymnasium_games, "_typed_modules", set())
    name = f"doom:{Path(vizdoom.scenarios_path) / 'basic.wad'}:MAP01"
    with pytest.raises(ValueError, match=r"is not opened because a file names it: .* --env-module .*basic.wad"):
        describe_environment(name)
    with closing(make_environment(name, 1, import_modules=True)) as environment:
        assert len({frames.tobytes() for frames, *_ in play_randomly(environment, 5, seed=0)}) > 1
    assert describe_environment(name).actions == environment.actions  # typed once, it may be named by files
    assert not list(tmp_path.iterdir())  # the engine's own files


def test_a_title_has_no_folder():
    assert Game("doom:/home/me/my maps/cave.wad:MAP01").title == "doom:cave.wad:MAP01"
    assert Game("doom:my_way_home").title == "doom:my_way_home"


# Actions


@needs_vizdoom
def test_keys():
    maze, arena, cover = (
        describe_environment(f"doom:{name}").actions for name in ("my_way_home", "defend_the_center", "take_cover")
    )
    for space, held, name in (
        (maze, [], "noop"),
        (maze, ["UP", "LEFT"], "forward+left"),
        (maze, ["w", "d"], "forward+right"),
        (maze, ["SHIFT", "LEFT"], "strafe_left"),
        (maze, ["SHIFT", "W", "A"], "forward+strafe_left"),
        (arena, ["SPACE", "RIGHT"], "right+attack"),
        (cover, ["A"], "strafe_left"),
        (cover, ["RIGHT"], "strafe_right"),
    ):
        assert space.format(space.action_for_keys(held)) == name
    mouse = describe_environment("doom:freedoom2-MAP01", {"mouse": True}).actions
    assert mouse.format(mouse.action_for_keys(["W", "A", "SPACE", "RIGHT"])) == "strafe_left+forward+attack+turn=1"
    assert mouse.kinds == ("button",) * 6 + ("axis",) and mouse.scales[-1] == 10


@needs_vizdoom
def test_the_mouse_turns_by_degrees():
    """Thirty-six times ten degrees lead back to the first picture, and left undoes right."""
    for frame_skip in (1, 2):
        options = {"mouse": True, "frame_skip": frame_skip}
        with closing(make_environment("doom:my_way_home", 1, seed=1, options=options)) as environment:
            for _ in range(20):  # until the player has landed
                start = environment.step([environment.actions.noop])[0].astype(int)
            turned = [environment.step([environment.actions.parse("turn=1")])[0].astype(int) for _ in range(36)]
            distances = [np.abs(frames - start).mean() for frames in turned]
            assert distances[-1] < 1 < 5 < distances[8]
            for name in ("turn=2.5", "turn=-2.5"):
                frames = environment.step([environment.actions.parse(name)])[0]
            assert np.abs(frames - turned[-1]).mean() < 1


# Moments


@needs_vizdoom
@pytest.mark.parametrize(("name", "mouse"), GAMES)
def test_a_replayed_moment_is_bit_identical(name, mouse):
    """Also in another engine, whatever it did before."""
    options = {"mouse": mouse}
    with (
        closing(make_environment(f"doom:{name}", 1, seed=3, options=options)) as one,
        closing(make_environment(f"doom:{name}", 1, seed=4, options=options)) as other,
    ):
        assert one.reset()[0].shape == (1, 48, 64, 3) and one.fps == 17.5
        before = play_randomly(one, 12, seed=1)[-1][0]
        state, truth = one.get_state(), play_randomly(one, 12, seed=2)
        assert len({frames.tobytes() for frames, *_ in truth}) > 6
        play_randomly(other, 3, seed=5)
        for game in (one, other):
            assert np.array_equal(game.set_state(state), before)
            assert_same_steps(truth, play_randomly(game, 12, seed=2))


@needs_vizdoom
def test_a_replayed_moment_leads_over_the_end_of_an_episode():
    with closing(make_environment("doom:deadly_corridor", 2, seed=3)) as environment:
        play_randomly(environment, 10, seed=1)
        states, truth = environment.get_state(), play_randomly(environment, 120, seed=2)
        ended = np.stack([terminations for _, _, terminations, _, _ in truth])
        assert ended.any(0).all() and min(rewards.min() for _, rewards, *_ in truth) <= -100
        environment.set_state(states)
        assert_same_steps(truth, play_randomly(environment, 120, seed=2))


@needs_vizdoom
def test_counterfactuals():
    with closing(make_environment("doom:my_way_home", 2, seed=0)) as environment:
        branches = collect_counterfactuals(environment, num_prompt=3, num_frames=6, seed=0)
    assert branches.futures.shape == (2, 6, 6, 48, 64, 3)
    assert all(len({frame.tobytes() for frame in futures[:, -1]}) > 4 for futures in branches.futures)


# Play


@needs_vizdoom
def test_the_explore_policy_gets_about():
    """It sees more squares of the maze than random actions do."""
    seen = {}
    for policy in ("explore", "uniform"):
        with closing(make_environment("doom:my_way_home", 4, seed=1)) as environment:
            act, seen[policy] = make_policy(policy)(environment, np.random.default_rng(0)), set()
            for _ in range(300):
                environment.step(act(None))
                seen[policy] |= {(game, *environment.position(game) // 64) for game in range(4)}
    assert len(seen["explore"]) > 1.5 * len(seen["uniform"])


@needs_vizdoom
@pytest.mark.parametrize("mouse", [False, True])
def test_collect_replay_and_play(tmp_path, monkeypatch, mouse):
    monkeypatch.setattr(collecting, "worker_pool", in_this_process)
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)
    out, few = tmp_path / "set", {"records": 6, "val_records": 1, "test_records": 0, "workers": 1}
    collect(CollectConfig(env="doom:defend_the_line", size="96x64", mouse=mouse, out=out, **few), lambda _: None)
    metadata = read_metadata(out)
    assert metadata == describe_environment("doom:defend_the_line", {"size": "96x64", "mouse": mouse})
    assert metadata.frame_shape == (64, 96, 3) and metadata.caption.startswith("doom defend_the_line, monsters")
    reader = ShardReader(split_shards(out, "train"), metadata)
    records = [reader.read(0, number) for number in range(6)]
    assert {reward for record in records for reward in record.rewards.tolist()} <= {-1.0, 0.0, 1.0}
    for frame in (0, 31):
        environment, shown = replay_to(records[-1], metadata, frame)
        environment.close()
        assert np.array_equal(shown, records[-1].frames[frame])
    assert check_alignment(records, metadata.actions).best_lag == 0
    checkpoint = random_checkpoint(tmp_path / "random", out)
    config = PlayConfig(checkpoint=str(checkpoint), data=out, split="val", num_steps=1)
    (engine,) = load_engines(config).values()
    gallery = engine.gallery
    assert gallery.real_game_unavailable_reason(gallery.prompt(0, 5)) is None


@needs_vizdoom
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_engines_end_when_their_process_is_killed():
    code = (
        "from pathlib import Path; from dreamrun.games.factory import make_environment\n"
        "environment = make_environment('doom:my_way_home', 2)\n"
        "print(*(path.read_text() for path in Path('/proc/self/task').glob('*/children')), flush=True)\n"
        "input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
        children = process.stdout.readline().split()
        assert len(children) == 3 and set(map(is_running, children)) == {True}  # two engines, and who watches
        process.kill()
    for _ in range(100):
        if not any(map(is_running, children)):
            break
        time.sleep(0.1)
    assert not any(map(is_running, children))


def is_running(pid: str) -> bool:
    """Whether there is such a process and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
