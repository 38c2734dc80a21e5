// The page: keys go out, pictures come in. Messages are described in play/messages.py.
"use strict";

const $ = (id) => document.getElementById(id);
const GLYPHS = { LEFT: "←", RIGHT: "→", UP: "↑", DOWN: "↓", SPACE: "␣", ENTER: "⏎" };
const KEY_NAMES = { ArrowLeft: "LEFT", ArrowRight: "RIGHT", ArrowUp: "UP", ArrowDown: "DOWN", " ": "SPACE", Enter: "ENTER", Shift: "SHIFT", Tab: "TAB" };
const MOUSE_NAMES = ["MOUSE1", "MOUSE3", "MOUSE2"]; // left, middle, right
const FIELDS = "input:not([type=checkbox]), select, textarea";

let socket = null;
let game = null; // the server's greeting
let phase = "connecting"; // then waiting, ready, playing, paused, dozing (paused by the server) or lost
let prompt = { record: 0, moment: null }; // record null: the image that was sent
let imagePixels = null;
let bringing = false; // the real game, which takes seconds: until then its switch stays as it was put

function enter(next) {
  phase = document.body.dataset.phase = next;
}

// ---- the connection

function connect() {
  enter("connecting");
  veil("Connecting …");
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/socket`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => (typeof data === "string" ? onMessage(JSON.parse(data)) : onPixels(data));
  socket.onclose = ({ reason }) => {
    enter("lost");
    veil(reason ? `The server hung up: ${reason}.` : "The connection to the server is lost.", "Connect again", connect);
    setRecording(false);
  };
}

function send(type, fields = {}) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type, ...fields }));
}

function onMessage(message) {
  const handlers = {
    hello: greet,
    wait: ({ ahead }) => {
      enter("waiting");
      veil(`All places are taken. ${ahead ? `${ahead} before you.` : "You are the next."} This page goes on by itself.`);
    },
    started: onStarted,
    paused: onPaused,
    real: ({ on }) => { bringing = false; showReal(on); say(""); },
    recording: () => setRecording(true),
    recorded: onRecorded,
    image: () => start(),
    weights: ({ checkpoint }) => { $("checkpoint").textContent = checkpoint; say("Newer weights: the dream goes on with them."); },
    notice: ({ text }) => say(text),
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
  say(text, true);
  bringing = false;
  showReal(!$("real-screen").hidden);
}

// ---- the game and its keys

function greet(hello) {
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
  $("hint").textContent = watching() ? "This dream takes no keys: it was learnt from video without actions. Watch it go on by itself." :
    `Hold ${Object.keys(game.keys).map((key) => GLYPHS[key] ?? key).join(" ")}` +
    `${aliases.length ? ` or ${aliases.join(" ")}` : ""}, several at once if you like.`;
  fit();
  if (prompt.record === null) socket.send(imagePixels); // on a new connection nobody knows it
  else start();
}

// Whether there is nothing to press.
const watching = () => !Object.keys(game.keys).length;
const goOn = () => send("pause", { on: false });

function makePad() {
  const hands = [["LEFT", "RIGHT"], ["DOWN", "UP"]].map((hand) => hand.filter((key) => key in game.keys));
  hands.push(Object.keys(game.keys).filter((key) => !["LEFT", "RIGHT", "UP", "DOWN"].includes(key)));
  $("pad").replaceChildren(...hands.filter((hand) => hand.length).map((hand) => {
    const row = document.createElement("div");
    row.className = "hand";
    row.append(...hand.map((key) => {
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

const pressed = new Map(); // what holds a key (a key's code, a pointer, a button) -> the key's name; the newest last
const sentAt = new Map(); // number of a key message -> when it was sent
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
  sentAt.set(keysNumber, performance.now());
  send("keys", { held, number: keysNumber });
  for (const button of document.querySelectorAll(".key")) {
    const lit = held.some((name) => (game.aliases[name] ?? name) === button.dataset.key);
    button.classList.toggle("lit", lit);
  }
  if (held.length && (phase === "ready" || phase === "dozing")) goOn();
}

function releaseAll() {
  for (const source of [...pressed.keys()]) hold(source, null);
}

function keyName(event) {
  const digit = /^Digit(.)$/.exec(event.code)?.[1]; // also under Shift, and where letters stand in its place
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
const glass = $("dream").parentElement;
glass.addEventListener("mousedown", ({ button }) => { if (game && MOUSE_NAMES[button] in game.keys) hold(`mouse ${button}`, MOUSE_NAMES[button]); });
glass.addEventListener("contextmenu", (event) => { if (game && "MOUSE2" in game.keys) event.preventDefault(); });
addEventListener("mouseup", ({ button }) => hold(`mouse ${button}`, null));
addEventListener("blur", releaseAll);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  releaseAll();
  if (phase === "playing") send("pause", { on: true });
});

// Fingers may slide from key to key, several at a time.
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
// With the keyboard on a focused key: as long as space or enter is down.
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

// Whole numbers of the screen's own pixels for each of the picture's: sharp at any zoom.
function fit() {
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
addEventListener("resize", fit);

const arrivals = []; // [time, frames that the server made meanwhile] of the last ten seconds
const delays = [];
let lastTick = null;

function onFrame(header, pictures) {
  draw($("dream"), pictures[0]);
  if (pictures[1]) draw($("real"), pictures[1]);
  if (!bringing) showReal(pictures.length > 1);
  $("real-tag").hidden = !header.real_ended;
  $("real-tag").textContent = "its episode ended, and began anew";
  document.body.dataset.frame = header.frame;
  const { action } = header; // a number, or one for each button and axis
  const done = Array.isArray(action) ? game.actions.filter((_, i) => action[i]) : [game.actions[action] ?? ""];
  document.body.dataset.action = done.join("+");
  if (header.frame === 0) return;
  const now = performance.now();
  for (const [number, time] of sentAt) {
    if (number > header.keys) break;
    sentAt.delete(number);
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
  say("");
  send("start", {
    ...prompt,
    seed: number("seed"),
    num_steps: number("num-steps"),
    guidance: Number($("guidance").value),
    real: $("real-switch").checked,
  });
}

function onStarted(started) {
  enter("ready");
  setPaused(false);
  bringing = false;
  arrivals.length = delays.length = 0;
  lastTick = null;
  $("this-dream").textContent = `This dream: seed ${started.seed}, ${started.num_steps} steps, guidance ${started.guidance}, from ${started.prompt_frames} frames.`;
  $("real-switch").disabled = Boolean(started.why_no_real_game);
  $("real-label").title = started.why_no_real_game ?? "The real game, brought to the same moment and fed with the same keys";
  if (started.why_no_real_game) showReal(false);
  const keys = Object.keys(game.keys).map((key) => GLYPHS[key] ?? key);
  showMoment(started.moment ?? 0, started.last_moment ?? 0);
  $("moment").disabled = started.moment === null;
  if (watching()) veil("This dream takes no keys", "Watch it", goOn);
  else veil(`Hold ${keys.slice(0, 4).join("  ")} to begin`);
  if (pressed.size) goOn();
  if (later) say(later);
  later = "";
}

function onPaused({ on, reason }) {
  if (on && reason) {
    enter("dozing");
    veil(reason, watching() ? "Watch on" : "", goOn);
  } else {
    enter(on ? "paused" : "playing");
    veil("");
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

// ---- where to begin

function showGallery(moments, pictures) {
  $("gallery").replaceChildren(...pictures.map((pixels, record) => {
    const button = document.createElement("button");
    const canvas = Object.assign(document.createElement("canvas"), { width: game.width, height: game.height });
    draw(canvas, pixels);
    button.type = "button";
    button.setAttribute("aria-label", `Record ${record}, frame ${moments[record]}`);
    button.append(canvas);
    button.addEventListener("click", () => choose({ record, moment: null }));
    return button;
  }));
  markChosen();
}

function choose(place) {
  prompt = place;
  markChosen();
  $("record-number").value = place.record;
  start();
}

function markChosen() {
  [...$("gallery").children].forEach((button, record) => button.setAttribute("aria-pressed", prompt.record === record));
}

function showMoment(moment, last) {
  Object.assign($("moment"), { max: last, value: moment });
  $("moment-text").textContent = `${moment} of ${last}`;
}

let soon = null;
$("record-number").addEventListener("change", ({ target }) => {
  const record = Math.min(game.num_records - 1, Math.max(0, Math.round(Number(target.value) || 0)));
  choose({ record, moment: null });
  $("dream").focus({ preventScroll: true });
});
$("moment").addEventListener("input", ({ target }) => {
  $("moment-text").textContent = `${target.value} of ${target.max}`;
  clearTimeout(soon);
  soon = setTimeout(() => choose({ record: prompt.record ?? Number($("record-number").value), moment: Number(target.value) }), 250);
});

// A picture of one's own is scaled here, and only its pixels are sent.
async function takeImage(file) {
  if (!file || !game) return;
  let whole;
  try {
    whole = await createImageBitmap(file);
  } catch {
    return say(`${file.name} is not a picture that this browser can read.`, true);
  }
  const scale = Math.min(whole.width / game.width, whole.height / game.height);
  const [w, h] = [Math.max(1, Math.round(game.width * scale)), Math.max(1, Math.round(game.height * scale))];
  const small = await createImageBitmap(whole, (whole.width - w) >> 1, (whole.height - h) >> 1, w, h,
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
  markChosen();
  socket.send(imagePixels); // "image" comes back, and the dream begins
  later = `${whole.width}×${whole.height} pixels were scaled to ${game.width}×${game.height}. From one still picture the dream cannot know what moves.`;
}
let later = ""; // said once the dream has begun

$("image").addEventListener("change", ({ target }) => { takeImage(target.files[0]); target.value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  takeImage(event.dataTransfer.files[0]);
});
// After a slider has been drawn with the mouse, the arrows are the game's again.
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
  fit();
}

$("real-switch").addEventListener("change", ({ target }) => {
  bringing = target.checked;
  if (bringing) say("Bringing the real game to this moment …");
  send("real", { on: target.checked });
});

function setRecording(on) {
  $("record").setAttribute("aria-pressed", on);
  $("record-text").textContent = on ? "Stop recording" : "Record";
}

$("record").addEventListener("click", () => {
  const on = $("record").getAttribute("aria-pressed") !== "true";
  send("record", { on });
  if (!on) { setRecording(false); say("Writing the recording …"); }
});

function onRecorded({ place, files, frames, note }) {
  setRecording(false);
  say(frames ? note : "Nothing was recorded: no frame came.", Boolean(note));
  const names = { "dream.mp4": "Download mp4", "dream.json": "Download replay (JSON)" };
  $("files").replaceChildren(`${frames} frames recorded:`, ...[...files].reverse().map((name) => {
    const link = document.createElement("a");
    return Object.assign(link, { href: `/recordings/${place}/${name}`, download: name, textContent: names[name] });
  }));
  $("files").hidden = !files.length;
}

function say(text, bad = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

function veil(text, action = "", onAction = null) {
  $("veil").hidden = !text;
  $("veil-text").textContent = text;
  $("veil").querySelector("button")?.remove();
  if (action) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: action });
    button.addEventListener("click", onAction);
    $("veil").append(button);
  }
}

connect();
