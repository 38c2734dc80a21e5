"""Speed of static sites in Chromium beside torch on the same cores, in turn: the ratios hold on busy machines too.

PYTHONPATH=tests python tests/web_speed.py --checkpoint checkpoints/pong-pico --data samples/pong
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from screenshots import chromium, wait_for_phase
from static_server import serving_files

from dreamrun import cli
from dreamrun.export.onnx_graph import Weights
from dreamrun.export.runtime import find_runtime
from dreamrun.export.site import NUM_STEPS, SiteEntry, write_site
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.inference import prepare_for_inference
from dreamrun.model.options import SamplerSettings

PREPARE = """async ([base, threads]) => {
  const get = (name) => import(new URL(name, base));
  const [{ load }, { Dream }, { normals }] = [await get("load.js"), await get("dream.js"), await get("random.js")];
  const { config, network } = await load(new URL(base), { threads, device: "wasm" }, () => {});
  const dream = new Dream(config, network), nothing = new Float32Array(config.space.num_actions);
  await dream.reset([], [], normals(0));
  window.frameMs = async (steps, count) => {
    const times = [];
    for (let i = 0; i < count; i++) {
      const start = performance.now();
      await dream.step(nothing, steps);
      await dream.pending;
      times.push(performance.now() - start);
    }
    return times;
  };
}"""


@dataclass(frozen=True)
class SpeedConfig:
    """What to measure."""

    checkpoint: Path
    data: Path
    weights: tuple[Weights, ...] = ("fp32", "fp16", "int8")
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 6  # of all settings in turn
    frames: int = 4  # in each round


def main(config: SpeedConfig) -> None:
    """Print a row for each setting, and JSON."""
    model = WorldModel.from_pretrained(config.checkpoint)
    game = SiteEntry(config.checkpoint, config.data)
    results = []
    with tempfile.TemporaryDirectory() as folder, serving_files(Path(folder)) as address, chromium() as browser:
        pages = {}
        for weights in config.weights:
            site = Path(folder) / "isolated" / weights
            site.mkdir(parents=True)
            write_site(site, [game], "Speed", weights, find_runtime())
            print(f"{weights}: {_describe_start(browser, f'{address}/isolated/{weights}/', site)}")
            for threads in config.threads:
                page = browser.new_page()
                page.goto(f"{address}/isolated/{weights}/config.json")
                page.evaluate(PREPARE, [f"{address}/isolated/{weights}/", threads])
                pages[weights, threads] = page
        for steps in NUM_STEPS:
            runs = {
                f"page, {weights}, {threads} threads": lambda page=page, steps=steps: page.evaluate(
                    "([steps, frames]) => frameMs(steps, frames)", [steps, config.frames]
                )
                for (weights, threads), page in pages.items()
            }
            for threads in config.threads:
                runs[f"torch, {threads} threads"] = _torch_timer(model, steps, threads, config.frames)
            times = {name: [] for name in runs}
            for _ in range(config.rounds):
                for name, run in runs.items():
                    times[name] += run()
            for name, values in times.items():
                results.append(
                    {"steps": steps, "run": name, "median_ms": float(np.median(values)), "min_ms": min(values)}
                )
                print(f"{steps} steps  {name:24s} median {np.median(values):7.1f} ms, fastest {min(values):7.1f} ms")
    print(json.dumps(results))


def _describe_start(browser, address: str, site: Path) -> str:
    """Bytes of a first visit, and the seconds until the dream can start, at first and from the browser's cache."""
    context = browser.new_context()
    seconds, loaded = [], 0
    for _ in range(2):
        page = context.new_page()
        start = time.perf_counter()
        page.goto(f"{address}?device=wasm")
        wait_for_phase(page, "ready")
        seconds.append(time.perf_counter() - start)
        urls = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
        page.close()
    config = json.loads((site / "config.json").read_text())
    needed = [*config["runtime"]["wasm"].values()][:3]
    loaded = sum((site / "runtime" / name).stat().st_size for name in needed)
    skipped = {config["models"]["webgpu"]} - {config["models"]["wasm"]}
    loaded += sum(path.stat().st_size for path in site.iterdir() if path.is_file() and path.name not in skipped)
    loaded += sum(path.stat().st_size for path in (site / "prompts").iterdir())
    context.close()
    assert all(url.startswith(address) or url.startswith("data:") for url in urls)
    return f"{loaded / 1e6:.1f} MB; ready after {seconds[0]:.1f} s, then {seconds[1]:.1f} s"


def _torch_timer(model: WorldModel, steps: int, threads: int, frames: int):
    sampler = Sampler(prepare_for_inference(model, torch.device("cpu")), SamplerSettings(num_steps=steps))
    sampler.reset(torch.zeros(1, model.config.window_frames - 1, *model.config.frame_shape))
    action = torch.zeros(1, model.config.num_actions)

    def run() -> list[float]:
        torch.set_num_threads(threads)
        times = []
        for _ in range(frames):
            start = time.perf_counter()
            sampler.step(action)
            times.append(1000 * (time.perf_counter() - start))
        return times

    return run


if __name__ == "__main__":
    cli.run(main, __doc__)
