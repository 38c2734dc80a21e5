// Frames on the canvases, and what is measured of them. Runs after stage.js, in the same function.

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
  const style = getComputedStyle($(".screens"));
  const inner = $(".screens").clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  const width = $(".real").hidden ? inner : (inner - parseFloat(style.columnGap)) / 2;
  const sideways = matchMedia("(orientation: landscape) and (max-height: 500px)").matches; // a phone: keys stand beside
  const height = sideways ? innerHeight - 24 : Math.max(260, innerHeight * 0.55);
  const factor = Math.max(1, Math.floor(Math.min(width / dreamCanvas.width, height / dreamCanvas.height) * devicePixelRatio)) / devicePixelRatio;
  for (const canvas of [dreamCanvas, realCanvas]) {
    Object.assign(canvas.style, { width: `${factor * canvas.width}px`, height: `${factor * canvas.height}px` });
  }
}
new ResizeObserver(fitCanvases).observe(element);

const arrivals = []; // [time, frames dropped before this one] of the last ten seconds
const delays = [];
let lastTick = null;

function onFrame(header, pictures) {
  draw(dreamCanvas, pictures[0]);
  if (pictures[1]) draw(realCanvas, pictures[1]);
  $(".real-ended").hidden = !header.real_ended;
  const { action } = header; // an id, or a number for each button and axis
  const actionNames = Array.isArray(action) ? game.actions.filter((_, i) => action[i]) : [game.actions[action] ?? ""];
  Object.assign(stage.dataset, { frame: header.frame, action: actionNames.join("+") });
  if (header.frame > 0) measure(header);
}

function measure(header) {
  const now = performance.now();
  for (const [number, time] of keyMessageTimes) {
    if (number > header.keys) break;
    keyMessageTimes.delete(number);
    window.dreamrun.measurements?.push(now - time);
    if (now - time < 3000) delays.push(now - time);
    if (delays.length > 9) delays.shift();
  }
  const isGap = lastTick !== null && header.tick > lastTick && phase === "playing";
  arrivals.push([now, isGap ? Math.max(0, (header.tick - lastTick) / ticksPerFrame - 1) : 0]);
  lastTick = header.tick;
  while (arrivals[0][0] < now - 10000) arrivals.shift();
  showMeter("model", `${Math.round(header.ms)} ms`);
  if (header.psnr !== undefined) showMeter("psnr", `${header.psnr.toFixed(1)} dB`);
}

const showMeter = (name, text) => ($(`[data-meter=${name}]`).textContent = text);

setInterval(() => {
  const last = arrivals.filter(([time]) => time > performance.now() - 2000);
  const span = last.length > 1 ? (last.at(-1)[0] - last[0][0]) / 1000 : 0;
  showMeter("fps", span ? ((last.length - 1) / span).toFixed(1) : "–");
  showMeter("dropped", arrivals.length ? Math.round(arrivals.reduce((sum, [, missed]) => sum + missed, 0)) : "–");
  if (delays.length) showMeter("delay", `${Math.round([...delays].sort((a, b) => a - b)[delays.length >> 1])} ms`);
}, 500);

connect();
