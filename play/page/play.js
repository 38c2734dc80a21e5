// The page: sends keys, shows pictures. play/messages.py describes the messages.
"use strict";

const $ = (id) => document.getElementById(id);
const GLYPHS = { LEFT: "←", RIGHT: "→", UP: "↑", DOWN: "↓", SPACE: "␣", ENTER: "⏎" };
const KEY_NAMES = { ArrowLeft: "LEFT", ArrowRight: "RIGHT", ArrowUp: "UP", ArrowDown: "DOWN", " ": "SPACE", Enter: "ENTER", Shift: "SHIFT", Tab: "TAB" };
const MOUSE_NAMES = ["MOUSE1", "MOUSE3", "MOUSE2"]; // left, middle, right
const FIELDS = "input:not([type=checkbox]), select, textarea";

let socket = null;
let game = null; // the server's "hello" message
let phase = "connecting"; // or waiting, ready, playing, paused, idle (paused by the server), lost
let prompt = { record: 0, moment: null }; // record null: the player's own image
let imagePixels = null;
let loadingRealGame = false; // takes seconds; its switch stays on until then

function setPhase(next) {
  phase = document.body.dataset.phase = next;
}

// ---- the connection

function connect() {
  setPhase("connecting");
  showOverlay("Connecting …");
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? onMessage(JSON.parse(data)) : onPixels(data));
  socket.onclose = ({ reason }) => {
    setPhase("lost");
    showOverlay(reason ? `The server closed the connection: ${reason}.` : "The connection to the server is lost.", "Reconnect", connect);
    setRecording(false);
  };
}

function send(type, fields = {}) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, ...fields }));
}

function onMessage(message) {
  const handlers = {
    hello: onHello,
    wait: ({ ahead }) => {
      setPhase("waiting");
      showOverlay(`All places are taken. ${ahead ? `${ahead} before you.` : "You are next."} The game starts as soon as a place is free.`);
    },
    started: onStarted,
    paused: onPaused,
    real: ({ on }) => { loadingRealGame = false; showReal(on); showNotice(""); },
    recording: () => setRecording(true),
    recorded: onRecorded,
    image: () => start(),
    weights: ({ checkpoint }) => { $("checkpoint").textContent = checkpoint; showNotice("Newer weights are loaded. The dream continues with them."); },
    notice: ({ text }) => showNotice(text),
    error: onError,
  };
  handlers[message.type]?.(message);
}

function onPixels(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const size = game.height * game.width * game.channels;
  const pictures = Array.from({ length: header.pictures }, (_, i) => new Uint8Array(data, 4 + length + i * size, size));
  if (header.type === "frame") onFrame(header, pictures);
  if (header.type === "gallery") showGallery(header.moments, pictures);
}

function onError({ text }) {
  showNotice(text, true);
  loadingRealGame = false;
  showReal(!$("real-screen").hidden);
}

// ---- the game and its keys

function onHello(hello) {
  game = hello;
  $("game").textContent = game.game;
  $("checkpoint").textContent = game.checkpoint;
  for (const id of ["dream", "real"]) Object.assign($(id), { width: game.width, height: game.height });
  $("record-number").max = game.num_records - 1;
  $("record-count").textContent = `0 to ${game.num_records - 1}`;
  $("num-steps").max = Math.min(16, game.most_steps);
  $("num-steps").value = game.num_steps;
  $("num-steps-text").textContent = game.num_steps;
  makePad();
  const aliases = Object.keys(game.aliases);
  $("hint").textContent = watchOnly() ? "This model has no keys: it was trained on video without actions. You can only watch." :
    `Hold ${Object.keys(game.keys).map((key) => GLYPHS[key] ?? key).join(" ")}` +
    `${aliases.length ? ` or ${aliases.join(" ")}` : ""}, several at once if you want.`;
  fitCanvases();
  if (prompt.record === null) socket.send(imagePixels); // a new connection starts without it
  else start();
}

// Whether the game has no keys.
const watchOnly = () => !Object.keys(game.keys).length;
const resume = () => send("pause", { on: false });

function makePad() {
  const keyGroups = [["LEFT", "RIGHT"], ["DOWN", "UP"]].map((group) => group.filter((key) => key in game.keys));
  keyGroups.push(Object.keys(game.keys).filter((key) => !["LEFT", "RIGHT", "UP", "DOWN"].includes(key)));
  $("pad").replaceChildren(...keyGroups.filter((group) => group.length).map((group) => {
    const row = document.createElement("div");
    row.className = "key-group";
    row.append(...group.map((key) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", className: "key" });
      button.dataset.key = key;
      button.setAttribute("aria-label", `hold ${game.keys[key]}`);
      button.append(Object.assign(document.createElement("b"), { textContent: GLYPHS[key] ?? key }));
      const label = game.keys[key];
      if (label.toUpperCase() !== key || key in GLYPHS) button.append(Object.assign(document.createElement("small"), { textContent: label }));
      return button;
    }));
    return row;
  }));
}

const pressed = new Map(); // source of a press (key code, pointer, button) -> name of the game's key, the newest last
const keyMessageTimes = new Map(); // number of a key message -> when it was sent
let keysNumber = 0;
let lastHeld = "";

function hold(source, key) {
  if (key === pressed.get(source)) return;
  pressed.delete(source);
  if (key) pressed.set(source, key);
  const held = [...new Set(pressed.values())];
  if (held.join() === lastHeld) return;
  lastHeld = held.join();
  keysNumber += 1;
  keyMessageTimes.set(keysNumber, performance.now());
  send("keys", { held, number: keysNumber });
  for (const button of document.querySelectorAll(".key")) {
    const isHeld = held.some((name) => (game.aliases[name] ?? name) === button.dataset.key);
    button.classList.toggle("held", isHeld);
  }
  if (held.length && (phase === "ready" || phase === "idle")) resume();
}

function releaseAll() {
  for (const source of [...pressed.keys()]) hold(source, null);
}

function keyName(event) {
  const digit = /^Digit(.)$/.exec(event.code)?.[1]; // also with Shift, and on layouts without a digit row
  const name = KEY_NAMES[event.key] ?? digit ?? (event.key.length === 1 ? event.key.toUpperCase() : null);
  return game && name && (name in game.keys || name in game.aliases) ? name : null;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(FIELDS)) return;
  const name = keyName(event);
  if (name && !((name === "SPACE" || name === "ENTER") && event.target.matches("button, a, summary, label, input"))) {
    event.preventDefault();
    if (!event.repeat) hold(event.code, name);
    return;
  }
  const shortcut = { P: "pause", N: "step", R: "restart" }[event.key.toUpperCase()];
  if (shortcut && (!event.repeat || shortcut === "step")) $(shortcut).click();
});
addEventListener("keyup", (event) => hold(event.code, null));
const canvasFrame = $("dream").parentElement;
canvasFrame.addEventListener("mousedown", ({ button }) => { if (game && MOUSE_NAMES[button] in game.keys) hold(`mouse ${button}`, MOUSE_NAMES[button]); });
canvasFrame.addEventListener("contextmenu", (event) => { if (game && "MOUSE2" in game.keys) event.preventDefault(); });
addEventListener("mouseup", ({ button }) => hold(`mouse ${button}`, null));
addEventListener("blur", releaseAll);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  releaseAll();
  if (phase === "playing") send("pause", { on: true });
});

// Several fingers may slide from key to key.
const keyUnder = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".key")?.dataset.key ?? null;
$("pad").addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  $("pad").setPointerCapture(event.pointerId);
  hold(`pointer ${event.pointerId}`, keyUnder(event));
});
$("pad").addEventListener("pointermove", (event) => {
  if ($("pad").hasPointerCapture(event.pointerId)) hold(`pointer ${event.pointerId}`, keyUnder(event));
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  $("pad").addEventListener(end, (event) => hold(`pointer ${event.pointerId}`, null));
}
$("pad").addEventListener("contextmenu", (event) => event.preventDefault());
// Space or Enter holds the key that has the focus.
$("pad").addEventListener("keydown", (event) => {
  if ([" ", "Enter"].includes(event.key) && event.target.dataset.key) {
    event.preventDefault();
    hold(event.code, event.target.dataset.key);
  }
});

// ---- pictures

function draw(canvas, pixels) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(game.width, game.height);
  const { channels } = game;
  for (let i = 0, j = 0; j < pixels.length; i += 4, j += channels) {
    image.data[i] = pixels[j];
    image.data[i + 1] = pixels[j + (channels > 1 ? 1 : 0)];
    image.data[i + 2] = pixels[j + (channels > 2 ? 2 : 0)];
    image.data[i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Scale by a whole number of device pixels: sharp at any zoom.
function fitCanvases() {
  if (!game) return;
  const screens = $("screens");
  const both = !$("real-screen").hidden;
  const style = getComputedStyle(screens);
  const inner = screens.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const room = both ? (inner - parseFloat(style.columnGap)) / 2 : inner;
  const height = Math.max(260, innerHeight * 0.6);
  const ratio = devicePixelRatio;
  const factor = Math.max(1, Math.floor(Math.min(room / game.width, height / game.height) * ratio)) / ratio;
  for (const id of ["dream", "real"]) {
    $(id).style.width = `${factor * game.width}px`;
    $(id).style.height = `${factor * game.height}px`;
  }
}
addEventListener("resize", fitCanvases);

const arrivals = []; // [time, frames dropped before this one] of the last ten seconds
const delays = [];
let lastTick = null;

function onFrame(header, pictures) {
  draw($("dream"), pictures[0]);
  if (pictures[1]) draw($("real"), pictures[1]);
  if (!loadingRealGame) showReal(pictures.length > 1);
  $("real-tag").hidden = !header.real_ended;
  $("real-tag").textContent = "a new episode has begun";
  document.body.dataset.frame = header.frame;
  const { action } = header; // an id, or a number for each button and axis
  const actionNames = Array.isArray(action) ? game.actions.filter((_, i) => action[i]) : [game.actions[action] ?? ""];
  document.body.dataset.action = actionNames.join("+");
  if (header.frame === 0) return;
  const now = performance.now();
  for (const [number, time] of keyMessageTimes) {
    if (number > header.keys) break;
    keyMessageTimes.delete(number);
    if (now - time < 3000) delays.push(now - time);
    if (delays.length > 9) delays.shift();
  }
  const every = Number($("speed").value);
  const missed = lastTick === null || header.tick <= lastTick || phase !== "playing" ? 0 : Math.max(0, (header.tick - lastTick) / every - 1);
  lastTick = header.tick;
  arrivals.push([now, missed]);
  while (arrivals[0][0] < now - 10000) arrivals.shift();
  $("meter-model").textContent = `${Math.round(header.ms)} ms`;
  if (header.psnr !== undefined) $("meter-psnr").textContent = `${header.psnr.toFixed(1)} dB`;
}

setInterval(() => {
  const now = performance.now();
  const last = arrivals.filter(([time]) => time > now - 2000);
  const span = last.length > 1 ? (last.at(-1)[0] - last[0][0]) / 1000 : 0;
  $("meter-fps").textContent = span ? ((last.length - 1) / span).toFixed(1) : "–";
  $("meter-dropped").textContent = arrivals.length ? Math.round(arrivals.reduce((sum, [, missed]) => sum + missed, 0)) : "–";
  if (delays.length) $("meter-delay").textContent = `${Math.round([...delays].sort((a, b) => a - b)[delays.length >> 1])} ms`;
}, 500);

// ---- starting, pausing

function start() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  showNotice("");
  send("start", {
    ...prompt,
    seed: number("seed"),
    num_steps: number("num-steps"),
    guidance: Number($("guidance").value),
    real: $("real-switch").checked,
  });
}

function onStarted(started) {
  setPhase("ready");
  setPaused(false);
  loadingRealGame = false;
  arrivals.length = delays.length = 0;
  lastTick = null;
  $("this-dream").textContent = `This dream: seed ${started.seed}, ${started.num_steps} steps, guidance ${started.guidance}, from ${started.prompt_frames} frames.`;
  $("real-switch").disabled = Boolean(started.why_no_real_game);
  $("real-label").title = started.why_no_real_game ?? "The real game from the same moment on, with the same keys";
  if (started.why_no_real_game) showReal(false);
  const keys = Object.keys(game.keys).map((key) => GLYPHS[key] ?? key);
  showMoment(started.moment ?? 0, started.last_moment ?? 0);
  $("moment").disabled = started.moment === null;
  if (watchOnly()) showOverlay("This model has no keys", "Watch", resume);
  else showOverlay(`Hold ${keys.slice(0, 4).join("  ")} to start`);
  if (pressed.size) resume();
  if (startNotice) showNotice(startNotice);
  startNotice = "";
}

function onPaused({ on, reason }) {
  if (on && reason) {
    setPhase("idle");
    showOverlay(reason, watchOnly() ? "Continue" : "", resume);
  } else {
    setPhase(on ? "paused" : "playing");
    showOverlay("");
    lastTick = null;
  }
  setPaused(on);
}

function setPaused(on) {
  $("pause").setAttribute("aria-pressed", on);
  $("step").disabled = !on;
}

$("pause").addEventListener("click", () => send("pause", { on: phase === "playing" }));
$("step").addEventListener("click", () => send("step"));
$("restart").addEventListener("click", () => start());
$("speed").addEventListener("change", ({ target }) => { send("speed", { every: Number(target.value) }); target.blur(); });

// ---- prompts

function showGallery(moments, pictures) {
  $("gallery").replaceChildren(...pictures.map((pixels, record) => {
    const button = document.createElement("button");
    const canvas = Object.assign(document.createElement("canvas"), { width: game.width, height: game.height });
    draw(canvas, pixels);
    button.type = "button";
    button.setAttribute("aria-label", `Record ${record}, frame ${moments[record]}`);
    button.append(canvas);
    button.addEventListener("click", () => choosePrompt({ record, moment: null }));
    return button;
  }));
  markChosenRecord();
}

function choosePrompt(chosen) {
  prompt = chosen;
  markChosenRecord();
  $("record-number").value = chosen.record;
  start();
}

function markChosenRecord() {
  [...$("gallery").children].forEach((button, record) => button.setAttribute("aria-pressed", prompt.record === record));
}

function showMoment(moment, last) {
  Object.assign($("moment"), { max: last, value: moment });
  $("moment-text").textContent = `${moment} of ${last}`;
}

let momentTimer = null;
$("record-number").addEventListener("change", ({ target }) => {
  const record = Math.min(game.num_records - 1, Math.max(0, Math.round(Number(target.value) || 0)));
  choosePrompt({ record, moment: null });
  $("dream").focus({ preventScroll: true });
});
$("moment").addEventListener("input", ({ target }) => {
  $("moment-text").textContent = `${target.value} of ${target.max}`;
  clearTimeout(momentTimer);
  momentTimer = setTimeout(() => choosePrompt({ record: prompt.record ?? Number($("record-number").value), moment: Number(target.value) }), 250);
});

// Scale the player's image here and send only its pixels.
async function sendImage(file) {
  if (!file || !game) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return showNotice(`${file.name} is not a picture that this browser can read.`, true);
  }
  const scale = Math.min(bitmap.width / game.width, bitmap.height / game.height);
  const [w, h] = [Math.max(1, Math.round(game.width * scale)), Math.max(1, Math.round(game.height * scale))];
  const small = await createImageBitmap(bitmap, (bitmap.width - w) >> 1, (bitmap.height - h) >> 1, w, h,
    { resizeWidth: game.width, resizeHeight: game.height, resizeQuality: "high" });
  const canvas = Object.assign(document.createElement("canvas"), { width: game.width, height: game.height });
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, game.width, game.height);
  context.drawImage(small, 0, 0);
  const rgba = context.getImageData(0, 0, game.width, game.height).data;
  imagePixels = new Uint8Array(game.width * game.height * game.channels);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    for (let channel = 0; channel < game.channels; channel++) imagePixels[j++] = rgba[i + Math.min(channel, 2)];
  }
  prompt = { record: null };
  markChosenRecord();
  socket.send(imagePixels); // the server answers "image", then the dream starts
  startNotice = `${bitmap.width}×${bitmap.height} pixels were scaled to ${game.width}×${game.height}. One still picture does not show the model what moves.`;
}
let startNotice = ""; // shown when the dream has started

$("image").addEventListener("change", ({ target }) => { sendImage(target.files[0]); target.value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  sendImage(event.dataTransfer.files[0]);
});
// After a slider is moved with the mouse, the arrow keys control the game again.
for (const slider of document.querySelectorAll("input[type=range]")) {
  slider.addEventListener("pointerup", () => $("dream").focus({ preventScroll: true }));
}
$("num-steps").addEventListener("input", ({ target }) => ($("num-steps-text").textContent = target.value));
$("guidance").addEventListener("input", ({ target }) => ($("guidance-text").textContent = target.value));

// ---- the real game, recordings, notices

function showReal(on) {
  $("real-switch").checked = on;
  if ($("real-screen").hidden !== on) return;
  $("real-screen").hidden = $("psnr-box").hidden = !on;
  $("meter-psnr").textContent = "–";
  fitCanvases();
}

$("real-switch").addEventListener("change", ({ target }) => {
  loadingRealGame = target.checked;
  if (loadingRealGame) showNotice("Replaying the real game to this moment …");
  send("real", { on: target.checked });
});

function setRecording(on) {
  $("record").setAttribute("aria-pressed", on);
  $("record-text").textContent = on ? "Stop recording" : "Record";
}

$("record").addEventListener("click", () => {
  const on = $("record").getAttribute("aria-pressed") !== "true";
  send("record", { on });
  if (!on) { setRecording(false); showNotice("Writing the recording …"); }
});

function onRecorded({ place, files, frames, note }) {
  setRecording(false);
  showNotice(frames ? note : "Nothing was recorded: there was no frame.", Boolean(note));
  const names = { "dream.mp4": "Download mp4", "dream.json": "Download replay (JSON)" };
  $("files").replaceChildren(`${frames} frames recorded:`, ...[...files].reverse().map((name) => {
    const link = document.createElement("a");
    return Object.assign(link, { href: `/recordings/${place}/${name}`, download: name, textContent: names[name] });
  }));
  $("files").hidden = !files.length;
}

function showNotice(text, bad = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

function showOverlay(text, action = "", onClick = null) {
  $("overlay").hidden = !text;
  $("overlay-text").textContent = text;
  $("overlay").querySelector("button")?.remove();
  if (action) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
    button.addEventListener("click", onClick);
    $("overlay").append(button);
  }
}

connect();
