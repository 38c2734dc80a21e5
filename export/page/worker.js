// The dream, away from the page's thread. It speaks the protocol of play/stage/protocol.md with the stage, for one player.
import { actionForKeys, actionVector } from "./actions.js";
import { Dream, toPixels } from "./dream.js";
import { load } from "./load.js";
import { normals } from "./random.js";
import { replayFile } from "./replay.js";

const MAX_SEED = 2 ** 31 - 1, MAX_WAITING_STEPS = 4, MAX_RECORDED = 1800;
const SHARE_OF_TIME = 0.9; // of the time between two frames that the passes may take
const query = new URL(self.location).searchParams;

let config, prompts, network, device, dream = null;
let image = null; // the player's own picture
let rollout = null; // { prompt, seed, num_steps, actions }
let held, keysNumber = 0, paused = true, ticksPerFrame = 1, waitingSteps = [], firstRecorded = null;
let starts = 0; // of rollouts: what belongs to an older one is dropped
let busy = Promise.resolve(), timer = null;

const say = (type, fields = {}) => postMessage(JSON.stringify({ type, ...fields }));

function show(header, picture) {
  const text = new TextEncoder().encode(JSON.stringify({ type: "frame", ...header, pictures: 1 }));
  const message = new Uint8Array(4 + text.length + picture.length);
  new DataView(message.buffer).setUint32(0, text.length, true);
  message.set(text, 4);
  message.set(picture, 4 + text.length);
  postMessage(message.buffer, [message.buffer]);
}

async function begin() {
  const options = { threads: Number(query.get("threads")) || null, device: query.get("device") };
  ({ config, prompts, network, device } = await load(new URL(".", self.location), options, (text) => say("loading", { text })));
  held = actionForKeys([], config.space);
  dream = new Dream(config, network);
  await dream.reset([], [], normals(0));
  for (let i = 0; i < 2; i++) await dream.step(actionVector(held, config.space), 1); // for the time that a pass takes
  await dream.pending;
  say("hello", { ...config.hello, height: config.height, width: config.width, channels: config.channels, device });
}

// The most steps with which the game's rate is held.
function affordableSteps() {
  const passes = (SHARE_OF_TIME * 1000) / config.hello.fps / network.passTime - 1;
  return Object.keys(config.passes).map(Number).findLast((n) => n <= Math.min(passes, config.hello.num_steps)) ?? 1;
}

function findPrompt(record) {
  if (record === null) return { frames: [image], actions: [config.space.unknown], record: null, moment: null };
  const { first, actions, moment } = config.prompts[record], size = dream.size;
  const frames = actions.map((_, t) => prompts.subarray((first + t) * size, (first + t + 1) * size));
  return { frames, actions, record, moment };
}

const handlers = {
  async start(message) {
    const seed = message.seed ?? Math.floor(Math.random() * (MAX_SEED + 1));
    if (!Number.isInteger(seed) || seed < 0 || seed > MAX_SEED) return say("error", { text: `The seed must be an integer from 0 to ${MAX_SEED}.` });
    const turn = ++starts;
    stopRecording();
    rollout = null; // so that no tick generates a frame meanwhile
    await busy;
    if (turn !== starts) return;
    const prompt = findPrompt(message.record);
    const num_steps = message.num_steps ?? affordableSteps(), pass_ms = network.passTime;
    busy = dream.reset(prompt.frames, prompt.actions.map((action) => actionVector(action, config.space)), normals(seed));
    await busy;
    if (turn !== starts) return;
    rollout = { prompt, seed, num_steps, actions: [] };
    paused = true;
    waitingSteps = [];
    say("started", { seed, num_steps, guidance: 1, record: prompt.record, moment: prompt.moment, last_moment: null, prompt_frames: prompt.frames.length, why_no_real_game: "", device, pass_ms, fps: config.hello.fps });
    show({ frame: 0, action: null, keys: keysNumber, real_ended: false }, prompt.frames.at(-1));
  },
  keys(message) {
    held = actionForKeys(message.held, config.space);
    keysNumber = message.number;
  },
  pause: ({ on }) => pause(on),
  step({ action }) {
    if (!paused) pause(true);
    if (!paused || waitingSteps.length >= MAX_WAITING_STEPS) return;
    waitingSteps.push(action === null ? null : config.step_actions[action]);
    wake();
  },
  speed: ({ every }) => (ticksPerFrame = every),
  record({ on }) {
    if (!on) return stopRecording();
    if (!rollout || firstRecorded !== null) return;
    firstRecorded = rollout.actions.length;
    say("recording");
  },
};

function pause(on) {
  paused = on;
  waitingSteps = [];
  say("paused", { on, reason: "" });
  wake();
}

async function stopRecording() {
  if (firstRecorded === null) return;
  const first = firstRecorded, frames = rollout.actions.length - first, recorded = { ...rollout, actions: [...rollout.actions] };
  firstRecorded = null;
  const replay = frames ? await replayFile(config, recorded, first) : null;
  say("recorded", { place: "", files: frames ? ["dream.json"] : [], frames, note: "", replay });
}

// ---- ticks: a frame that is late is dropped, never queued

const currentTick = () => Math.floor((performance.now() * config.hello.fps) / 1000);

function wake() {
  timer ??= setTimeout(() => runTick().catch(fail), 0);
}

async function runTick() {
  const tick = currentTick();
  if (rollout && (!paused || waitingSteps.length)) {
    busy = generate(tick);
    await busy;
  }
  if (paused && !waitingSteps.length) return (timer = null);
  const next = (Math.floor(Math.max(tick, currentTick() - 1) / ticksPerFrame) + 1) * ticksPerFrame;
  timer = setTimeout(() => runTick().catch(fail), Math.max(0, (next * 1000) / config.hello.fps - performance.now()));
}

async function generate(tick) {
  const start = performance.now(), turn = starts, keys = keysNumber;
  const action = (paused ? waitingSteps.shift() : null) ?? held;
  const frame = await dream.step(actionVector(action, config.space), rollout.num_steps);
  if (turn === starts) {
    rollout.actions.push(action);
    show({ frame: rollout.actions.length, action, keys, tick, ms: performance.now() - start }, toPixels(frame, config));
    if (firstRecorded !== null && rollout.actions.length - firstRecorded >= MAX_RECORDED) {
      say("notice", { text: "The recording has reached its maximum length and has stopped." });
      stopRecording();
    }
  }
  await dream.pending; // the frame is on its way already
}

onmessage = ({ data }) => {
  if (typeof data !== "string") {
    image = data;
    return say("image");
  }
  const message = JSON.parse(data);
  if (dream) Promise.resolve(handlers[message.type]?.(message)).catch(fail);
};

function fail(error) {
  console.error(error);
  say("failed", { text: `The dream has failed: ${error.message ?? error}` });
}

begin().catch(fail);
