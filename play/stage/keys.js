// Held keys: of the keyboard, the mouse, and touch. Runs after stage.js, in the same function.

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

function keyName(event) {
  const digit = /^Digit(.)$/.exec(event.code)?.[1]; // also with Shift, and on layouts without a digit row
  const name = KEY_NAMES[event.key] ?? digit ?? (event.key.length === 1 ? event.key.toUpperCase() : null);
  return game && name && (name in game.keys || name in game.aliases) ? name : null;
}

// Keys reach the game before Gradio's controls, whose galleries and sliders use the arrow keys too.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(FIELDS)) return;
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
}, { capture: true });
addEventListener("keyup", (event) => hold(event.code, null), { capture: true });
const canvasFrame = dreamCanvas.parentElement;
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
