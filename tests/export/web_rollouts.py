"""Rollouts of a site's network in the browser, compared with those of torch under the same noise."""

from pathlib import Path

import numpy as np
import torch

from dreamrun.data.batch import to_float
from dreamrun.export.site import SiteEntry
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.play.actions import playable_actions

NUM_STEPS, SEED = 4, 11

# Rolls out under actions that are given as vectors; the noise and the frames of torch are in a file.
ROLL_OUT = """async ([base, threads, device, vectors]) => {
  const get = (name) => import(new URL(name, base));
  const [{ load }, { Dream }] = [await get("load.js"), await get("dream.js")];
  const { config, network, device: name } = await load(new URL(base), { threads, device }, () => {});
  const dream = new Dream(config, network);
  const file = new Float32Array(await (await fetch(new URL("reference.bin", base))).arrayBuffer());
  let at = 0;
  const take = (n) => file.slice(at, (at += n));
  const pixels = Uint8Array.from(take(dream.size));
  await dream.reset([pixels], [Float32Array.from(vectors[0])], take);
  let worst = 0;
  for (let t = 1; t < vectors.length; t++) {
    const frame = await dream.step(Float32Array.from(vectors[t]), NUM_STEPS);
    const expected = take(dream.size);
    await dream.pending;
    worst = frame.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i])), worst);
  }
  return { worst, name };
}""".replace("NUM_STEPS", str(NUM_STEPS))


def write_reference(folder: Path, game: SiteEntry, num_frames: int) -> list[list[float]]:
    """Write torch's frames with all their noise into a site's folder; returns the actions.

    In the order of their use: the prompt's pixels, its noise, and for each frame its noise and the frame.
    """
    model = WorldModel.from_pretrained(game.checkpoint)
    space, shape = playable_actions(model), model.config.frame_shape
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, *shape[1:], shape[0]), np.uint8)
    actions = np.concatenate((space.unknown(1), space.random(rng, num_frames)))
    vectors = torch.from_numpy(space.vectors(actions))
    generator = torch.Generator().manual_seed(SEED)
    sampler = Sampler(model, SamplerSettings(num_steps=NUM_STEPS, seed=SEED))
    sampler.reset(to_float(pixels)[None], vectors[None, :1])
    parts = [torch.from_numpy(pixels.astype(np.float32)), torch.randn((1, *shape), generator=generator)]
    for t in range(1, 1 + num_frames):
        parts += [torch.randn((2, *shape), generator=generator), sampler.step(vectors[t][None])]
    (folder / "reference.bin").write_bytes(b"".join(part.numpy().tobytes() for part in parts))
    return vectors.tolist()
