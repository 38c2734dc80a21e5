// Held keys: of the keyboard, the mouse, touch, and a gamepad. Runs after stage.js, in the same function.

const RELEASE_MS = 500; // how often is looked whether the page still has the keyboard
const STICK = 0.5; // how far a stick must be pushed
// Gamepads in the browsers' standard layout: the d-pad's buttons, and the directions of each stick's two axes.
const DPAD = { 12: "UP", 13: "DOWN", 14: "LEFT", 15: "RIGHT" };
const STICKS = [["LEFT", "RIGHT"], ["UP", "DOWN"]];

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
  keyMessageTimes.set(++keysNumber, performance.now());
  send("keys", { held, number: keysNumber });
  for (const button of pad.querySelectorAll(".key")) {
    button.classList.toggle("held", held.some((name) => (game.aliases[name] ?? name) === button.dataset.key));
  }
  if (held.length && (phase === "ready" || phase === "idle")) resume();
}

function releaseAll() {
  for (const source of [...pressed.keys()]) hold(source, null);
}

const isKey = (name) => Boolean(game && name && (name in game.keys || name in game.aliases));

// Letters and digits count by their place on the keyboard, so that WASD lies under the same fingers on AZERTY, Cyrillic
// and Greek layouts; where the game has no key of that place, by what they write.
function keyName(event) {
  if (bindings[event.code]) return bindings[event.code];
  if (Object.values(bindings).includes(defaultKey(event))) return null; // that key has been moved to another
  return defaultKey(event);
}

function defaultKey(event) {
  const place = /^(?:Key|Digit)(.)$/.exec(event.code)?.[1];
  const written = event.key.length === 1 ? event.key.toUpperCase() : null;
  return [KEY_NAMES[event.key], place, written].find(isKey) ?? null;
}

// Keys reach the game before Gradio's controls, whose galleries and sliders use the arrow keys too.
addEventListener("keydown", (event) => {
  if (event.key === "Meta") releaseAll(); // while it is held, macOS tells of no other key that it has been released
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(FIELDS)) return;
  if (rebinding) return bind(event);
  const name = keyName(event);
  const isClick = (name === "SPACE" || name === "ENTER") && event.target.matches?.("button, a, summary, label, input");
  if (name && !isClick && !(event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow"))) {
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) hold(event.code, name);
    return;
  }
  const shortcut = { P: "pause", N: "step", R: "start" }[event.key.toUpperCase()];
  if (shortcut && !name && (!event.repeat || shortcut === "step")) window.dreamrun[shortcut]();
  else if (phase === "idle" && !event.repeat && !["Shift", "Tab"].includes(event.key)) resume();
}, { capture: true });
addEventListener("keyup", (event) => (event.key === "Meta" ? releaseAll() : hold(event.code, null)), { capture: true });
setInterval(() => { if (pressed.size && !document.hasFocus()) releaseAll(); }, RELEASE_MS); // a window above took the keyup
const canvasFrame = dreamCanvas.parentElement;
canvasFrame.addEventListener("mousedown", ({ button }) => { if (game && MOUSE_NAMES[button] in game.keys) hold(`mouse ${button}`, MOUSE_NAMES[button]); });
canvasFrame.addEventListener("contextmenu", (event) => { if (game && "MOUSE2" in game.keys) event.preventDefault(); });
addEventListener("mouseup", ({ button }) => hold(`mouse ${button}`, null));
addEventListener("blur", releaseAll);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  releaseAll();
  if (phase !== "playing") return;
  leftTab = true;
  send("pause", { on: true });
});

// Several fingers may slide from key to key.
const keyUnder = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".key")?.dataset.key ?? null;
pad.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  pad.setPointerCapture(event.pointerId);
  hold(`pointer ${event.pointerId}`, keyUnder(event));
});
pad.addEventListener("pointermove", (event) => {
  if (pad.hasPointerCapture(event.pointerId)) hold(`pointer ${event.pointerId}`, keyUnder(event));
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  pad.addEventListener(end, (event) => hold(`pointer ${event.pointerId}`, null));
}
pad.addEventListener("contextmenu", (event) => event.preventDefault());
// Space or Enter holds the key that has the focus.
pad.addEventListener("keydown", (event) => {
  if (![" ", "Enter"].includes(event.key) || !event.target.dataset.key) return;
  event.preventDefault();
  hold(event.code, event.target.dataset.key);
});
// After a slider was moved with the mouse, the arrow keys control the game again.
document.addEventListener("pointerup", ({ target }) => { if (target.matches?.("input[type=range]")) focusGame(); });

// ---- gamepads

// The d-pad and the left stick are the arrows. Buttons hold the game's other keys, in the order of its pad.
function padKeys(gamepad) {
  const others = Object.keys(game.keys).filter((key) => !STICKS.flat().includes(key) && !key.startsWith("MOUSE"));
  const held = new Map();
  gamepad.buttons.forEach((button, i) => {
    if (button.pressed) held.set(`pad ${gamepad.index} button ${i}`, DPAD[i] ?? others[i] ?? null);
  });
  gamepad.axes.slice(0, 2).forEach((value, axis) => {
    if (Math.abs(value) > STICK) held.set(`pad ${gamepad.index} axis ${axis}`, STICKS[axis][value > 0 ? 1 : 0]);
  });
  return held;
}

let padTimer = null;
function readGamepads() {
  const gamepads = [...(navigator.getGamepads?.() ?? [])].filter(Boolean);
  const held = new Map(game ? gamepads.flatMap((gamepad) => [...padKeys(gamepad)]) : []);
  if (phase === "idle" && held.size) resume();
  for (const source of [...pressed.keys()]) if (source.startsWith("pad ") && !held.has(source)) hold(source, null);
  for (const [source, key] of held) if (isKey(key)) hold(source, key);
  padTimer = gamepads.length ? requestAnimationFrame(readGamepads) : null;
}
addEventListener("gamepadconnected", () => { padTimer ??= requestAnimationFrame(readGamepads); });

// ---- keys of the player's own choice, kept in this browser for each game

let bindings = {}; // key code -> name of the game's key
let rebinding = null; // the game's key that waits for its new key
const bindingsName = () => `dreamrun keys ${Object.keys(game.keys).join(" ")}`;

function loadBindings() {
  try { bindings = JSON.parse(localStorage.getItem(bindingsName())) ?? {}; } catch { bindings = {}; } // no storage
  showBindings();
}

function bind(event) {
  event.preventDefault();
  event.stopPropagation();
  if (event.key !== "Escape") {
    bindings = Object.fromEntries(Object.entries(bindings).filter(([code, key]) => key !== rebinding && code !== event.code));
    if (defaultKey(event) !== rebinding) bindings[event.code] = rebinding;
    saveBindings();
  }
  rebinding = null;
  showBindings();
}

function saveBindings() {
  try { localStorage.setItem(bindingsName(), JSON.stringify(bindings)); } catch { /* they last as long as the page */ }
}

function showBindings() {
  const own = Object.fromEntries(Object.entries(bindings).map(([code, key]) => [key, code.replace(/^(Key|Digit)/, "")]));
  const rows = Object.keys(game.keys).filter((key) => !key.startsWith("MOUSE")).map((key) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.dataset.rebind = key;
    button.textContent = `${game.keys[key]}: ${rebinding === key ? "press a key" : own[key] ?? GLYPHS[key] ?? key}`;
    button.addEventListener("click", () => { rebinding = rebinding === key ? null : key; showBindings(); });
    return button;
  });
  const reset = Object.assign(document.createElement("button"), { type: "button", textContent: "Reset" });
  reset.addEventListener("click", () => { bindings = {}; rebinding = null; saveBindings(); showBindings(); });
  $(".bindings").replaceChildren(...rows, reset);
  $(".rebind").hidden = !rows.length;
}
