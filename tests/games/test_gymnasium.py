"""Games by way of Gymnasium, and Atari: recorded, replayed, brought back to a saved state."""

import json
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from playing import Client, random_checkpoint, serving
from tiny import LITTLE, SMALLEST, in_this_process, random_model, records_of, refused, succeeded

from dreamrun.data import collecting
from dreamrun.data.collecting import CollectConfig, collect
from dreamrun.data.metadata import read_metadata
from dreamrun.data.recorded_game import replay_to
from dreamrun.envs import DreamVectorEnv
from dreamrun.evaluation.counterfactuals import collect_counterfactuals
from dreamrun.games.factory import make_environment, open_recorded
from dreamrun.games.policies import make_policy
from dreamrun.play.launch import PlayConfig
from dreamrun.training.setup import fit_config_to_data

FEW = {"records": 3, "val_records": 1, "test_records": 0, "workers": 1, "min_frames": 8}


class Walk(gymnasium.Env):
    """A dot on a line; `kind` selects its action space. Seven wide, nine high, so that sizes are not mixed up."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 1, (1,))

    def __init__(self, kind="discrete", render_mode=None):
        spaces = {
            "discrete": gymnasium.spaces.Discrete(3, start=-1),
            "buttons": gymnasium.spaces.MultiBinary(2),
            "axes": gymnasium.spaces.Box(-2.0, 2.0, (2,)),
            "choices": gymnasium.spaces.MultiDiscrete([2, 3], start=[0, -1]),
            "both": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(3))),
            "unseeded": gymnasium.spaces.Discrete(3, start=-1),
        }
        self.action_space, self.kind, self.render_mode = spaces[kind], kind, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if self.kind != "unseeded" else None)
        self.place, self.steps = int(self.np_random.integers(7)), 0
        return np.zeros(1), {}

    def step(self, action):
        discrete = isinstance(self.action_space, gymnasium.spaces.Discrete)
        assert self.action_space.contains(action) or (discrete and action in (-1, 0, 1)), action
        move = action if discrete else round(float(action[1]) - float(action[0]))
        self.place, self.steps = (self.place + move) % 7, self.steps + 1
        return np.zeros(1), 1.0, self.steps >= 50, False, {}

    def render(self):
        picture = np.zeros((9, 7, 3), np.uint8)
        picture[4, self.place] = 255
        return picture


gymnasium.register("TestWalk-v0", Walk)


def stay_put(environment, frames, rng):
    """A policy: moves to the left wherever something is shown."""
    assert frames.shape == (environment.num_envs, *environment.single_observation_space.shape)
    return np.zeros(environment.num_envs, np.int64)


@pytest.fixture(scope="module")
def here():
    """Collected in this process, where the environment above is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "worker_pool", in_this_process)
        patch.setattr(collecting, "NUM_ENVS", 3)
        yield


@pytest.mark.parametrize(("frame_skip", "fps"), [(None, 20), (4, 5)])
def test_collect_and_replay(tmp_path, here, frame_skip, fps):
    out = tmp_path / "walk"
    collect(CollectConfig(env="gym:TestWalk-v0", size="14x9", out=out, frame_skip=frame_skip, **FEW), lambda _: None)
    metadata = read_metadata(out)
    assert metadata.frame_shape == (9, 14, 3) and metadata.fps == fps and len(metadata.actions) == 3
    for record in records_of(out):
        assert set(record.rewards[:-1]) == {float(frame_skip or 1)}
        assert len(record) == -(-50 // (frame_skip or 1)) and record.terminal
        for frame in (0, 5, len(record) - 1):
            assert np.array_equal(replay_to(record, metadata, frame)[1], record.frames[frame])


@pytest.mark.parametrize(("kind", "values"), [("buttons", {0.0, 1.0}), ("axes", None)])
def test_collect_vector_actions(tmp_path, here, monkeypatch, kind, values):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", kind)
    for policy in ("explore", "uniform"):
        out = tmp_path / policy
        collect(CollectConfig(env="gym:TestWalk-v0", size="14x9", out=out, policy=policy, **FEW), lambda _: None)
        metadata = read_metadata(out)
        assert set(metadata.actions.kinds) == {kind.removesuffix("s").replace("axe", "axis")}
        for record in records_of(out):
            assert record.actions.shape == (len(record), 2) and record.actions.dtype == np.float32
            assert values is None or set(np.unique(record.actions)) == values
            assert np.array_equal(replay_to(record, metadata, 20)[1], record.frames[20])


def test_an_agent_presses_the_same_buttons_in_the_dream_and_in_the_real_game(tmp_path, here, monkeypatch):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "buttons")
    collect(CollectConfig(env="gym:TestWalk-v0", size="32x32", out=tmp_path / "walk", **FEW), lambda _: None)
    metadata = read_metadata(tmp_path / "walk")
    network = replace(fit_config_to_data(SMALLEST, metadata), outcomes=True)
    dream, real = DreamVectorEnv(random_model(network, game=metadata), tmp_path / "walk", 2), open_recorded(metadata, 2)
    assert dream.single_action_space == real.single_action_space == gymnasium.spaces.MultiBinary(2)
    for games in (dream, real):
        games.reset(seed=0)
        assert games.step(games.action_space.sample())[0].shape == (2, 32, 32, 3)


def test_custom_policy(tmp_path, here):
    out = tmp_path / "walk"
    policy = f"{__name__}:stay_put"
    sys.modules.setdefault(__name__, sys.modules[stay_put.__module__])
    collect(CollectConfig(env="gym:TestWalk-v0", out=out, policy=policy, **FEW), lambda _: None)
    assert {action for record in records_of(out) for action in record.actions.tolist()} == {0}
    environment = make_environment("gym:TestWalk-v0", 2)
    for wrong in (lambda *_: np.zeros(5, int), lambda *_: np.full(2, 3), lambda *_: np.zeros(2)):
        sys.modules[__name__].wrong = wrong
        with pytest.raises(ValueError, match="the policy returned"):
            make_policy(f"{__name__}:wrong")(environment, np.random.default_rng(0))(None)


def test_play_and_evaluate_buttons(tmp_path, here, monkeypatch, run_script):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "buttons")
    collect(CollectConfig(env="gym:TestWalk-v0", size="16x16", out=tmp_path / "set", **FEW), lambda _: None)
    random_checkpoint(tmp_path / "random", tmp_path / "set")
    few = {"checkpoint": str(tmp_path / "random"), "data": tmp_path / "set", "split": "val"}
    metadata = read_metadata(tmp_path / "set")
    game, _ = replay_to(records_of(tmp_path / "set", "val")[0], metadata, 3)
    with serving(PlayConfig(**few, port=0, num_steps=1)) as address, Client(address) as client:
        assert client.join().hello["keys"] == {"1": "button0", "2": "button1"}
        client.start(moment=3, real=True)
        for keys, held in ((("2",), [0, 1]), (("1", "2"), [1, 1]), (("1",), [1, 0])):
            shown = client.step(keys).pictures[1]
            assert np.array_equal(shown, game.step(np.array([held], np.float32))[0][0])
    options = ("--data", few["data"], "--split", "val", *LITTLE, "--output", tmp_path / "report")
    succeeded(run_script("evaluate", "--checkpoint", few["checkpoint"], *options))
    counterfactuals = json.loads((tmp_path / "report/report.json").read_text())["counterfactuals"]
    assert "controllability" in counterfactuals["by_frame"][0]


def test_counterfactuals_of_buttons(monkeypatch):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "buttons")
    game = make_environment("gym:TestWalk-v0", 3, options={"size": "7x9"})
    branches = collect_counterfactuals(game, num_prompt=4, num_frames=3, seed=0)
    assert branches.actions.tolist() == [[0, 0], [1, 0], [0, 1]]
    places = branches.futures[:, :, :, 4, :, 0].argmax(-1)  # (moments, actions, frames)
    begun = branches.prompt[:, -1, 4, :, 0].argmax(-1)
    for k, move in enumerate((0, -1, 1)):
        for t in range(3):
            alive = branches.lengths[:, k] > t
            assert (places[alive, k, t] == (begun[alive] + move * (t + 1)) % 7).all()
    assert branches.lengths.max() == 3
    prompt, actions, _ = branches.rollout_inputs()
    assert actions.shape == (9, 7, 2) and np.array_equal(actions[5, 4:], np.tile(branches.actions[2], (3, 1)))
    assert np.array_equal(prompt[5], branches.prompt[1])
    moved = np.diff(branches.prompt[:, :, 4, :, 0].argmax(-1), axis=1) % 7
    held = branches.prompt_actions[:, 1:]
    assert np.array_equal(moved, (held[..., 1] - held[..., 0]) % 7)


def test_states_are_restored_by_replay():
    """Also in another object, and over the end of an episode."""
    rng = np.random.default_rng(0)
    environment, other = (make_environment("gym:TestWalk-v0", 3, seed=seed) for seed in (0, 1))
    actions = rng.integers(0, 3, (100, 3))
    for action in actions[:70]:
        frames = environment.step(action)[0]
    other.step(actions[0])
    states, truth = environment.get_state(), [environment.step(action) for action in actions[70:]]
    assert any(terminations.any() for _, _, terminations, *_ in truth)
    for restored in (environment, other):
        assert np.array_equal(restored.set_state(states), frames)
        for action, (*values, info) in zip(actions[70:], truth, strict=True):
            *now, now_info = restored.step(action)
            assert all(map(np.array_equal, now, values))
            assert np.array_equal(now_info["level_seed"], info["level_seed"])


def test_a_game_that_is_not_reproducible_says_so(monkeypatch):
    """Its seed does not say where the dot begins."""
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "unseeded")
    environment = make_environment("gym:TestWalk-v0", 8)
    states = environment.get_state()
    with pytest.raises(ValueError, match="gym:TestWalk-v0 is not reproducible: the same level and actions lead to"):
        environment.set_state(states)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--env", "gym:NoSuchGame-v9"), ("cannot play gym:NoSuchGame-v9", "NoSuchGame")),
        (("--env", "ale:NoSuchGame"), ("cannot play ale:NoSuchGame",)),
        (("--env", "coinrun", "--size", "96x64"), ("coinrun has no option size: choose distribution_mode or simple",)),
        (("--env", "pong", "--frame-skip", "2"), ("pong has no option frame_skip",)),
        (("--env", "gym:TestWalk-v0", "--size", "96"), ("size is '96': expected width x height",)),
        (("--env", "gym:TestWalk-v0", "--frame-skip", 0), ("frame_skip is 0",)),
        (("--env", "pong", "--policy", "nowhere:f"), ("policy 'nowhere:f' cannot be found", "nowhere")),
        (("--env", "pong", "--policy", "json:nothing"), ("policy 'json:nothing' cannot be found",)),
    ],
)
def test_mistakes(tmp_path, options, words, run_script):
    pytest.importorskip("ale_py")
    refused(run_script("collect", *options, "--out", tmp_path / "set"), *words)
    assert not list(tmp_path.iterdir())


def test_choices_are_buttons_that_exclude_each_other(monkeypatch):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "choices")
    game = make_environment("gym:TestWalk-v0", 1, options={"size": "7x9"})
    assert game.actions.kinds == ("button",) * 3
    place = game.reset()[0][0, 4, :, 0].argmax()
    for pressed, move in (([0, 0, 0], -1), ([0, 1, 0], 0), ([0, 0, 1], 1), ([1, 1, 1], -1), ([1, 0, 0], -2)):
        place = (place + move) % 7
        assert game.step(np.array([pressed], np.float32))[0][0, 4, :, 0].argmax() == place


@pytest.mark.parametrize(
    ("meanings", "names"),
    [(["LEFT", "NOOP", "RIGHT"], ("left", "noop", "right")), (["LEFT", "left", "?"], ("0", "1", "2"))],
)
def test_names_of_actions_are_those_of_the_environment(monkeypatch, meanings, names):
    monkeypatch.setattr(Walk, "get_action_meanings", lambda self: meanings, raising=False)
    assert make_environment("gym:TestWalk-v0", 1).actions.names == names


def test_unsupported_action_space_is_refused(monkeypatch):
    monkeypatch.setitem(gymnasium.registry["TestWalk-v0"].kwargs, "kind", "both")
    with pytest.raises(ValueError, match=r"cannot record the actions of gym:TestWalk-v0: Tuple"):
        make_environment("gym:TestWalk-v0", 1)


def test_missing_pygame(monkeypatch, tmp_path, run_script):
    monkeypatch.setitem(sys.modules, "pygame", None)
    result = run_script("collect", "--env", "gym:CartPole-v1", "--out", tmp_path / "set")
    refused(result, "cannot play gym:CartPole-v1", 'pip install "gymnasium[classic')


def test_missing_atari(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(ValueError, match=r"pip install .dreamrun\[atari\]"):
        make_environment("ale:pong", 1)


# Atari


@pytest.fixture(scope="module")
def atari_set(tmp_path_factory, here):
    """A few records of Breakout."""
    pytest.importorskip("ale_py")
    out = tmp_path_factory.mktemp("sets") / "breakout"
    collect(CollectConfig(env="ale:breakout", out=out, **FEW), lambda _: None)
    return out


def test_collect_atari(atari_set):
    metadata = read_metadata(atari_set)
    assert metadata.actions.names == ("noop", "fire", "right", "left")
    assert metadata.actions.keys == ((), ("SPACE",), ("RIGHT",), ("LEFT",))
    assert metadata.fps == 15 and dict(metadata.environment_options)["frame_skip"] == 4
    for record in records_of(atari_set):
        assert record.frames.shape[1:] == (64, 64, 3)
        assert len(np.unique(record.frames[0])) > 5
        for frame in (0, 7):
            assert np.array_equal(replay_to(record, metadata, frame)[1], record.frames[frame])


def test_atari_states_are_restored_exactly():
    """Also in another object, whatever it did before, and over the end of an episode."""
    pytest.importorskip("ale_py")
    rng = np.random.default_rng(0)
    environment, other = (make_environment("ale:breakout", 3, seed=seed, options={"size": "96x64"}) for seed in (0, 1))
    actions = rng.integers(0, 4, (400, 3))
    for step in range(40):
        environment.step(actions[step])
        other.step(actions[-step])
    states, shown = environment.get_state(), environment.step(actions[40])[0]
    truth = [environment.step(action) for action in actions[41:]]
    assert any(step[2].any() for step in truth), "an episode should have ended"
    for restored in (environment, other):
        first = restored.set_state(states)
        assert first.shape == (3, 64, 96, 3)
        assert np.array_equal(restored.step(actions[40])[0], shown) and not np.array_equal(first, shown)
        for action, (frames, rewards, terminations, _, info) in zip(actions[41:], truth, strict=True):
            now = restored.step(action)
            assert np.array_equal(now[0], frames) and np.array_equal(now[1], rewards)
            assert np.array_equal(now[2], terminations) and np.array_equal(now[4]["level_seed"], info["level_seed"])
    assert np.array_equal(environment.set_state(states), other.set_state(states))
