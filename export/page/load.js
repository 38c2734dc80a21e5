// Loads a page's files and chooses what the network runs on.
import { Dream } from "./dream.js";
import { GpuNetwork, WasmNetwork } from "./network.js";
import { normals } from "./random.js";

const TIMED_FRAMES = 3;

// { config, prompts, network, device }. `options`: threads, device ("wasm" or "webgpu"; null: the faster one).
// `onProgress` gets texts.
export async function load(base, options, onProgress) {
  const config = await (await fetchFile(new URL("config.json", base))).json().catch(() => { throw damaged("config.json"); });
  const gpu = options.device === "wasm" ? null : await findGpu(options.device === "webgpu");
  const progress = new Progress(onProgress);
  const runtime = config.runtime[gpu ? "webgpu" : "wasm"], runtimeFolder = new URL(config.runtime.folder, base);
  const file = (name) => progress.fetch(new URL(name, base), config.files[name]);
  const runtimeFile = (name) => progress.fetch(new URL(name, runtimeFolder), config.runtime.files[name]);
  const [prompts, table, wasm, model, ort] = await Promise.all([
    file("prompts.bin").then(unzip),
    config.files["table.bin"] ? file("table.bin").then((bytes) => toFloats(bytes, config.table_dtype)) : null,
    runtimeFile(runtime.wasm),
    file(gpu ? config.models.webgpu : config.models.wasm),
    Promise.all([runtimeFile(runtime.script), runtimeFile(runtime.glue)]).then(() => import(new URL(runtime.script, runtimeFolder))),
  ]);
  const threads = self.crossOriginIsolated ? options.threads ?? defaultThreads() : 1;
  ort.env.logLevel = "error";
  Object.assign(ort.env.wasm, { numThreads: threads, wasmBinary: wasm.buffer, wasmPaths: { mjs: new URL(runtime.glue, runtimeFolder).href } });
  onProgress("Starting the network …");
  const onCpu = async () => {
    const bytes = gpu && config.models.wasm !== config.models.webgpu ? await file(config.models.wasm) : model;
    return { network: await WasmNetwork.create(ort, bytes, config, table), device: `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}` };
  };
  if (!gpu) return { config, prompts, ...(await onCpu()) };
  try {
    const onGpu = { network: await GpuNetwork.create(ort, model, config, table), device: "WebGPU" };
    if (options.device === "webgpu") return { config, prompts, ...onGpu };
    const other = await onCpu();
    const [gpuMs, cpuMs] = [await frameMs(config, onGpu.network), await frameMs(config, other.network)];
    return { config, prompts, ...(gpuMs < cpuMs ? onGpu : other) };
  } catch (error) {
    if (options.device === "webgpu") throw error;
    return { config, prompts, ...(await onCpu()) };
  }
}

// Half of the logical cores: two of them often share a core, and the page needs one, too.
const defaultThreads = () => Math.max(1, Math.min(4, navigator.hardwareConcurrency >> 1));

// A GPU in hardware. A software adapter computes on the CPU, slower than WebAssembly.
async function findGpu(acceptSoftware) {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  return acceptSoftware || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter) ? adapter : null;
}

async function frameMs(config, network) {
  const dream = new Dream(config, network), nothing = new Float32Array(config.space.num_actions);
  await dream.reset([], [], normals(0));
  await dream.step(nothing, 1);
  await dream.pending;
  const start = performance.now();
  for (let i = 0; i < TIMED_FRAMES; i++) await dream.step(nothing, 2);
  await dream.pending;
  return (performance.now() - start) / TIMED_FRAMES;
}

const fileName = (url) => url.pathname.split("/").at(-1);
const damaged = (name, why = "") => new Error(`${name} is damaged${why}. Load the page again; if that does not help, the site has to be uploaded again`);

async function fetchFile(url) {
  const response = await fetch(url).catch(() => { throw new Error(`${fileName(url)} cannot be loaded: there is no connection`); });
  if (!response.ok) throw new Error(`${fileName(url)} cannot be loaded (${response.status})`);
  return response;
}

class Progress {
  constructor(report) {
    Object.assign(this, { report, done: 0, total: 0 });
  }

  // The bytes of a file, which must be those that the site was written with: `size` of them, and their SHA-256.
  async fetch(url, { size, sha256 }) {
    this.total += size;
    const bytes = new Uint8Array(size), reader = (await fetchFile(url)).body.getReader(), lost = () => new Error(`${fileName(url)} cannot be loaded: the connection broke off`);
    let at = 0;
    for (let part; !(part = await reader.read().catch(() => { throw lost(); })).done; at += part.value.length) {
      if (at + part.value.length > size) throw damaged(fileName(url), `: it has more than ${size} bytes`);
      bytes.set(part.value, at);
      this.done += part.value.length;
      this.report(`Loading … ${Math.floor((100 * this.done) / this.total)} % of ${(this.total / 1e6).toFixed(0)} MB`);
    }
    if (at < size) throw damaged(fileName(url), `: it has ${at} of ${size} bytes`);
    const digest = await crypto.subtle?.digest("SHA-256", bytes); // browsers have it where the connection is secure
    if (digest && hex(digest) !== sha256) throw damaged(fileName(url));
    return bytes;
  }
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function toFloats(bytes, dtype) {
  if (dtype === "float32") return new Float32Array(bytes.buffer);
  return Float32Array.from(new Uint16Array(bytes.buffer), (half) => {
    const exponent = (half >> 10) & 31, fraction = half & 1023, sign = half & 32768 ? -1 : 1;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
}
