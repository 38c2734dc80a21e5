"""Networks of several games: views of one game, words, and how both are stored."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import TINY, make_sampler, random_inputs, random_model

from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace, unnamed_actions
from dreamrun.model import WorldModel
from dreamrun.model.fill import fill
from dreamrun.model.game_views import fold_text, nearest_game, select_game, with_text, without_text
from dreamrun.model.options import SamplerSettings
from dreamrun.model.text_encoder import MAX_BYTES, encode_bytes

PONG = Game(
    "pong", frame_shape=(16, 24, 3), actions=ActionSpace(("noop", "up", "down"), ((), ("U",), ("D",)), (0, 1, 2))
)
FISH = Game("fish", frame_shape=(24, 16, 3), fps=20.0, actions=ActionSpace(("left", "right"), ((),) * 2, (0, 1)))
GAMES = Game(
    frame_shape=(16, 24, 3),
    actions=unnamed_actions(5),
    games=(
        replace(PONG, name="pong", caption="pong, two paddles"),
        replace(PONG, name="wide", frame_shape=(16, 32, 3), caption="pong, wide picture"),
        replace(FISH, name="fish", action_offset=3),
    ),
)
SEVERAL = replace(TINY, num_actions=5, words=True)


def several(words: bool = True) -> WorldModel:
    return random_model(replace(SEVERAL, words=words), game=GAMES)


def test_a_view_has_the_size_and_the_actions_of_its_game():
    model = several()
    views = [select_game(model, name) for name in ("", "pong", "wide", "fish")]
    shapes = [(view.config.frame_shape, view.config.num_actions, view.game.fps) for view in views]
    assert shapes == [((3, 16, 24), 3, 15)] * 2 + [((3, 16, 32), 3, 15), ((3, 24, 16), 2, 20)]
    assert views[3].game == FISH
    with pytest.raises(ValueError, match="no game 'chess': choose pong, wide, fish"):
        select_game(model, "chess")
    with pytest.raises(ValueError, match="this checkpoint has one game"):
        select_game(random_model(), "pong")
    assert select_game(alone := random_model()) is alone


def test_the_slices_of_games_never_mix():
    """Weights of the other games' actions change nothing, and a view gives what the network gives for its slice."""
    model = several()
    frames, levels, _ = random_inputs(replace(TINY, frame_height=24, frame_width=16))
    actions = torch.eye(2)[torch.randint(2, frames.shape[:2])]
    wide = torch.zeros(*frames.shape[:2], 5)
    wide[..., 3:] = actions
    view = without_text(select_game(model, "fish"))
    expected = model(frames, levels, wide)
    torch.testing.assert_close(view(frames, levels, actions), expected)
    with torch.no_grad():
        model.action_embedding.weight[:, :3] = torch.nan
    torch.testing.assert_close(view(frames, levels, actions), expected)
    assert (view(frames, levels, 1 - actions) - expected).abs().max() > 1e-3
    assert torch.equal(select_game(several(), "wide").action_embedding.weight, several().action_embedding.weight[:, :3])


def test_words_change_frames_and_no_words_change_none():
    model = several()
    frames, levels, actions = random_inputs(SEVERAL)
    plain = model(frames, levels, actions)
    texts = ["pong, two paddles", ""]
    told = model(frames, levels, actions, text=encode_bytes(texts))
    torch.testing.assert_close(told[1], plain[1])  # hidden words are zeros
    assert (told[0] - plain[0]).abs().max() > 1e-3
    view = with_text(model, texts[0])
    torch.testing.assert_close(view(frames, levels, actions)[0], told[0])
    torch.testing.assert_close(with_text(view, " ")(frames, levels, actions), plain)
    torch.testing.assert_close(fold_text(view)(frames, levels, actions)[0], told[0])
    assert (with_text(model, "fish")(frames, levels, actions) - view(frames, levels, actions)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="has learnt no words"):
        with_text(random_model(), "pong")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_cached_sampler_is_told_words_as_the_reference_is(guidance):
    view = with_text(select_game(several(), "pong"), "two paddles")
    frames, _, actions = random_inputs(TINY, num_frames=2)
    cached, reference, untold = (
        make_sampler(model, 2, cache=cache, guidance=guidance)
        for model, cache in ((view, True), (view, False), (without_text(view), True))
    )
    for sampler in (cached, reference, untold):
        sampler.reset(frames, actions)
    for number in range(3):
        new = [sampler.step(actions[:, number % 2]) for sampler in (cached, reference, untold)]
        torch.testing.assert_close(new[0], new[1], atol=1e-3, rtol=1e-3)
        assert (new[0] - new[2]).abs().max() > 1e-3


def test_texts_are_bytes_of_any_language_and_any_length():
    texts = ["", "pong", "Ünïcödé 卓球 🏓", "🏓" * 400, "a" * (MAX_BYTES - 1) + "é"]
    encoded = encode_bytes(texts)
    assert encoded.shape == (5, MAX_BYTES) and encoded.dtype == torch.uint8
    lengths = (encoded > 0).sum(1).tolist()
    assert lengths == [0, 4, len(texts[2].encode()), MAX_BYTES, MAX_BYTES - 1]  # no half of a character
    model = several()
    vectors = model.text_encoder(encoded)
    assert vectors.isfinite().all() and not vectors[0].any() and torch.pdist(vectors).min() > 1e-3
    torch.testing.assert_close(model.text_encoder(encode_bytes(["pong"]))[0], vectors[1])  # padding is not read
    assert encode_bytes([""]).shape == (1, 1)
    SamplerSettings(text="卓球\u3000\u00a0👩\u200d💻")  # spaces and joined letters that Python calls unprintable
    for bad in ("a\nb", "a" * 1001, "\ud800", 5):
        with pytest.raises(ValueError, match="text is"):
            SamplerSettings(text=bad)


def test_filling_in_without_guidance_knows_neither_words_nor_actions():
    model = select_game(random_model(replace(SEVERAL, can_fill=True), game=GAMES), "pong")
    frames, _, actions = random_inputs(model.config, batch=1, num_frames=4)
    frames, known = frames.clamp(-1, 1), torch.tensor([True, False, False, True])
    none, settings = torch.zeros_like(actions), SamplerSettings(num_steps=2)
    *_, unguided = fill(model, frames, known, actions, replace(settings, guidance=0.0))
    *_, hidden = fill(without_text(model), frames, known, none, settings)
    torch.testing.assert_close(unguided, hidden)
    *_, with_words = fill(model, frames, known, none, settings)
    assert (unguided - with_words).abs().max() > 1e-3


def test_the_nearest_game_is_that_of_the_nearest_caption():
    model = several()
    assert nearest_game(model, "pong, wide picture") == "wide" and nearest_game(model, "pong, two paddles") == "pong"
    assert nearest_game(several(words=False), "pong") == "" and nearest_game(random_model(), "pong") == ""


def test_a_checkpoint_keeps_its_games(tmp_path):
    several().save_pretrained(tmp_path)
    loaded = WorldModel.from_pretrained(tmp_path)
    assert loaded.game == GAMES and loaded.config.words
    values = json.loads((tmp_path / "game.json").read_text())
    for game in values["games"]:  # as it was before
        game["environment_options"] = list(game["environment_options"].items())
        game["frame_height"], game["frame_width"], _ = game.pop("frame_shape")
        del game["num_actions"]
    (tmp_path / "game.json").write_text(json.dumps({"environment": "", "action_names": [], "fps": 15.0, **values}))
    assert WorldModel.from_pretrained(tmp_path).game == GAMES


def _games(**change) -> list:
    first, *others = json.loads(json.dumps(GAMES.to_dict()))["games"]
    return [{**first, **change}, *others]


@pytest.mark.parametrize(
    "games",
    [
        *("x", 5, {"a": 1}, [5], [None], [[]], _games() * 30),
        *(_games(name=name) for name in (5, "a\x1b", "a" * 1000)),
        *(_games(action_offset=offset) for offset in (-1, 4, 10**9, 0.5, None)),
        *(_games(frame_shape=[16, width, 3]) for width in (20, 0, -8, 10**9, 16.0, "16")),
        *(_games(frame_shape=shape) for shape in (5, [16], "16")),
        *(_games(caption=caption) for caption in (5, "a" * 10**5, "a\nb")),
        _games(fps=0),
    ],
    ids=lambda games: repr(games)[:40],
)
def test_games_of_strangers_are_checked(tmp_path, games):
    several().save_pretrained(tmp_path)
    (tmp_path / "game.json").write_text(json.dumps({"games": games}))
    with pytest.raises(ValueError, match=r"game\.json is not the description of a game: ") as error:
        WorldModel.from_pretrained(tmp_path)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)
