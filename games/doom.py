"""Doom by ViZDoom (arXiv 1605.02097): `doom:SCENARIO`, `doom:freedoom2-MAP01`, or a map of a WAD, `doom:WAD:MAP01`.

Only a WAD whose name the user typed is opened, as a name may come from a file of a stranger.
"""

import contextlib
import os
import re
import struct
import subprocess
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dreamrun.games.game import Game, make_caption, parse_size, picture_words
from dreamrun.games.gymnasium import FRAME_SKIP_RANGE, import_environment_module, is_typed
from dreamrun.games.replayed import ReplayedVectorEnv
from dreamrun.games.space import ActionSpace

TICS_PER_SEC = 35
MAP_TIMEOUT_TICS = 4200  # an episode of a map lasts two minutes, unless the player dies or leaves the map
MOUSE_SCALE_DEGREES = 10.0  # a turn in one frame that is 1 in an action
MAX_WAD_LUMPS = 1 << 20
# What a caption says of each scenario, and what its player can do.
SCENARIOS = {
    "my_way_home": ("a maze of rooms with a vest in one", "left right strafe_left strafe_right forward"),
    "health_gathering_supreme": ("medkits and poison in a maze of acid", "left right forward"),
    "defend_the_center": ("monsters all around a round arena", "left right attack"),
    "defend_the_line": ("monsters at the far end of a hall", "left right attack"),
    "deadly_corridor": (
        "a corridor with monsters on both sides and a vest",
        "left right strafe_left strafe_right forward backward attack",
    ),
    "take_cover": ("fireballs to evade", "strafe_left strafe_right"),
}
_MAP_BUTTONS = "left right strafe_left strafe_right forward backward attack use"
# Name -> ViZDoom's button, the keys of single actions, and those of buttons beside a mouse, which turns.
_BUTTONS = {
    "left": ("TURN_LEFT", ("LEFT",), ()),
    "right": ("TURN_RIGHT", ("RIGHT",), ()),
    "strafe_left": ("MOVE_LEFT", ("SHIFT", "LEFT"), ("A",)),
    "strafe_right": ("MOVE_RIGHT", ("SHIFT", "RIGHT"), ("D",)),
    "forward": ("MOVE_FORWARD", ("UP",), ("W", "UP")),
    "backward": ("MOVE_BACKWARD", ("DOWN",), ("S", "DOWN")),
    "attack": ("ATTACK", ("SPACE",), ("SPACE", "MOUSE1")),
    "use": ("USE", ("E",), ("E",)),
    "turn": ("TURN_LEFT_RIGHT_DELTA", (), ("LEFT", "RIGHT")),
}
_TOGETHER = (("forward", "backward"), ("left", "right", "strafe_left", "strafe_right"), ("attack",))  # one of each
_NAME = re.compile(
    r"doom:(?:(?P<scenario>[a-z_]{1,64})|(?:freedoom(?P<phase>[12])-|(?P<wad>[^\0]{1,180}\.wad):)"
    r"(?P<map>MAP\d\d|E\dM\d))",
    re.IGNORECASE,
)
_RESOLUTIONS = ((160, 120), (320, 240), (640, 480))
# The explore policy's player turns for so many frames when it has run into something, or where it cannot run.
_TURN_FRAMES = (4, 18)
_RUN_UP_FRAMES = 4  # after so many it should have moved
_MIN_MOVE = 1.0  # map units a frame


class DoomVectorEnv(ReplayedVectorEnv):
    """N games, each in an engine process of its own. Rendered without a status bar, then reduced by area."""

    option_names, usage = ("frame_skip", "size", "mouse"), "doom:SCENARIO"
    max_collected = 4  # an engine takes 0.2 CPU seconds to start

    @classmethod
    def check_name(cls, name: str, import_modules: bool = False) -> None:
        match = _NAME.fullmatch(name)
        if not match or (match["scenario"] and match["scenario"] not in SCENARIOS):
            raise ValueError(
                f"{name!r:.80} is not the name of a Doom game: choose doom: and {', '.join(SCENARIOS)}, "
                "freedoom1-E1M1, freedoom2-MAP01 or another of their maps, or doom:FILE.wad:MAP01"
            )
        wad = match["wad"]
        if wad and import_modules:
            import_environment_module(wad)
        elif wad and not is_typed(wad):
            raise ValueError(
                f"{name} needs the file {wad}, which is not opened because a file names it: "
                f"if you trust it, type its name: --env-module {wad}"
            )

    @classmethod
    def describe(cls, name: str, frame_skip: int = 2, size: str = "64x48", mouse: bool = False) -> Game:
        """The game of that name.

        Args:
            frame_skip: tics, of 1/35 s each, for which an action is held.
            size: width x height of a frame.
            mouse: buttons held together and a mouse axis that turns, in place of single actions.
        """
        FRAME_SKIP_RANGE.check("frame_skip", frame_skip)
        width, height = parse_size(size)
        if width > _RESOLUTIONS[-1][0] or height > _RESOLUTIONS[-1][1]:
            raise ValueError(f"size is {size!r:.40}: Doom is drawn in at most 640x480")
        if type(mouse) is not bool:
            raise ValueError(f"mouse is {mouse!r:.40}: expected true or false")
        match = _NAME.fullmatch(name)
        _import_vizdoom()
        if match["map"]:
            _check_map(_wad_path(match), match["map"].upper())
        words, buttons = SCENARIOS.get(match["scenario"], ("a map of monsters and doors", _MAP_BUTTONS))
        if mouse and "left" not in buttons.split():
            raise ValueError(f"{name} has no mouse, because its player cannot turn: leave it out")
        return Game(
            environment=name,
            environment_options=(("frame_skip", frame_skip), ("size", size), ("mouse", mouse)),
            frame_shape=(height, width, 3),
            fps=round(TICS_PER_SEC / frame_skip, 3),
            actions=(_mouse_actions if mouse else _single_actions)(buttons.split()),
            caption=make_caption(
                f"doom {match['scenario'] or match['map'].upper()}", words, picture_words(width, height)
            ),
        )

    def _open_games(self, game: Game) -> None:
        names, scales = self.actions.names, self.actions.scales
        if self.actions.discrete:
            names = tuple(name for name in _BUTTONS if any(name in action.split("+") for action in self.actions.names))
            # What is sent to the engine for each action, one number a button.
            self._sent = np.array(
                [[float(name in action.split("+")) for name in names] for action in self.actions.names]
            )
            # Running leads somewhere: it is drawn more often.
            self.explore_weights = np.where(["forward" in action for action in self.actions.names], 3.0, 1.0)
        else:  # what is sent for a 1; the engine turns by the mouse's number in every tic
            is_axis = np.array(self.actions.kinds) == "axis"
            self._sent = np.where(is_axis, np.array(scales) / self.options["frame_skip"], 1.0)
        others, self._engines, self._watcher = _children(), [], None
        for _ in range(self.num_envs):
            self._engines.append(_start_engine(self.name, [_BUTTONS[name][0] for name in names], game.frame_shape))
        self._watcher = _start_watcher(_children() - others)
        # Of the wanderer, see `suggested_actions`.
        left, right = ("left", "right") if "left" in names else ("strafe_left", "strafe_right")
        if "turn" in names:
            left, right = "turn=-0.5", "turn=0.5"
        self._turn_actions = [self.actions.parse(left), self.actions.parse(right)]
        self._run_action = self.actions.parse("forward") if "forward" in names else None
        self._wander_rng = np.random.default_rng(self._streams)
        self._turn_frames, self._run_frames = np.zeros((2, self.num_envs), np.int64)  # still to turn, and run so far
        self._turns_right = np.zeros(self.num_envs, np.int64)
        self._positions = np.zeros((self.num_envs, 2))

    def _begin(self, number: int, level_seed: int) -> np.ndarray:
        engine = self._engines[number]
        engine.set_seed(level_seed)
        engine.new_episode()
        return engine.get_state().screen_buffer

    def _play(self, number: int, action: Any, show: bool = True) -> tuple[np.ndarray | None, float, bool, bool]:
        engine = self._engines[number]
        sent = self._sent[action] if self.actions.discrete else self._sent * action
        engine.set_action(sent.tolist())
        engine.advance_action(self.options["frame_skip"], show)
        if not engine.is_episode_finished():
            return engine.get_state().screen_buffer if show else None, engine.get_last_reward(), False, False
        truncated = engine.is_episode_timeout_reached() and not engine.is_player_dead()
        return None, engine.get_last_reward(), not truncated, truncated

    def suggested_actions(self) -> np.ndarray:
        """(N,) or (N, names): a wanderer runs until its position stops changing, then turns for a while.

        Where nobody can run it turns one way, then another; where nobody can turn either, it steps aside.
        """
        suggested = []
        for number in range(self.num_envs):
            if self._turn_frames[number]:
                self._turn_frames[number] -= 1
            else:
                position = self.position(number)
                moved = np.abs(position - self._positions[number]).max()
                self._positions[number], self._run_frames[number] = position, self._run_frames[number] + 1
                if self._run_action is None or (self._run_frames[number] > _RUN_UP_FRAMES and moved < _MIN_MOVE):
                    self._turn_frames[number] = self._wander_rng.integers(*_TURN_FRAMES)
                    self._turns_right[number] = self._wander_rng.integers(2)
                    self._run_frames[number] = 0
            turning = self._turn_frames[number] > 0 or self._run_action is None
            suggested.append(self._turn_actions[self._turns_right[number]] if turning else self._run_action)
        return np.array(suggested)

    def position(self, number: int) -> np.ndarray:
        """Where the player of game `number` is, in map units."""
        variable = _import_vizdoom().GameVariable
        return np.array(
            [self._engines[number].get_game_variable(v) for v in (variable.POSITION_X, variable.POSITION_Y)]
        )

    def close_extras(self, **kwargs):
        for engine in self._engines:
            engine.close()
        if self._watcher:
            self._watcher.communicate()


def _single_actions(buttons: list[str]) -> ActionSpace:
    """One action at a time: what can be held together, with noop first, and use alone."""
    groups = [(None, *(name for name in group if name in buttons)) for group in _TOGETHER]
    actions = [tuple(filter(None, action)) for action in product(*groups)]
    actions += [("use",)] * ("use" in buttons)
    can_turn = "left" in buttons  # else the arrows step aside without shift
    keys = [[key for name in action for key in _BUTTONS[name][1] if can_turn or key != "SHIFT"] for action in actions]
    return ActionSpace(
        names=tuple("+".join(action) or "noop" for action in actions),
        keys=tuple(map(tuple, keys)),
        acting=tuple(range(len(actions))),
    )


def _mouse_actions(buttons: list[str]) -> ActionSpace:
    """Buttons, and the axis `turn`, which the mouse moves: 1 turns right by MOUSE_SCALE_DEGREES in a frame."""
    names = (*(name for name in buttons if name not in ("left", "right")), "turn")
    return ActionSpace(
        names=names,
        keys=tuple(_BUTTONS[name][2] for name in names),
        acting=tuple(range(len(names))),
        kinds=("button",) * (len(names) - 1) + ("axis",),
        scales=(1.0,) * (len(names) - 1) + (MOUSE_SCALE_DEGREES,),
    )


def _import_vizdoom() -> ModuleType:
    try:
        import vizdoom
    except ImportError:
        raise ValueError("ViZDoom is not installed: pip install 'dreamrun[doom]'") from None
    return vizdoom


def _wad_path(match: re.Match) -> Path:
    """The file that holds the map of a name."""
    if match["wad"]:
        return Path(match["wad"]).absolute()
    return Path(_import_vizdoom().scenarios_path).parent / f"freedoom{match['phase']}.wad"


def _check_map(path: Path, map_name: str) -> None:
    """Raises ValueError unless the file is a WAD that holds the map: the engine would play another one."""
    try:
        with path.open("rb") as file:
            magic, num_lumps, directory = struct.unpack("<4sII", file.read(12))
            if magic not in (b"IWAD", b"PWAD") or num_lumps > MAX_WAD_LUMPS:
                raise ValueError(f"{path} is not a WAD")
            file.seek(directory)
            lumps = file.read(16 * num_lumps)  # position, size, name
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except struct.error:
        raise ValueError(f"{path} is not a WAD") from None
    names = [lumps[i + 8 : i + 16].rstrip(b"\0").decode("latin1").upper() for i in range(0, len(lumps), 16)]
    maps = [name for name in names if re.fullmatch(r"MAP\d\d|E\dM\d", name)]
    if map_name not in maps:
        raise ValueError(f"{path.name} has no map {map_name}: choose {', '.join(maps) or 'another file'}")


def _start_engine(name: str, buttons: list[str], frame_shape: tuple[int, int, int]) -> Any:
    """Start an engine: a `vizdoom.DoomGame`, whose process ends when it is closed."""
    vizdoom, match = _import_vizdoom(), _NAME.fullmatch(name)
    engine = vizdoom.DoomGame()
    if match["scenario"]:
        engine.load_config(str(Path(vizdoom.scenarios_path) / f"{match['scenario']}.cfg"))
    else:
        # A WAD is laid over Freedoom, whatever it is: the engine crashes if a WAD of its own lacks what it needs.
        (engine.set_doom_scenario_path if match["wad"] else engine.set_doom_game_path)(str(_wad_path(match)))
        engine.set_doom_map(match["map"].upper())
        engine.set_episode_timeout(MAP_TIMEOUT_TICS)
        engine.set_kill_reward(1)
        engine.set_map_exit_reward(1)
    engine.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
    engine.set_available_game_variables([])
    height, width, _ = frame_shape
    resolution = next((w, h) for w, h in _RESOLUTIONS if w >= width and h >= height)
    engine.set_screen_resolution(getattr(vizdoom.ScreenResolution, "RES_{}X{}".format(*resolution)))
    engine.set_screen_format(vizdoom.ScreenFormat.RGB24)
    engine.set_render_hud(False)  # its face is drawn by a random generator that frames advance
    engine.set_render_messages(False)
    engine.set_window_visible(False)
    engine.set_sound_enabled(False)
    engine.set_mode(vizdoom.Mode.PLAYER)
    engine.set_doom_config_path(os.devnull)  # else settings in the current folder count, and are written
    try:
        engine.init()
    except Exception as error:  # the engine's own errors have no common class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"cannot play {name}: {reason}") from None
    finally:
        with contextlib.suppress(OSError):  # the engine makes it in the current folder, and leaves it empty
            os.rmdir("_vizdoom")
    return engine


def _children() -> set[str]:
    """The numbers of the processes that this one has started; none where there is no Linux's /proc."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def _start_watcher(engines: set[str]) -> subprocess.Popen | None:
    """Start a process that ends those engines when this process has gone, even if it was killed.

    On their own they would wait for it for good. A number that another program has got meanwhile is left alone.
    """
    if not engines:
        return None
    script = 'read _; for pid; do case $(readlink /proc/$pid/exe) in "$0") kill -9 $pid; esac; done'
    command = ["sh", "-c", script, str(Path(_import_vizdoom().exe_path).resolve()), *engines]
    # A session of its own: Ctrl-C does not reach it.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
