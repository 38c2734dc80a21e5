"""The metrics have a truth of their own: artificial dreams whose figures are known beforehand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import CONTROLS, LITTLE, SMALLEST, TINY, assert_one_line, command, random_model

from data.actions import NO_ACTION, ActionSpace, procgen_actions
from data.collect import bring_to
from data.dataset import ClipDataset
from data.environments import PongVectorEnv, make_environment
from data.records import Record
from evaluation.clips import RealClips, draw_clips, draw_records, scripted_actions
from evaluation.counterfactuals import Branches, branch, held_actions, obedience, obedience_by_state, which_alike
from evaluation.drift import RealPlay, drift
from evaluation.fidelity import cases, fidelity
from evaluation.inverse_dynamics import ActionGroups, inverse_dynamics, train_reader
from evaluation.kept import Kept
from evaluation.report import write_report
from evaluation.statistics import decibels, estimate

PROMPT = 4
PONG_ACTIONS = 3


@pytest.fixture(scope="module")
def held_out(pong_set):
    return ClipDataset(pong_set, "test", clip_frames=1)


@pytest.fixture(scope="module")
def clips(held_out):
    """Three clips, of which one ends early."""
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    return replace(clips, lengths=np.array([PROMPT + 20, PROMPT + 12, PROMPT + 20]))


@pytest.fixture(scope="module")
def branches():
    return branch(make_environment("pong", 12, seed=3), PROMPT, 16, seed=0)


# Artificial dreams of the clips: uint8 (S, T, H, W, C), what follows the prompts.


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def following(clips):
    """Truth, its lengths, and the prompts' last frames."""
    return clips.frames[:, PROMPT:], clips.lengths - PROMPT, clips.frames[:, PROMPT - 1]


# Intervals.


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        figure = estimate(rng.normal(3.0, 2.0, 40))
        hits += figure["low"] <= 3.0 <= figure["high"]
        assert figure["low"] < figure["value"] < figure["high"] and figure["n"] == 40
    assert 0.88 < hits / 200 < 0.99


def test_estimates_of_nothing_and_of_no_error():
    assert estimate(np.array([np.nan, np.nan])) is None
    assert estimate(np.zeros(5), transform=decibels) == {"value": None, "low": None, "high": None, "n": 5}
    assert estimate(np.array([1.0, np.nan, 5.0]))["value"] == 3.0
    ratio = estimate(np.array([1.0, 6.0, 0.0]), counts=np.array([2.0, 8.0, 0.0]))
    assert ratio["value"] == 0.7 and ratio["n"] == 2


# Fidelity.


def test_a_perfect_dream_has_no_error_and_is_one_with_the_truth(clips):
    truth, lengths, last = following(clips)
    found = fidelity(truth, lengths, last, truth.copy(), None)
    assert all(e["value"] is None and e["low"] is None for e in found["dream"]["psnr"])  # infinite
    assert all(e["value"] == pytest.approx(1.0) for e in found["dream"]["ssim"])
    assert [e["n"] for e in found["dream"]["psnr"]] == [3] * 12 + [2] * 8
    assert set(found) == {"dream", "repeat_prompt"}


def test_a_frozen_dream_is_as_good_as_repeating_the_prompt(clips):
    truth, lengths, last = following(clips)
    frozen = np.repeat(last[:, None], truth.shape[1], axis=1)
    found = fidelity(truth, lengths, last, frozen, noise(truth.shape))
    assert found["dream"] == found["repeat_prompt"] != found["other_actions"]


def test_noise_has_the_error_that_theory_gives_it(clips):
    truth, lengths, last = following(clips)
    levels = np.arange(256.0)
    # For each true level, the mean square distance of all levels to it.
    expected = np.square(levels[:, None] - levels).mean(1)[truth[:, 0]].mean()
    found = fidelity(truth, lengths, last, noise(truth.shape), None)["dream"]
    assert found["psnr"][0]["value"] == pytest.approx(10 * np.log10(255**2 / expected), abs=0.1)
    assert found["ssim"][0]["value"] < 0.1


def test_cases_are_chosen_by_error_at_one_frame(clips):
    truth, lengths, _ = following(clips)
    dreams = truth.copy()
    dreams[0, 15] //= 2
    dreams[2, 15] += 1
    dreams[1] = 0  # has ended before
    found = cases(truth, dreams, lengths)
    assert (found["best"]["clip"], found["worst"]["clip"], found["best"]["frame"]) == (2, 0, 16)
    assert found["best"]["psnr"] > found["worst"]["psnr"]


# Counterfactuals.


def test_branches_are_what_the_game_does(branches):
    assert branches.futures.shape == (12, 3, 16, 64, 64, 3) and branches.prompt.shape == (12, PROMPT, 64, 64, 3)
    assert branches.lengths.max() == 16
    prompt, actions, numbers = branches.under_each()
    assert len(prompt) == len(actions) == len(numbers) == 36
    assert (actions[:, PROMPT:] == np.tile([0, 1, 2], 12)[:, None]).all()
    assert ((branches.prompt_actions >= NO_ACTION) & (branches.prompt_actions < 3)).all()
    up, down = branches.futures[:, 1, 5], branches.futures[:, 2, 5]
    assert (up != down).any((1, 2, 3)).all()  # the paddle


def test_branches_are_reproducible_and_end_with_their_episode():
    environments = [make_environment("pong", 6, seed=3) for _ in range(2)]
    for environment in environments:
        environment.max_steps = 60  # so short that episodes end within the branches
    one, other = (branch(environment, PROMPT, 50, seed=1) for environment in environments)
    assert np.array_equal(one.futures, other.futures) and np.array_equal(one.lengths, other.lengths)
    assert one.lengths.min() < 50
    long_ago = obedience(one, one.futures)[-1]["obedience"]
    assert long_ago is None or long_ago["n"] < 6


def test_the_perfect_dream_obeys(branches):
    for row in obedience(branches, branches.futures):
        assert row["obedience"]["value"] == row["obedience"]["low"] == 1.0
        assert row["chance"]["value"] >= 1 / PONG_ACTIONS
        assert row["above_chance"]["value"] == pytest.approx(1 - row["chance"]["value"])
    assert [row["frame"] for row in obedience(branches, branches.futures)] == [1, 2, 4, 8, 16]


def distinct_everywhere(branches, horizon):
    """The moments whose futures all differ at a frame, and go on that long."""
    return [
        state
        for state, futures in enumerate(branches.futures[:, :, horizon - 1])
        if len(set(which_alike(futures))) == len(futures) and branches.lengths[state].min() >= horizon
    ]


def test_a_dream_under_wrong_actions_never_obeys(branches):
    wrong = np.roll(branches.futures, 1, axis=1)
    chosen = distinct_everywhere(branches, 8)
    assert len(chosen) >= 3
    obeyed, _ = obedience_by_state(branches, wrong, 8)
    assert (obeyed[chosen] == 0).all()


def test_whoever_is_blind_to_actions_obeys_by_chance_exactly(branches):
    # The same dream under all actions comes nearest to the same future under all.
    blind = np.repeat(branches.futures[:, :1], PONG_ACTIONS, axis=1)
    obeyed, chance = obedience_by_state(branches, blind, 4)
    assert np.array_equal(obeyed, chance, equal_nan=True) and np.isfinite(chance).any()


def test_a_tie_is_no_obedience(branches):
    grey = np.zeros_like(branches.futures)
    alike = replace(branches, futures=np.full_like(branches.futures, 10), lengths=np.full((12, 3), 16))
    assert np.isnan(obedience_by_state(alike, grey, 4)[0]).all()  # one future only: nothing to obey
    alike.futures[:, 0] = 20
    alike.futures[:, 1, :, 0] = 20  # and futures 1 and 2, as far from 15 as each other
    alike.futures[:, 2, :, 1] = 20
    obeyed, chance = obedience_by_state(alike, np.full_like(grey, 15), 4)
    assert (obeyed == 0).all() and (chance == 1 / 3).all()


def test_futures_that_do_not_differ_count_as_one():
    futures = np.zeros((1, 4, 1, 2, 2, 1), np.uint8)
    futures[0, 3] = 200  # three actions do the same
    branches = Branches(futures[:, 0], np.zeros((1, 1), int), np.arange(4), futures, np.ones((1, 4), int))
    dreams = futures.copy()
    dreams[0, 0] = 200  # one of the three obeys not
    obeyed, chance = obedience_by_state(branches, dreams, 1)
    assert obeyed.tolist() == [pytest.approx((2 / 3 + 1) / 2)] and chance.tolist() == [0.5]


def test_noise_obeys_by_chance(branches):
    few = replace(branches, futures=branches.futures[:, :, 7:8], lengths=np.ones((12, 3), int))
    many = [obedience_by_state(few, noise(few.futures.shape, seed), 1) for seed in range(40)]
    obeyed, chance = np.array(many).swapaxes(0, 1)
    assert np.nanmean(obeyed - chance) == pytest.approx(0, abs=0.04)
    assert np.nanstd(obeyed - chance) > 0.1  # it is not blind, it guesses


def test_held_actions_follow_a_rule():
    space = procgen_actions("coinrun")
    names = [space.names[action] for action in held_actions(space)]
    assert names == ["stay", "left", "jump", "right", "left+jump", "right+jump"]
    assert len(held_actions(procgen_actions("starpilot"))) == 6
    # Of buttons and axes: nothing, each alone (fire does nothing), and both ways.
    held = held_actions(CONTROLS)
    assert [CONTROLS.name(vector) for vector in held] == ["stay", "left", "right", "jump", "dx=1", "dx=-1"]
    assert all(np.array_equal(CONTROLS.named(CONTROLS.name(vector)), vector) for vector in held)


# Keys read off the picture.


def test_groups_follow_from_keys():
    groups = ActionGroups(procgen_actions("coinrun"))
    assert groups.names == ["left", "left+jump", "stay", "jump", "right", "right+jump"]
    space = procgen_actions("coinrun")
    named = np.array([space.index(name) for name in ("left+down", "left", "D", "stay")])
    left_down, left, d, stay = groups(named)
    assert left_down == left != d == stay and groups(np.array([NO_ACTION])) == -1
    unknown = ActionSpace(names=("0", "1"), keys=((), ()), acting=(0, 1))
    assert ActionGroups(unknown).names == ["0", "1"]


def test_groups_of_buttons_are_those_held_most_often():
    names = ["left+dx=-0.5"] * 4 + ["left+fire", "stay", "dy=1", "right+jump+dx=0.2"]
    vectors = np.stack([*map(CONTROLS.named, names), CONTROLS.unknown()])
    records = [Record(np.zeros((len(vectors), 2, 2, 3), np.uint8), vectors)]
    groups = ActionGroups(CONTROLS, records)
    assert groups.names == ["left", "stay", "right+jump"]  # fire does nothing, and the mouse does not count
    assert groups(vectors).tolist() == [0] * 5 + [1, 1, 2, -1]
    assert groups(CONTROLS.named("jump")) == -1
    axes = replace(CONTROLS, acting=(4, 5))
    assert ActionGroups(axes, records).names[0] == "dx=-1"


def test_keys_are_read_off_real_play_and_not_off_noise(pong_set, held_out):
    train, groups = ClipDataset(pong_set, "train", clip_frames=1), ActionGroups(held_out.metadata.actions)
    clips = draw_clips(held_out, 3, 100, PROMPT + 1, seed=0)
    reader, taken = train_reader(draw_records(train, 24, 0), groups, 50, seed=0)

    def read(dreams):
        return inverse_dynamics(reader, taken, clips.frames, dreams, clips.actions, clips.lengths, PROMPT, groups)

    perfect = read(clips.frames)
    assert perfect["real"] == perfect["dream"]
    assert perfect["real"]["accuracy"]["value"] > 0.8 > perfect["chance"]["value"]
    assert perfect["real"]["num_frames"] == int((clips.lengths - PROMPT).sum()) == np.sum(perfect["real"]["confusion"])
    for blind in (noise(clips.frames.shape), np.repeat(clips.frames[:, :1], 100, axis=1)):
        assert read(blind)["dream"]["accuracy"]["value"] < perfect["real"]["accuracy"]["value"] - 0.2
    again, _ = train_reader(draw_records(train, 24, 0), groups, 3, seed=0)
    same, _ = train_reader(draw_records(train, 24, 0), groups, 3, seed=0)
    assert all((a == b).all() for a, b in zip(again.parameters(), same.parameters(), strict=True))


# Drift.


@pytest.fixture(scope="module")
def real_play(pong_set, held_out):
    train = ClipDataset(pong_set, "train", clip_frames=1)
    bank = np.concatenate([record.frames for record in draw_records(train, 24, 0)])[::2]
    return RealPlay(bank, [record.frames for record in held_out.records(range(3))], held_out.metadata.fps)


def real_future(record, metadata, actions):
    """The game itself, from a record's start under other actions."""
    environment, _ = bring_to(record, metadata)
    return np.stack([environment.step(np.array([action]))[0][0] for action in actions])


def test_a_perfect_long_dream_does_not_collapse(real_play, held_out):
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    actions = scripted_actions(clips, 3, 240, seed=0)
    records = held_out.records(range(3))
    dreams = [real_future(record, held_out.metadata, row) for record, row in zip(records, actions, strict=True)]
    found = drift(np.stack([real_play.statistics(dreamt)[1] for dreamt in dreams]), real_play)
    assert found["collapsed"]["value"] == 0.0 and found["collapsed"]["n"] == 3
    assert len(found["collapsed_by_window"]) == 240 // 30
    assert found["real"]["collapsed"] < 0.03  # what the rule makes of real play itself
    for name in ("sharpness", "brightness", "motion"):
        assert found["statistics"][name][-1]["value"] == pytest.approx(found["real"]["median"][name], rel=0.5)


@pytest.mark.parametrize("kind", ["frozen", "flat", "blown out"])
def test_dreams_that_collapse_are_told_apart(real_play, clips, kind):
    rng = np.random.default_rng(0)
    frames = {
        "frozen": np.repeat(clips.frames[0, :1], 90, axis=0),
        "flat": np.broadcast_to(rng.integers(0, 256, (90, 1, 1, 1)), (90, 64, 64, 3)).astype(np.uint8),
        "blown out": noise((90, 64, 64, 3)),
    }[kind]
    found = drift(real_play.statistics(frames)[1][None], real_play)
    assert found["collapsed"]["value"] == found["collapsed_how"][kind]["value"] == 1.0
    assert kind == "flat" or found["collapsed_how"]["flat"]["value"] == 0.0
    assert kind == "frozen" or found["collapsed_how"]["frozen"]["value"] == 0.0


def test_a_script_holds_actions_and_takes_them_as_real_play_does(clips):
    script = scripted_actions(clips, 20, 500, seed=0)
    taken = clips.actions[clips.actions != NO_ACTION]
    shares = np.bincount(taken, minlength=3) / len(taken)
    assert np.bincount(script.ravel(), minlength=3) / script.size == pytest.approx(shares, abs=0.08)
    # Every sixth frame an action is drawn anew, at times the same one.
    assert (np.diff(script, axis=1) != 0).mean() == pytest.approx((1 - np.square(shares).sum()) / 6, rel=0.2)
    assert np.array_equal(script, scripted_actions(clips, 20, 500, seed=0))


def test_vectors_are_drawn_whole_and_only_where_they_are_known():
    vectors = CONTROLS.unknown(2, 6)
    vectors[0, 3:5] = CONTROLS.named("left+jump"), CONTROLS.named("dx=0.5")
    frames = np.zeros((2, 6, 2, 2, 3), np.uint8)
    few = RealClips(frames, vectors, np.array([5, 6]), np.arange(2), np.zeros(2, int))
    script = scripted_actions(few, 3, 40, seed=0)
    assert {CONTROLS.name(vector) for vector in script.reshape(-1, 6)} == {"left+jump", "dx=0.5"}
    other = few.other_actions(3)
    assert np.array_equal(other[1, 3:], vectors[0, [3, 4, 3]]) and np.isnan(other[0]).all()
    with pytest.raises(ValueError, match="know of no action"):
        scripted_actions(replace(few, actions=CONTROLS.unknown(2, 6)), 3, 40, seed=0)


def test_clips_are_drawn_by_seed_and_end_with_their_record(held_out):
    one, other = (draw_clips(held_out, 3, 300, 5, seed=0) for _ in range(2))
    assert np.array_equal(one.frames, other.frames) and np.array_equal(one.starts, other.starts)
    for row, record in enumerate(held_out.records(one.record_ids)):
        assert one.lengths[row] == len(record)
        assert np.array_equal(one.frames[row, : len(record)], record.frames)
        assert not one.frames[row, len(record) :].any() and (one.actions[row, len(record) :] == NO_ACTION).all()
    assert (one.other_actions(4)[:, 4:] != NO_ACTION).all()
    with pytest.raises(ValueError, match=r"no record of .* has 1000 frames: the longest has 1"):
        draw_clips(held_out, 3, 300, 1000, seed=0)


# The command.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    random_model(replace(SMALLEST, num_actions=3, num_steps=2, environment="pong")).save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, checkpoint, pong_set):
    """run(*options): judge a network of random weights, quickly, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.run.QUICK", LITTLE)
    monkeypatch.setattr("evaluation.run.COLLECTED", {True: (4, 3)})

    def evaluate(*options, data=pong_set):
        given = ("--data", data) if data else ()
        return command(monkeypatch, capsys, "scripts.evaluate", "--checkpoint", checkpoint, "--quick", *given, *options)

    return evaluate


def read(folder):
    report = json.loads((folder / "report.json").read_text())
    del report["timings"]
    return report


def test_two_evaluations_agree_to_the_last_digit_and_write_one_file(run, tmp_path):
    for out in ("a", "b"):
        code, printed, err = run("--output", out)
        assert code == 0, err
        assert "Obedience at frame 1" in printed and "Collapsed" in printed
    assert read(tmp_path / "a") == read(tmp_path / "b")
    report = read(tmp_path / "a")
    for name in ("fidelity", "single_step", "counterfactuals", "inverse_dynamics", "drift", "sweep", "cost"):
        assert "not_measured" not in report[name], report[name]
    assert [(row["num_steps"], row["context_noise"]) for row in report["sweep"]] == [
        (1, 0.02), (2, 0.0), (2, 0.02), (2, 0.1)
    ]  # fmt: skip
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("<svg") == 6 and page.count("data:image/webp") == 5
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="data:' in page
    assert "| obedience |" in (tmp_path / "a" / "report.md").read_text()
    code, printed, _ = run("--compare", "a/report.json", "b")
    assert code == 0 and "\n0 of " in printed


def test_another_network_and_another_seed_are_told_apart(run, tmp_path, monkeypatch):
    assert run("--output", "a")[0] == 0
    random_model(replace(SMALLEST, num_actions=3, num_steps=2), seed=1).save_pretrained(tmp_path / "other")
    assert run("--output", "b", "--seed", "1", "--checkpoint", tmp_path / "other")[0] == 0
    code, printed, _ = run("--compare", "a/report.json", "b/report.json")
    assert code == 0 and "note: settings, seed: 0 in the first, 1 in the second" in printed


def test_comparing_names_what_differs(run, tmp_path):
    assert run("--output", "a")[0] == 0
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    report["fidelity"]["dream"]["psnr"][3] = {"value": 90.0, "low": 89.0, "high": 91.0, "n": 3}
    (tmp_path / "b.json").write_text(json.dumps(report))
    code, printed, _ = run("--compare", "a/report.json", "b.json")
    assert code == 0 and "fidelity dream psnr 4: " in printed and "-> 90 [89, 91]" in printed and "\n1 of " in printed


def test_what_is_done_is_not_done_again(run, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.run.drift", stop)
    assert run("--output", "a")[0] == 130
    assert not (tmp_path / "a" / "report.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.run.QUICK", LITTLE)
    monkeypatch.setattr("evaluation.run.fidelity", stop)  # it is done, and so are the dreams that it was made of
    assert run("--output", "a")[0] == 0
    assert run("--output", "b")[0] == 130  # elsewhere it is not
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("evaluation.run.QUICK", LITTLE)
    assert run("--output", "b")[0] == 0
    assert read(tmp_path / "a") == read(tmp_path / "b")
    assert not list(tmp_path.glob("a/parts/*/*.npy"))


def test_what_others_keep_beside_the_report_stays(tmp_path):
    (tmp_path / "photos").mkdir()
    old = Kept(tmp_path, "0" * 16)
    assert old.values("x", lambda: 1)[0] == 1
    assert Kept(tmp_path, "0" * 16).values("x", lambda: 2)[0] == 1
    assert Kept(tmp_path, "1" * 16).values("x", lambda: 2)[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1" * 16, "photos"]


def test_without_data_play_is_collected_from_the_game(run, tmp_path):
    code, printed, err = run("--output", "a", data=None)
    assert code == 0, err
    assert "collecting 7 records of pong" in printed
    assert len(list(tmp_path.glob("a/parts/play-*/test/*.array_record"))) == 1
    assert "obedience" in read(tmp_path / "a")["counterfactuals"]["by_frame"][0]
    code, printed, _ = run("--output", "a", "--num-steps", 1, data=None)  # the same play again
    assert code == 0 and "collecting" not in printed


def test_a_game_whose_state_cannot_be_saved_is_said_and_the_rest_measured(run, tmp_path, monkeypatch):
    asked = []

    def cannot(self):
        asked.append(self)
        raise NotImplementedError

    monkeypatch.setattr(PongVectorEnv, "get_state", cannot)
    code, _, err = run("--output", "a")
    assert code == 0, err
    assert len(asked) == 1  # not again for each row of the sweep: games can be slow
    report = read(tmp_path / "a")
    assert report["counterfactuals"] == {"not_measured": "the state of pong cannot be saved and restored"}
    assert "the state of pong cannot be saved" in err
    assert "dream" in report["fidelity"] and "obedience_4" not in report["sweep"][0]
    assert "cannot be saved and restored" in (tmp_path / "a" / "report.html").read_text()


def test_a_game_that_is_not_at_hand(run, tmp_path, monkeypatch, checkpoint):
    def missing(*arguments, **options):
        raise ValueError("Procgen is not installed: run ./setup.sh, or use --env pong")

    monkeypatch.setattr("evaluation.run.make_environment", missing)
    assert run("--output", "a")[0] == 0
    assert "Procgen is not installed" in read(tmp_path / "a")["counterfactuals"]["not_measured"]
    monkeypatch.setattr("evaluation.run.collect", missing)
    code, _, err = run("--output", "b", data=None)
    assert_one_line(code, err, "give --data DIR", "Procgen is not installed")


def test_clips_too_short_for_a_part(run, tmp_path, monkeypatch):
    """Longer dreams than there are records: each frame is judged by the clips that reach it."""
    monkeypatch.setattr("evaluation.run.QUICK", replace(LITTLE, drift_frames=20))
    assert run("--output", "a", "--num-frames", "400", "--num-clips", 2)[0] == 0
    report = read(tmp_path / "a")
    assert report["drift"] == {"not_measured": "20 frames are less than a window, 30"}
    psnr = report["fidelity"]["dream"]["psnr"]
    assert len(psnr) < 160 and psnr[-1]["n"] <= psnr[0]["n"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "nowhere"), ("no data set at nowhere",)),
        (("--checkpoint", "nowhere/at/all"), ("no checkpoint at nowhere/at/all",)),
        (("--num-steps", 0), ("num_steps is 0",)),
        (("--num-prompt-frames", 9), ("num_prompt_frames is 9", "room for 5")),
        (("--context-noise", 1), ("context_noise is 1",)),
        (("--compare", "a", "b"), ("no report at a",)),
    ],
)
def test_mistakes(run, options, words):
    code, _, err = run(*options)
    assert_one_line(code, err, *words)


def test_mistakes_of_the_checkpoint(run, tmp_path, monkeypatch, capsys):
    random_model(TINY).save_pretrained(tmp_path / "small_frames")
    code, _, err = run("--checkpoint", tmp_path / "small_frames")
    assert_one_line(code, err, "frames of 24x16", "64x64")
    code, _, err = run("--checkpoint", tmp_path / "small_frames", data=None)
    assert_one_line(code, err, "give --data DIR", "unknown environment")
    broken = random_model(replace(SMALLEST, num_actions=3))
    broken.action_embedding.weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    code, _, err = run("--checkpoint", tmp_path / "broken")
    assert_one_line(code, err, "weights are not finite")
    (tmp_path / "text.json").write_text("{}")
    code, _, err = run("--compare", "text.json", "text.json")
    assert_one_line(code, err, "is not a report.json")
    code, _, err = command(monkeypatch, capsys, "scripts.evaluate", "--quick")
    assert_one_line(code, err, "--checkpoint", "--compare")


def test_a_report_without_anything_measured_can_still_be_read(tmp_path):
    missing = {"not_measured": "there was nothing"}
    names = ("fidelity", "single_step", "counterfactuals", "inverse_dynamics", "drift", "sweep", "pictures")
    report = dict.fromkeys((*names, "perceptual"), missing) | {
        "checkpoint": {"name": "x", "weights_sha256": "0" * 64, "parameters": 1, "config": {}},
        "data": {"folder": "d", "split": "test", "environment": "pong", "environment_options": {}, "records": 0},
        "settings": {
            "num_prompt_frames": 4, "num_steps": 2, "context_noise": 0.0, "seed": 0, "quick": True, "drift_frames": 1
        },
        "cost": {"gflop_per_frame": 1.0},
        "timings": {"device": "CPU", "frame_ms": {"2": 10.0}, "section_secs": {}},
    }  # fmt: skip
    write_report(tmp_path, report)
    assert (tmp_path / "report.md").read_text().count("Not measured: there was nothing.") == 7
