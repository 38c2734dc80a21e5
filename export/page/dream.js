// The sampler of model/sampler.py for one dream: reset(prompt), then step(action) for each frame.
// `network` runs the passes, see network.js. Frames are Float32Array (C, H, W) in [-1, 1].

export class Dream {
  constructor(config, network) {
    Object.assign(this, { config, network, noise: null, pending: null, position: 0, length: 0 });
    this.size = config.channels * config.height * config.width;
  }

  // frames: Uint8Array (H, W, C) each, at most as many as fit the window; vectors: the action that leads into each;
  // noise: as normals(seed) in random.js.
  async reset(frames, vectors, noise) {
    await this.pending;
    Object.assign(this, { noise, pending: null, position: 0, length: 0 });
    const eps = noise(frames.length * this.size);
    for (let t = 0; t < frames.length; t++) {
      await this.append(toFloat(frames[t], this.config), eps.subarray(t * this.size, (t + 1) * this.size), vectors[t]);
    }
  }

  // The next frame. Its keys and values are written afterwards, in `pending`: the frame can be shown meanwhile.
  async step(vector, numSteps) {
    await this.pending;
    const noise = this.noise(2 * this.size);
    const [x, eps] = [noise.subarray(0, this.size), noise.subarray(this.size)];
    const frame = await this.network.denoise(x, this.config.passes[numSteps], { vector, ...this.place() });
    this.pending = this.append(frame, eps, vector);
    return frame;
  }

  async append(frame, eps, vector) {
    const { scales, pass } = this.config.context;
    const context = frame.map((x, i) => scales[0] * x + scales[1] * eps[i]);
    await this.network.append(context, pass, { vector, ...this.place() });
    this.position += 1;
    this.length = Math.min(this.length + 1, this.config.window - 1);
  }

  // The network's inputs that tell where the next frame is, and which frames of the ring it attends to.
  place() {
    const { window, rotary_dim: rotaryDim, masked } = this.config;
    const cosSin = new Float32Array(rotaryDim), mask = new Float32Array(window + 1);
    for (let i = 0; i < rotaryDim / 2; i++) {
      const angle = this.position * 10000 ** ((-2 * i) / rotaryDim); // in double precision: positions may be large
      cosSin[i] = Math.cos(angle);
      cosSin[rotaryDim / 2 + i] = Math.sin(angle);
    }
    const index = this.position % window;
    for (let w = 0; w < window; w++) {
      const age = (index - w + window) % window;
      mask[w] = age >= 1 && age <= this.length ? 0 : masked;
    }
    return { cosSin, mask, index };
  }
}

export function toFloat(pixels, { channels, height, width }) {
  const size = height * width, out = new Float32Array(channels * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < channels; c++) out[c * size + i] = pixels[i * channels + c] * (2 / 255) - 1;
  return out;
}

export function toPixels(frame, { channels, height, width }) {
  const size = height * width, out = new Uint8ClampedArray(frame.length); // it rounds and clips
  for (let i = 0; i < size; i++) for (let c = 0; c < channels; c++) out[i * channels + c] = (frame[c * size + i] + 1) * 127.5;
  return out;
}
