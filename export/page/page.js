// The page around the stage: its controls, the worker that dreams, and recordings.
import { runStage } from "./stage.js";

const VIDEO_TYPES = ["video/webm;codecs=vp9", "video/webm", "video/mp4"];
const VIDEO_HEIGHT = 512, CAPTION_HEIGHT = 40; // of a recording, in pixels

const $ = (selector) => document.querySelector(selector);

// What the stage needs of a websocket, with a worker at the other end.
class LocalSocket {
  readyState = WebSocket.OPEN;

  constructor() {
    this.worker = new Worker(new URL(`worker.js${location.search}`, import.meta.url), { type: "module" });
    this.worker.onmessage = (event) => {
      this.onmessage(event);
      if (typeof event.data !== "string") recorder?.draw();
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

// A video of the dream with the pressed keys, written by the browser.
class Recorder {
  constructor(source, type, onDone) {
    const scale = Math.max(1, Math.round(VIDEO_HEIGHT / source.height));
    this.source = source;
    this.canvas = Object.assign(document.createElement("canvas"), { width: scale * source.width, height: scale * source.height + CAPTION_HEIGHT });
    this.context = this.canvas.getContext("2d");
    this.draw();
    const parts = [];
    this.media = new MediaRecorder(this.canvas.captureStream(), { mimeType: type, videoBitsPerSecond: 4e6 });
    this.media.ondataavailable = ({ data }) => parts.push(data);
    this.media.onstop = () => onDone(new Blob(parts, { type: type.split(";")[0] }));
    this.media.start();
  }

  draw() {
    const { canvas, context, source } = this, height = canvas.height - CAPTION_HEIGHT;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(source, 0, 0, canvas.width, height);
    Object.assign(context, { fillStyle: "#fff", font: "20px system-ui, sans-serif", textAlign: "center" });
    context.fillText($(".stage").dataset.action ?? "", canvas.width / 2, height + 27);
  }

  pause(on) {
    if (on && this.media.state === "recording") this.media.pause();
    else if (!on && this.media.state === "paused") this.media.resume();
  }

  stop() {
    this.media.stop();
  }
}

let recorder = null, socket = null;
const videoType = window.MediaRecorder && VIDEO_TYPES.find((type) => MediaRecorder.isTypeSupported(type));
window.openLocalSocket = () => {
  socket?.worker.terminate(); // one that has failed
  return (socket = new LocalSocket());
};

// ---- what the stage reports

const events = {
  started(started) {
    $("#details").textContent = describe(started);
    for (const button of document.querySelectorAll("#prompts button")) {
      button.setAttribute("aria-pressed", Number(button.dataset.record) === started.record && started.record !== null);
    }
  },
  paused({ paused }) {
    $("#pause").textContent = paused ? "Resume (P)" : "Pause (P)";
    recorder?.pause(paused);
  },
  recording({ recording }) {
    $("#record").textContent = recording ? "■ Stop recording" : "● Record";
    if (recording && videoType) recorder = new Recorder($(".dream-canvas"), videoType, showVideo);
    if (!recording) recorder?.stop();
    if (!recording) recorder = null;
    if (recording) $("#recording").hidden = true;
  },
  recorded({ replay }) {
    offer($("#download-json"), new Blob([replay], { type: "application/json" }), "dream.json");
    $("#recording").hidden = false;
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
if (!videoType) {
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
$("#seed").onchange = ({ target }) => dreamrun.start({ seed: target.value === "" ? null : Number(target.value) });
$("#image").onchange = ({ target }) => target.files[0] && dreamrun.startFromImage({ url: URL.createObjectURL(target.files[0]) });
$("#steps").onclick = ({ target }) => target.dataset.action && dreamrun.step(target.dataset.action);
$("#prompts").onclick = ({ target }) => {
  const button = target.closest("button");
  if (button) dreamrun.start({ record: Number(button.dataset.record), moment: null });
};
