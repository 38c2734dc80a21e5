// The stage: sends held keys and shows frames over a websocket. protocol.md describes the messages.
// keys.js and pictures.js follow in the same function, which runs once, when the stage is on the page. `element` is the
// stage's root, and `trigger` sends events to the controls around it: Gradio's (ui.py), or those of a static page
// (export/page/page.js), whose `window.openLocalSocket` takes the place of the websocket.
"use strict";

const GLYPHS = { LEFT: "←", RIGHT: "→", UP: "↑", DOWN: "↓", SPACE: "␣", ENTER: "⏎" };
const KEY_NAMES = { ArrowLeft: "LEFT", ArrowRight: "RIGHT", ArrowUp: "UP", ArrowDown: "DOWN", " ": "SPACE", Enter: "ENTER", Shift: "SHIFT", Tab: "TAB" };
const MOUSE_NAMES = ["MOUSE1", "MOUSE3", "MOUSE2"]; // left, middle, right
const MAX_SEED = 2 ** 31 - 1;
const FIELDS = "input:not([type=checkbox], [type=radio], [type=range]), select, textarea, [contenteditable]";

const $ = (selector) => element.querySelector(selector);
const [stage, pad, dreamCanvas, realCanvas] = [".stage", ".pad", ".dream-canvas", ".real-canvas"].map($);
const state = { paused: false, recording: false, real: false }; // what Gradio's controls show

let socket = null;
let game = null; // the server's "hello" message
let phase = "connecting"; // or waiting, ready, playing, paused, idle (paused by the server), lost
// record null: the player's own image, or with dream a first frame that is dreamt too; words null: the game's caption
let settings = { record: 0, moment: null, seed: null, num_steps: null, guidance: null };
let imagePixels = null;
let startNotice = ""; // shown when the dream has started
let ticksPerFrame = 1;
let chosenGame = null; // of several; a new connection begins with the first one
let startTimer = null;
let leftTab = false; // whether play pauses because the player looks at another tab

// What Gradio's controls call.
window.dreamrun = {
  state,
  set(changes) {
    if ("record" in changes) delete settings.dream;
    settings = { ...settings, ...changes };
  },
  chooseGame(name) {
    chosenGame = name;
    settings = { ...settings, record: 0, moment: null, words: null };
    delete settings.dream;
    send("game", { name }); // the server answers "hello", then a dream starts
  },
  start(changes = {}) {
    clearTimeout(startTimer);
    this.set(changes);
    const { seed } = settings;
    if (seed !== null && !(Number.isInteger(seed) && seed >= 0 && seed <= MAX_SEED)) return showNotice(`The seed must be an integer from 0 to ${MAX_SEED}.`, true);
    if (game && settings.record !== null) settings.record = Math.min(game.num_records - 1, Math.max(0, Math.round(Number(settings.record) || 0)));
    showNotice("");
    send("start", { ...settings, real: state.real });
    focusGame();
  },
  startSoon(changes) { // while a slider moves
    clearTimeout(startTimer);
    startTimer = setTimeout(() => this.start(changes), 250);
  },
  startFromImage,
  pause() { // before the first key, too: then single frames can be generated
    if (["ready", "playing", "paused", "idle"].includes(phase)) send("pause", { on: phase === "ready" || phase === "playing" });
    focusGame();
  },
  step(action = null) { send("step", { action }); },
  setSpeed(every) { ticksPerFrame = every; send("speed", { every }); focusGame(); },
  setReal(on) {
    state.real = on; // loading takes seconds; the switch stays on until then
    if (on) showNotice("Replaying the real game to this moment …");
    send("real", { on });
    focusGame();
  },
  record() {
    send("record", { on: !state.recording });
    if (state.recording) showNotice("Writing the recording …");
    focusGame();
  },
  edit(task) { // "rewind" or "loop"
    showNotice("The model is filling in frames …");
    send("edit", { task });
    focusGame();
  },
  disconnect() { socket.close(); },
  measurements: null, // set to [] to collect the delay of each key press, in ms
};

function report(event, changes) {
  Object.assign(state, changes);
  trigger(event, changes);
}

function setPhase(next) {
  phase = stage.dataset.phase = next;
}

const focusGame = () => dreamCanvas.focus({ preventScroll: true }); // then the arrow keys control the game

// ---- the connection

function connect() {
  setPhase("connecting");
  showOverlay("Connecting …");
  socket = window.openLocalSocket?.() ?? openWebSocket();
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? onMessage(JSON.parse(data)) : onPixels(data));
  socket.onclose = ({ reason }) => onLost(reason ? `The server closed the connection: ${reason}.` : "The connection to the server is lost.");
}

function openWebSocket() {
  const url = new URL("socket", document.baseURI);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const sign = new URLSearchParams(location.search).get("__sign"); // access to a private Hugging Face Space
  if (sign) url.searchParams.set("__sign", sign);
  return new WebSocket(url);
}

function onLost(text) {
  setPhase("lost");
  showOverlay(text, "Reconnect", reconnect);
  report("recording", { recording: false });
}

// A restarted server may have forgotten the login, and may run another model: then the page is loaded again.
async function reconnect() {
  showOverlay("Connecting …");
  if (window.openLocalSocket) return connect();
  try {
    if ((await fetch(new URL("gradio_api/login_check", document.baseURI))).status === 401) location.reload();
    else connect();
  } catch {
    onLost("The server does not answer.");
  }
}

function send(type, fields = {}) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, ...fields }));
}

function onMessage(message) {
  const handlers = {
    hello: onHello,
    loading: ({ text }) => { if (phase !== "lost") showOverlay(text); }, // what has failed stays on the picture
    failed: ({ text }) => { if (phase !== "lost") onLost(text); }, // the first error is the cause
    wait: ({ ahead }) => {
      setPhase("waiting");
      showOverlay(`All places are taken. ${ahead ? `${ahead} before you.` : "You are next."} The game starts as soon as a place is free.`);
    },
    started: onStarted,
    paused: onPaused,
    recording: () => report("recording", { recording: true }),
    recorded: onRecorded,
    edited: ({ task, frames, place }) => {
      showNotice(task === "loop" ? `A loop of ${frames} frames is below.` : "What might have led to the start is below.");
      trigger("recorded", { place });
    },
    image: () => window.dreamrun.start(),
    weights: ({ checkpoint }) => { game.checkpoint = checkpoint; showOrigin(); showNotice("Newer weights are loaded. The dream continues with them."); },
    notice: ({ text }) => showNotice(text),
    error: ({ text }) => { showNotice(text, true); showReal(!$(".real").hidden); },
  };
  handlers[message.type]?.(message);
}

function onPixels(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const size = game.height * game.width * game.channels;
  const pictures = Array.from({ length: header.pictures }, (_, i) => new Uint8Array(data, 4 + length + i * size, size));
  if (header.type === "real") onReal(header, pictures);
  else onFrame(header, pictures);
}

// ---- the game and its keys

function onHello(hello) {
  if (game && game.server !== hello.server) return location.reload();
  game = hello;
  if (chosenGame !== null && chosenGame !== game.game_name) return send("game", { name: chosenGame });
  showOrigin();
  for (const canvas of [dreamCanvas, realCanvas]) Object.assign(canvas, { width: game.width, height: game.height });
  makePad();
  loadBindings();
  fitCanvases();
  send("speed", { every: ticksPerFrame });
  if (settings.record === null && !settings.dream) socket.send(imagePixels); // a new connection starts without it
  else window.dreamrun.start();
}

const showOrigin = () => ($(".origin").textContent = `${game.game} · ${game.checkpoint}`);
const watchOnly = () => !Object.keys(game.keys).length; // whether the game has no keys
const resume = () => send("pause", { on: false });

function keyHint() {
  if (watchOnly()) return "This model has no keys: it was trained on video without actions. You can only watch.";
  const aliases = Object.keys(game.aliases);
  const keys = Object.keys(game.keys).map((key) => GLYPHS[key] ?? key).join(" ");
  return `Hold ${keys}${aliases.length ? ` or ${aliases.join(" ")}` : ""}, several at once if you want.`;
}

function makePad() {
  const groups = [["LEFT", "RIGHT"], ["DOWN", "UP"]].map((group) => group.filter((key) => key in game.keys));
  groups.push(Object.keys(game.keys).filter((key) => !["LEFT", "RIGHT", "UP", "DOWN"].includes(key)));
  pad.replaceChildren(...groups.filter((group) => group.length).map((group) => {
    const row = Object.assign(document.createElement("div"), { className: "key-group" });
    row.append(...group.map(makeKey));
    return row;
  }));
}

function makeKey(key) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "key" });
  const label = game.keys[key];
  button.dataset.key = key;
  button.setAttribute("aria-label", `hold ${label}`);
  button.append(Object.assign(document.createElement("b"), { textContent: GLYPHS[key] ?? key }));
  if (label.toUpperCase() !== key || key in GLYPHS) button.append(Object.assign(document.createElement("small"), { textContent: label }));
  return button;
}

// ---- starting, pausing, recording

function onStarted(started) {
  setPhase("ready");
  arrivals.length = delays.length = 0;
  lastTick = null;
  showReal(started.real);
  const keys = Object.keys(game.keys).map((key) => GLYPHS[key] ?? key);
  if (watchOnly()) showOverlay("This model has no keys", "Watch", resume);
  else showOverlay(`Hold ${keys.slice(0, 4).join("  ")} to start`);
  if (pressed.size) resume();
  if (startNotice) showNotice(startNotice);
  startNotice = "";
  trigger("started", { ...started, key_hint: keyHint() });
  report("paused", { paused: false });
}

function onPaused({ on, reason }) {
  if (on && !reason && leftTab) reason = "Paused: press any key";
  leftTab = false;
  if (on && reason) {
    setPhase("idle");
    showOverlay(reason, watchOnly() ? "Continue" : "", resume);
  } else {
    setPhase(on ? "paused" : "playing");
    showOverlay("");
    lastTick = null;
  }
  report("paused", { paused: on });
}

function onRecorded(recorded) {
  const { files, frames, note } = recorded;
  report("recording", { recording: false });
  showNotice(frames ? note || `${frames} frames recorded.` : "Nothing was recorded: there was no frame.", Boolean(note));
  if (files.length) trigger("recorded", recorded);
}

// Scale the image that was uploaded to Gradio, and send only its pixels: the server never decodes an image file.
async function startFromImage(file) {
  if (!file?.url || !game) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(await (await fetch(file.url)).blob());
  } catch {
    return showNotice("This is not a picture that this browser can read.", true);
  }
  const scale = Math.min(bitmap.width / game.width, bitmap.height / game.height);
  const [w, h] = [Math.max(1, Math.round(game.width * scale)), Math.max(1, Math.round(game.height * scale))];
  const small = await createImageBitmap(bitmap, (bitmap.width - w) >> 1, (bitmap.height - h) >> 1, w, h,
    { resizeWidth: game.width, resizeHeight: game.height, resizeQuality: "high" });
  const context = Object.assign(document.createElement("canvas"), { width: game.width, height: game.height }).getContext("2d");
  context.fillRect(0, 0, game.width, game.height);
  context.drawImage(small, 0, 0);
  const rgba = context.getImageData(0, 0, game.width, game.height).data;
  imagePixels = new Uint8Array(game.width * game.height * game.channels);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    for (let channel = 0; channel < game.channels; channel++) imagePixels[j++] = rgba[i + Math.min(channel, 2)];
  }
  window.dreamrun.set({ record: null, moment: null });
  startNotice = `${bitmap.width}×${bitmap.height} pixels were scaled to ${game.width}×${game.height}. One still picture does not show the model what moves.`;
  socket.send(imagePixels); // the server answers "image", then the dream starts
}

function onReal({ on, real_ended }, pictures) {
  if (on) draw(realCanvas, pictures[0]);
  $(".real-ended").hidden = !real_ended;
  showReal(on);
  showNotice("");
}

function showReal(on) {
  if ($(".real").hidden === !on && state.real === on) return;
  $(".real").hidden = $(".psnr").hidden = !on;
  showMeter("psnr", "–");
  fitCanvases();
  report("real", { real: on });
}

function showNotice(text, bad = false) {
  $(".notice").textContent = text;
  $(".notice").classList.toggle("bad", bad);
}

function showOverlay(text, action = "", onClick = null) {
  $(".overlay").hidden = !text;
  $(".overlay-text").textContent = text;
  $(".overlay button")?.remove();
  if (!action) return;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
  button.addEventListener("click", onClick);
  $(".overlay").append(button);
}
