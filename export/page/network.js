// The exported network (export/onnx.py) on onnxruntime-web: in WebAssembly, or on the GPU.

class Network {
  // model: bytes of the ONNX file; table: Float32Array (levels, 1 + A, M, D), or null if the graph has none.
  constructor(ort, config, table) {
    Object.assign(this, { ort, config, table, passMs: [] });
    this.ringShape = [config.window, config.patches, config.dim];
    this.frameShape = [1, config.channels, config.height, config.width];
    this.keySize = config.patches * config.dim;
  }

  tensor(data, shape) {
    return new this.ort.Tensor("float32", data, shape);
  }

  // The graph's inputs besides the frame and the ring.
  inputs(pass, { vector, cosSin, mask }) {
    const { config } = this, [level, ...coefficients] = pass;
    return {
      ...this.condition(level, vector),
      coefficients: this.tensor(Float32Array.from(coefficients), [4]),
      cos_sin: this.tensor(cosSin, [2, config.rotary_dim / 2]),
      mask: this.tensor(mask, [mask.length]),
    };
  }

  condition(level, vector) {
    const { levels, vectors, dim } = this.config;
    if (!this.table) return { noise_level: this.tensor(Float32Array.of(levels[level]), [1, 1]), action: this.tensor(vector, [1, vector.length]) };
    const row = level * (1 + vector.length) + 1 + vector.indexOf(1); // row 0 of a level: no action
    const size = vectors * dim;
    return { modulations: this.tensor(this.table.subarray(row * size, (row + 1) * size), [vectors, dim]) };
  }

  async timed(run) {
    const start = performance.now(), result = await run;
    this.passMs.push(performance.now() - start);
    if (this.passMs.length > 60) this.passMs.shift();
    return result;
  }

  // Time of a pass in ms: the first quartile of the last ones, as the first ones run on code that is compiled meanwhile.
  get passTime() {
    return [...this.passMs].sort((a, b) => a - b)[this.passMs.length >> 2];
  }
}

export class WasmNetwork extends Network {
  static async create(ort, model, config, table) {
    const network = new WasmNetwork(ort, config, table);
    network.session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
    network.ring = {};
    for (let block = 0; block < config.blocks; block++) {
      for (const name of ["keys", "values"]) network.ring[`${name}_${block}`] = network.tensor(new Float32Array(config.window * network.keySize), network.ringShape);
    }
    return network;
  }

  async denoise(x, passes, place) {
    for (const pass of passes) x = (await this.run(x, pass, place)).next_frame.data;
    return x;
  }

  async append(context, pass, place) {
    const outputs = await this.run(context, pass, place);
    for (let block = 0; block < this.config.blocks; block++) {
      for (const name of ["keys", "values"]) {
        const part = outputs[`new_${name}`].data.subarray(block * this.keySize, (block + 1) * this.keySize);
        this.ring[`${name}_${block}`].data.set(part, place.index * this.keySize);
      }
    }
  }

  run(x, pass, place) {
    return this.timed(this.session.run({ frame: this.tensor(x, this.frameShape), ...this.inputs(pass, place), ...this.ring }));
  }
}

// Keys and values stay on the GPU, and so do the frames between the passes.
export class GpuNetwork extends Network {
  static async create(ort, model, config, table) {
    const network = new GpuNetwork(ort, config, table);
    network.session = await ort.InferenceSession.create(model, { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" });
    network.device = await ort.env.webgpu.device;
    network.buffers = {};
    network.ring = {};
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
    for (let block = 0; block < config.blocks; block++) {
      for (const name of ["keys", "values"].map((kind) => `${kind}_${block}`)) {
        network.buffers[name] = network.device.createBuffer({ size: 4 * config.window * network.keySize, usage });
        network.ring[name] = ort.Tensor.fromGpuBuffer(network.buffers[name], { dataType: "float32", dims: network.ringShape });
      }
    }
    return network;
  }

  async denoise(x, passes, place) {
    let frame = this.tensor(x, this.frameShape);
    const start = performance.now();
    for (const pass of passes) {
      const { next_frame, new_keys, new_values } = await this.run(frame, pass, place);
      [frame, new_keys, new_values].forEach((used) => used.dispose());
      frame = next_frame;
    }
    const data = await frame.getData(true); // waits for the GPU
    this.passMs.push(...passes.map(() => (performance.now() - start) / passes.length));
    while (this.passMs.length > 60) this.passMs.shift();
    return data;
  }

  async append(context, pass, place) {
    const { next_frame, new_keys, new_values } = await this.run(this.tensor(context, this.frameShape), pass, place);
    const encoder = this.device.createCommandEncoder(), bytes = 4 * this.keySize;
    for (let block = 0; block < this.config.blocks; block++) {
      for (const [name, tensor] of [["keys", new_keys], ["values", new_values]]) {
        encoder.copyBufferToBuffer(tensor.gpuBuffer, block * bytes, this.buffers[`${name}_${block}`], place.index * bytes, bytes);
      }
    }
    this.device.queue.submit([encoder.finish()]);
    [next_frame, new_keys, new_values].forEach((used) => used.dispose());
  }

  run(frame, pass, place) {
    return this.session.run({ frame, ...this.inputs(pass, place), ...this.ring });
  }
}
