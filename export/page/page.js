// The page around the stage: its controls, the worker that dreams, and recordings.
import { runStage } from "./stage.js";
import { canWriteVideos, writeVideo } from "./video.js";

const $ = (selector) => document.querySelector(selector);

// What the stage needs of a websocket, with a worker at the other end.
class LocalSocket {
  readyState = WebSocket.OPEN;

  constructor() {
    this.worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" });
    this.worker.onmessage = (event) => {
      this.onmessage(event);
      if (typeof event.data !== "string") recorded?.push(shownFrame());
    };
    this.worker.onerror = (event) => this.onmessage({ data: JSON.stringify({ type: "failed", text: `The dream has failed: ${event.message ?? "its program cannot be loaded"}.` }) });
  }

  send(data) {
    this.worker.postMessage(data);
  }

  close() {
    this.worker.terminate();
    this.onclose({});
  }
}

let recorded = null, socket = null; // recorded: the frames of a recording that runs
let fps = 0; // of the game

function shownFrame() {
  const { width, height } = $(".dream-canvas");
  const image = $(".dream-canvas").getContext("2d").getImageData(0, 0, width, height);
  return { image, text: $(".stage").dataset.action ?? "" };
}

window.openLocalSocket = () => {
  socket?.worker.terminate(); // one that has failed
  return (socket = new LocalSocket());
};

// ---- what the stage reports

const events = {
  started(started) {
    fps = started.fps;
    $("#details").textContent = describe(started);
    for (const button of document.querySelectorAll("#prompts button")) {
      button.setAttribute("aria-pressed", Number(button.dataset.record) === started.record && started.record !== null);
    }
  },
  paused({ paused }) {
    $("#pause").textContent = paused ? "Resume (P)" : "Pause (P)";
  },
  recording({ recording }) {
    $("#record").textContent = recording ? "■ Stop recording" : "● Record";
    if (recording) recorded = [];
    if (recording) $("#recording").hidden = $("#download-video").hidden = true;
  },
  recorded({ replay, frames }) {
    offer($("#download-json"), new Blob([replay], { type: "application/json" }), "dream.json");
    $("#recording").hidden = false;
    const kept = recorded.slice(0, frames); // a frame may have come after the recording had ended
    recorded = null;
    if (canWriteVideos) writeVideo(kept, fps).then(showVideo);
  },
  real() {},
};

function describe({ seed, num_steps, record, device, pass_ms, key_hint }) {
  const start = record === null ? "your picture" : `record ${record}`;
  const ms = Math.round((num_steps + 1) * pass_ms);
  return `This dream: ${start}, seed ${seed}, ${num_steps} step${num_steps > 1 ? "s" : ""}, about ${ms} ms a frame. It runs on ${device}, in this browser. ${key_hint}`;
}

function showVideo(blob) {
  const name = `dream.${blob.type.split("/")[1]}`;
  $("#recording video").src = offer($("#download-video"), blob, name);
  $("#download-video").textContent = `Download ${name}`;
}

function offer(link, blob, name) {
  URL.revokeObjectURL(link.href);
  Object.assign(link, { href: URL.createObjectURL(blob), download: name, hidden: false });
  return link.href;
}

// ---- controls

const dark = matchMedia("(prefers-color-scheme: dark)");
const showColors = () => document.body.classList.toggle("dark", dark.matches);
dark.addEventListener("change", showColors);
showColors();
if (!canWriteVideos) {
  $("#recording video").hidden = true;
  $("#recording h2").textContent = "Recording (this browser cannot write videos)";
}

runStage($("#stage"), (event, data) => events[event]?.(data));
const { dreamrun } = window;
$("#restart").onclick = () => dreamrun.start();
$("#pause").onclick = () => dreamrun.pause();
$("#step").onclick = () => dreamrun.step();
$("#record").onclick = () => dreamrun.record();
$("#speed").onchange = ({ target }) => dreamrun.setSpeed(Number(target.value));
$("#num-steps").onchange = ({ target }) => dreamrun.start({ num_steps: Number(target.value) || null });
$("#seed").onchange = ({ target }) => dreamrun.start({ seed: target.validity.badInput ? NaN : target.value === "" ? null : Number(target.value) });
$("#image").onchange = ({ target }) => {
  if (target.files[0]) dreamrun.startFromImage({ url: URL.createObjectURL(target.files[0]) });
  target.value = ""; // so that the same picture can be chosen again
};
$("#steps").onclick = ({ target }) => target.dataset.action && dreamrun.step(target.dataset.action);
$("#prompts").onclick = ({ target }) => {
  const button = target.closest("button");
  if (button) dreamrun.start({ record: Number(button.dataset.record), moment: null });
};
