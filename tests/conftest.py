"""Tiny data sets that several tests share."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from tiny import CONTROLS, SMALLEST, command, in_this_process, random_model

from dreamrun.data import collecting
from dreamrun.data.metadata import METADATA_FILE
from dreamrun.data.records import Record, encode_record
from dreamrun.data.shards import SUFFIX, write_shard
from dreamrun.games.game import Game
from dreamrun.games.space import UNCONDITIONAL, unnamed_actions
from dreamrun.model import PRESETS, ModelConfig

torch.set_num_threads(1)  # the networks are so small that threads cost more than they give

# So small that a record costs next to nothing.
TINY = Game("coinrun", frame_shape=(8, 8, 3), actions=unnamed_actions(5))


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tests whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def tiny_metadata() -> Game:
    """What the sets of `write_set` say of themselves."""
    return TINY


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """make_record(num_frames, seed): random actions; each frame shows the action taken before it (9 for none)."""

    def make(num_frames: int, seed: int = 0) -> Record:
        rng = np.random.default_rng((num_frames, seed))
        record = Record(
            frames=rng.integers(0, 256, (num_frames, *TINY.frame_shape), np.uint8),
            actions=rng.integers(0, len(TINY.actions), num_frames).astype(np.int32),
        )
        record.frames[0, 0, 0, 0] = 9
        record.frames[1:, 0, 0, 0] = record.actions[:-1]
        return record

    return make


@pytest.fixture(scope="session")
def write_set() -> Callable[..., Path]:
    """write_set(folder, records, split, records_per_shard): a data set of such records; returns the folder."""

    def write(folder: Path, records: list[Record], split: str = "train", records_per_shard: int = 100) -> Path:
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / METADATA_FILE).write_text(json.dumps(TINY.to_dict()))
        for at in range(0, len(records), records_per_shard):
            path = folder / split / f"data_{at // records_per_shard:04d}{SUFFIX}"
            write_shard(path, map(encode_record, records[at : at + records_per_shard]))
        return folder

    return write


def collect_pong(out: Path, **options) -> Path:
    """A data set of real Pong, as scripts.collect makes it, but in this process. Not to be written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "worker_pool", in_this_process)
        collecting.collect(collecting.CollectConfig(env="pong", out=out, workers=1, **options), lambda _: None)
    return out


@pytest.fixture(scope="session")
def pong_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of real Pong: 24, 4 and 3 records."""
    return collect_pong(tmp_path_factory.mktemp("sets") / "pong", records=24, val_records=4, test_records=3)


@pytest.fixture(scope="session")
def wide_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pong at 48x32: 8, 2 and 2 records."""
    out = tmp_path_factory.mktemp("sets") / "wide"
    return collect_pong(out, size="48x32", records=8, val_records=2, test_records=2)


@pytest.fixture(scope="session")
def controls_config(tmp_path_factory: pytest.TempPathFactory):
    """Options to play random weights of a game of one's own, with buttons and axes."""
    from playing import config_of_own_game

    return config_of_own_game(tmp_path_factory.mktemp("controls"), CONTROLS)


@pytest.fixture(scope="session")
def watched_config(tmp_path_factory: pytest.TempPathFactory):
    """Options to play random weights of the same game without actions."""
    from playing import config_of_own_game

    return config_of_own_game(tmp_path_factory.mktemp("watched"), UNCONDITIONAL)


@pytest.fixture(scope="session")
def config_of_several_games(tmp_path_factory: pytest.TempPathFactory, pong_set: Path, wide_set: Path):
    """Options to play random weights of two games that are told in words: Pong, and Pong at 48x32."""
    from playing import PlayConfig, several_games_checkpoint

    checkpoint = several_games_checkpoint(tmp_path_factory.mktemp("checkpoints") / "several", pong_set, wide_set)
    return PlayConfig(checkpoint=str(checkpoint), data=(pong_set, wide_set), port=0, num_steps=2, fps=30.0)


@pytest.fixture(scope="session")
def play_config(tmp_path_factory: pytest.TempPathFactory, pong_set: Path):
    """Options to play a network of random weights with the prompts of `pong_set`."""
    from playing import PlayConfig, random_checkpoint  # here, as a server takes a while to import

    checkpoint = random_checkpoint(tmp_path_factory.mktemp("checkpoints") / "random", pong_set)
    return PlayConfig(checkpoint=str(checkpoint), data=pong_set, port=0, fps=30.0, num_steps=2, max_players=3)


@pytest.fixture(scope="module")
def address(play_config):
    """The address of a server with `play_config` that runs while a module is tested."""
    from playing import serving

    with serving(play_config) as address:
        yield address


@pytest.fixture(scope="session")
def page_config(play_config):
    """Options for the tests in the browser: the game's own frame rate, and two places."""
    return replace(play_config, fps=None, num_steps=1, max_players=2)


@pytest.fixture(scope="module")
def page_address(page_config):
    """The address of a server with `page_config` that runs while a module is tested."""
    from playing import serving

    with serving(page_config) as address:
        yield address


@pytest.fixture
def play(address):
    """play(): a client of that server that has a place. All clients disconnect at the end."""
    from playing import Client

    with contextlib.ExitStack() as clients:
        yield lambda: clients.enter_context(Client(address)).join()


@pytest.fixture
def train_command(monkeypatch, capsys, pong_set, tmp_path):
    """train_command(*more options): train a network that trains in no time on Pong, with few steps of everything.

    It draws no plot, which would take longer than the training. `before_step` is called before each
    step with the state and the batch.
    """
    from dreamrun.training import loop

    train_step = loop.train_step
    monkeypatch.setitem(PRESETS, "smallest", SMALLEST)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)  # nobody's account

    def run(*options, before_step=None):
        def step(run, batch):
            if before_step:
                before_step(run.state, batch)
            return train_step(run, batch)

        monkeypatch.setattr(loop, "train_step", step)
        few = ("--preset", "smallest", "--batch-size", 4, "--log-every", 2, "--val-every", 4, "--rollout-every", 8)
        few += ("--val-batches", 2, "--checkpoint-every", 4, "--warmup-steps", 2, "--epoch-clips", 8)
        few += ("--rollout-frames", 8, "--no-plot")
        out = ("--out", tmp_path / "run") if "--out" not in options else ()
        data = ("--data", pong_set) if "--data" not in options else ()
        return command(monkeypatch, capsys, "train_world_model", *data, *out, *few, *options)

    run.data = pong_set
    return run


@pytest.fixture(scope="session")
def pong_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that fits `pong_set`, without the names of its actions."""
    folder = tmp_path_factory.mktemp("checkpoints") / "random"
    config = ModelConfig(patch_size=16, dim=32, num_blocks=1, num_heads=2, window_frames=6, num_actions=3)
    random_model(config).save_pretrained(folder)
    return folder


@pytest.fixture
def run_script(monkeypatch, capsys, tmp_path):
    """run_script("infer", *options): run a script in an empty folder; exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    return lambda name, *options: command(monkeypatch, capsys, f"scripts.{name}", *options)


@pytest.fixture(scope="module")  # while it is open, an asyncio loop runs in this thread, which other tests cannot use
def browser():
    """Debian's Chromium without a window, which `./setup.sh --browser` installs.

    Without it the tests are skipped, unless DREAMRUN_BROWSER=required (as in .ci/run).
    """
    from screenshots import CHROMIUM, chromium

    missing = "no Chromium: ./setup.sh --browser installs it"
    if CHROMIUM is None and os.environ.get("DREAMRUN_BROWSER") != "required":
        pytest.skip(missing)
    assert CHROMIUM, missing
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shared_page(browser, page_address):
    """A page that the tests of a module use in turn, as loading one takes seconds, and a list of its errors."""
    from browsing import note_errors
    from screenshots import DESKTOP

    page = browser.new_context(viewport=DESKTOP, accept_downloads=True).new_page()
    page.set_default_timeout(60_000)  # several test processes share the cores
    errors = note_errors(page, page_address)
    page.goto(page_address)
    page.wait_for_selector("#details:has-text('seed')")
    yield page, errors
    page.context.close()


@pytest.fixture
def page(shared_page):
    """The page at the start of a new dream. Errors in the page fail the test."""
    from browsing import wait_until

    page, errors = shared_page
    details = page.inner_text("#details")
    page.click("#restart")
    wait_until(lambda: page.inner_text("#details") != details)  # another seed
    page.wait_for_selector(".stage[data-phase=ready][data-frame='0']")
    yield page
    assert not errors


@pytest.fixture
def visit(browser, request):
    """visit(address, phase, **options of the browser): the page in a phase, with nothing kept from another one.

    Errors in the page fail the test, and requests to any other host.
    """
    from browsing import note_errors
    from screenshots import DESKTOP, wait_for_phase

    contexts, errors = [], []

    def open_page(where=None, phase="ready", ignore_errors=False, **options):
        where = where or request.getfixturevalue("page_address")
        context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True, **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        errors.append(note_errors(page, where, ignore_errors))
        page.goto(where)
        if phase is not None:
            wait_for_phase(page, phase)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not any(errors)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running fake Hub. Its state: the created repository and the committed files."""
    from hub import FakeHub

    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.state = {"created": None, "files": {}}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
    }
    for name, value in values.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield server.state
    server.shutdown()
    server.server_close()
