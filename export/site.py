"""A static web site that plays exported networks: files that any host can serve.

A site of one game is a page. A site of several has a folder for each, under a page that lists them. All links are
relative, and nothing is loaded from other hosts.
"""

import copy
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.video import write_png
from dreamrun.export.onnx import MASKED, context_pass, denoising_passes, frame_scales
from dreamrun.export.onnx_graph import Weights
from dreamrun.export.onnx_sampler import export_checked
from dreamrun.export.runtime import ALL_FILES, FILES
from dreamrun.games.space import ActionSpace
from dreamrun.model import WorldModel
from dreamrun.model.checkpoint import hash_weights
from dreamrun.model.diffusion import CONTEXT_NOISE
from dreamrun.model.game_views import choose_game, find_game, fold_text
from dreamrun.model.modulation_table import ModulationTable
from dreamrun.play.actions import actions_to_json, key_labels, parse_action, playable_actions, step_actions
from dreamrun.play.gallery import NUM_THUMBNAILS, Gallery
from dreamrun.play.replay import FORMAT

ROOT = Path(__file__).parent.parent
PAGE, STAGE = ROOT / "export" / "page", ROOT / "play" / "stage"
NUM_STEPS = (1, 2, 4)  # denoising steps per frame that a player can choose
MIN_FRAME_NUMBERS = 16  # torch draws fewer normal numbers than that in another way, which the page does not know
README_FILE, TAG_LINE = "README.md", "tags: [dreamrun-site]"
MANIFEST_FILE = "export.json"  # the files that the export wrote; a later one replaces these alone


@dataclass(frozen=True)
class SiteEntry:
    """A checkpoint, and the data set with its prompts."""

    checkpoint: Path
    data: Path

    @property
    def name(self) -> str:
        """Of its folder in a site of several games."""
        return self.checkpoint.name


def is_site(folder: Path) -> bool:
    """Whether a folder holds a site that `write_site` has written."""
    readme = folder / README_FILE
    return readme.is_file() and TAG_LINE in readme.read_text(errors="replace")


def keep_other_files(site: Path, new: Path) -> None:
    """Copy what an earlier export did not write, such as `.git` and `CNAME`, from its folder into a new site."""
    manifest = site / MANIFEST_FILE
    written = set(json.loads(manifest.read_text())) if manifest.exists() else None  # None: of an early version
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site)
        if path.is_dir() and not path.is_symlink():
            continue
        if (new / name).exists():
            if written is not None and name.as_posix() not in written:
                raise ValueError(f"{path} would be replaced, and no export has written it: move it away")
        elif written is None or name.as_posix() not in written:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, new / name, follow_symlinks=False)


def write_site(folder: Path, games: list[SiteEntry], title: str, weights: Weights, runtime: Path) -> None:
    """Write a site into an empty folder. Equal arguments give equal bytes.

    Args:
        weights: of the networks in WebAssembly. On a GPU int8 is slow, so there fp16 takes its place.
    """
    if len(games) == 1:
        _write_game(folder, games[0], title, weights, runtime, "")
    else:
        cards = []
        for game in games:
            (folder / game.name).mkdir()
            cards.append((game.name, _write_game(folder / game.name, game, "", weights, runtime, "../")))
        _write_page(folder / "index.html", "games.html", title=title, games=cards)
        for name in ("page.css", "isolate.js"):  # one service worker for all games
            shutil.copy(PAGE / name, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    _write_page(folder / README_FILE, "site.md", title=json.dumps(title, ensure_ascii=False)[1:-1])
    (folder / "runtime").mkdir()
    for name in ALL_FILES:
        shutil.copyfile(runtime / name, folder / "runtime" / name)
    text = re.sub("Copyright.*", "Copyright (c) Microsoft Corporation", (ROOT / "LICENSE").read_text())  # MIT as well
    text = f"ONNX Runtime, https://github.com/microsoft/onnxruntime\n\n{text}"
    (folder / "runtime" / "LICENSE").write_text(text)
    written = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    (folder / MANIFEST_FILE).write_text(json.dumps([*written, MANIFEST_FILE]) + "\n")


def _write_game(folder: Path, game: SiteEntry, title: str, weights: Weights, runtime: Path, root: str) -> str:
    """Write the page of one game in a site whose root is `root`, and return its title."""
    checkpoint = WorldModel.from_pretrained(game.checkpoint)
    name = find_game(checkpoint, data=read_metadata(game.data))
    model = fold_text(choose_game(checkpoint, name))
    config = model.config
    if np.prod(config.frame_shape) < MIN_FRAME_NUMBERS:
        raise ValueError(f"{game.checkpoint}: frames of {config.frame_width}x{config.frame_height} are too small")
    space = playable_actions(model)
    gallery = Gallery(game.data, held_out_split(game.data), model)
    prompts = [gallery.prompt(i, gallery.default_moment(i)) for i in range(min(NUM_THUMBNAILS, len(gallery)))]
    models = {"wasm": weights, "webgpu": "fp16" if weights == "int8" else weights}
    for stored in sorted(set(models.values())):
        (folder / f"model.{stored}.onnx").write_bytes(export_checked(model, stored, with_table=space.discrete))
    if space.discrete:
        dtype = np.float32 if weights == "fp32" else np.float16
        (folder / "table.bin").write_bytes(_modulation_table(model).astype(dtype).tobytes())
    frames, starts = np.concatenate([p.frames for p in prompts]), np.cumsum([0, *(len(p.frames) for p in prompts)])
    (folder / "prompts.bin").write_bytes(gzip.compress(frames.tobytes(), mtime=0))
    for number, prompt in enumerate(prompts):
        frame = prompt.frames[-1]  # grey or RGB
        write_png(folder / "prompts" / f"{number}.png", np.broadcast_to(frame, (*frame.shape[:2], 3)))
    title = title or f"Dream of {model.game.environment or 'a game'}"
    files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir()) if path.is_file()}
    settings = {
        **_sampler_settings(model),
        "table_dtype": "float32" if weights == "fp32" else "float16",
        "files": files,
        "models": {device: f"model.{stored}.onnx" for device, stored in models.items()},
        "runtime": {"folder": f"{root}runtime/", **FILES, "files": {x: _fingerprint(runtime / x) for x in ALL_FILES}},
        "space": describe_space(space),
        "step_actions": {name: actions_to_json(parse_action(name, space)) for name in step_actions(space)},
        "prompts": [
            {"first": first, "actions": actions_to_json(prompt.actions), "moment": prompt.moment}
            for first, prompt in zip(starts.tolist(), prompts, strict=False)
        ],
        "hello": _describe_game(model, game, space, len(prompts)),
        "replay": {"format": FORMAT, "weights_sha256": hash_weights(checkpoint), **({"game": name} if name else {})},
    }
    (folder / "config.json").write_text(json.dumps(settings) + "\n")
    _write_page_files(folder, title, settings, space, root)
    return title


def _sampler_settings(model: WorldModel) -> dict[str, Any]:
    """What export/page/dream.js and network.js need of the network and the sampler."""
    config, levels = model.config, _noise_levels(model)
    passes = {n: denoising_passes(config, n) for n in NUM_STEPS}
    context = context_pass(CONTEXT_NOISE)
    return {
        "channels": config.num_channels,
        "height": config.frame_height,
        "width": config.frame_width,
        "window": config.window_frames,
        "blocks": config.num_blocks,
        "patches": config.num_patches,
        "dim": config.dim,
        "rotary_dim": config.rotary_dim,
        "vectors": config.num_modulation_vectors,
        "masked": MASKED,
        "levels": levels,
        "passes": {n: [[levels.index(p.noise_level), *p.coefficients] for p in passes[n]] for n in NUM_STEPS},
        "context": {
            "noise": CONTEXT_NOISE,
            "scales": frame_scales(config, CONTEXT_NOISE),
            "pass": [levels.index(CONTEXT_NOISE), *context.coefficients],
        },
    }


def _noise_levels(model: WorldModel) -> list[float]:
    levels = {frame_pass.noise_level for n in NUM_STEPS for frame_pass in denoising_passes(model.config, n)}
    return [*sorted(levels, reverse=True), CONTEXT_NOISE]


@torch.inference_mode()
def _modulation_table(model: WorldModel) -> np.ndarray:
    """float32 (levels, 1 + A, M, D); row 0 of a level is that of the zero action."""
    num_actions = model.config.num_actions
    actions = torch.cat((torch.zeros(1, num_actions), torch.eye(num_actions)))
    return ModulationTable(copy.deepcopy(model).float(), _noise_levels(model)).lookup(actions).numpy()


def _fingerprint(path: Path) -> dict[str, Any]:
    """What the page checks of a file that it has loaded."""
    return {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def describe_space(space: ActionSpace) -> dict[str, Any]:
    """The actions, for export/page/actions.js."""
    return {
        "num_actions": len(space),
        "kinds": list(space.kinds),
        "keys": [list(keys) for keys in space.keys],
        "aliases": space.key_aliases,
        "acting": list(space.acting),
        "noop": actions_to_json(space.noop),
        "unknown": actions_to_json(space.unknown(1))[0],
    }


def _describe_game(model: WorldModel, game: SiteEntry, space: ActionSpace, num_records: int) -> dict[str, Any]:
    """The stage's "hello" message, without what it shares with the config."""
    return {
        "server": "local",
        "game": model.game.environment or "a game",
        "checkpoint": game.name,
        "fps": model.game.fps,
        "actions": list(space.names),
        "keys": key_labels(space),
        "aliases": space.key_aliases,
        "num_steps": min(model.config.num_steps, NUM_STEPS[-1]),
        "most_steps": NUM_STEPS[-1],
        "num_records": num_records,
    }


def _write_page_files(folder: Path, title: str, settings: dict[str, Any], space: ActionSpace, root: str) -> None:
    _write_page(
        folder / "index.html",
        "page.html",
        title=title,
        root=root,
        stage=Markup((STAGE / "stage.html").read_text().strip()),
        step_actions=() if space.unconditional else settings["step_actions"],
        num_prompts=len(settings["prompts"]),
        num_steps=NUM_STEPS,
    )
    for path in [*sorted(PAGE.glob("*.js")), PAGE / "page.css"]:
        if not root or path.name != "isolate.js":
            shutil.copy(path, folder)
    # Gradio runs the stage's files as one function and nests its style sheet, and so does the page.
    scripts = "\n".join((STAGE / name).read_text() for name in ("stage.js", "keys.js", "pictures.js"))
    (folder / "stage.js").write_text(f"export function runStage(element, trigger) {{\n{scripts}\n}}\n")
    (folder / "stage.css").write_text(f"#stage {{\n{(STAGE / 'stage.css').read_text()}\n}}\n")


def _write_page(path: Path, template: str, **values: Any) -> None:
    templates = Environment(
        loader=FileSystemLoader(PAGE), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    path.write_text(templates.get_template(template).render(values))
