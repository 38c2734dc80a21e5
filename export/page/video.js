// The video of a recording: exactly its frames, enlarged, with the pressed keys below.

const VIDEO_HEIGHT = 512, CAPTION_HEIGHT = 40; // in pixels
const KEY_FRAME_EVERY = 60, MAX_QUEUED = 8, BITRATE = 4e6;
const CODEC = { codec: "vp09.00.10.08", id: "V_VP9" };
const RECORDER_TYPES = ["video/webm;codecs=vp9", "video/webm", "video/mp4"];
const recorderType = window.MediaRecorder && RECORDER_TYPES.find((type) => MediaRecorder.isTypeSupported(type));

export const canWriteVideos = Boolean(window.VideoEncoder || recorderType);

// frames: { image: ImageData, text }, all of one size. Gives a Blob.
export async function writeVideo(frames, fps) {
  const picture = new Picture(frames[0].image);
  const { width, height } = picture.canvas, config = { codec: CODEC.codec, width, height, framerate: fps, bitrate: BITRATE };
  const encodes = window.VideoEncoder && (await VideoEncoder.isConfigSupported(config).catch(() => null))?.supported;
  return encodes ? encode(frames, fps, picture, config) : record(frames, fps, picture);
}

class Picture {
  constructor(first) {
    const scale = Math.max(1, Math.round(VIDEO_HEIGHT / first.height));
    this.source = Object.assign(document.createElement("canvas"), { width: first.width, height: first.height });
    const size = { width: even(scale * first.width), height: even(scale * first.height) + CAPTION_HEIGHT };
    this.canvas = Object.assign(document.createElement("canvas"), size);
    this.context = this.canvas.getContext("2d");
  }

  draw({ image, text }) {
    const { canvas, context, source } = this, height = canvas.height - CAPTION_HEIGHT;
    source.getContext("2d").putImageData(image, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(source, 0, 0, canvas.width, height);
    Object.assign(context, { fillStyle: "#fff", font: "20px system-ui, sans-serif", textAlign: "center" });
    context.fillText(text, canvas.width / 2, height + 27);
  }
}

const even = (size) => size + (size % 2); // video codecs halve the colours' resolution

async function encode(frames, fps, picture, config) {
  const blocks = []; // { time, key, bytes }
  let failed = null;
  const encoder = new VideoEncoder({
    output(chunk) {
      const bytes = new Uint8Array(chunk.byteLength);
      chunk.copyTo(bytes);
      blocks.push({ time: Math.round(chunk.timestamp / 1000), key: chunk.type === "key", bytes });
    },
    error(error) { failed = error; },
  });
  encoder.configure(config);
  for (const [i, frame] of frames.entries()) {
    picture.draw(frame);
    const video = new VideoFrame(picture.canvas, { timestamp: Math.round((i * 1e6) / fps) });
    encoder.encode(video, { keyFrame: i % KEY_FRAME_EVERY === 0 });
    video.close();
    while (encoder.encodeQueueSize > MAX_QUEUED && !failed) await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await encoder.flush();
  encoder.close();
  if (failed) throw failed;
  return new Blob([webm(blocks, config, fps)], { type: "video/webm" });
}

// Without WebCodecs: the frames are played to the browser's recorder, in real time.
async function record(frames, fps, picture) {
  const parts = [], media = new MediaRecorder(picture.canvas.captureStream(), { mimeType: recorderType, videoBitsPerSecond: BITRATE });
  media.ondataavailable = ({ data }) => parts.push(data);
  const stopped = new Promise((resolve) => (media.onstop = resolve));
  picture.draw(frames[0]);
  media.start();
  for (const frame of frames) {
    picture.draw(frame);
    await new Promise((resolve) => setTimeout(resolve, 1000 / fps));
  }
  media.stop();
  await stopped;
  return new Blob(parts, { type: recorderType.split(";")[0] });
}

// ---- WebM: numbers of elements (RFC 9559, RFC 8794), then what they hold

const EBML = [0x1a, 0x45, 0xdf, 0xa3], SEGMENT = [0x18, 0x53, 0x80, 0x67], INFO = [0x15, 0x49, 0xa9, 0x66], TRACKS = [0x16, 0x54, 0xae, 0x6b];
const CUES = [0x1c, 0x53, 0xbb, 0x6b], CLUSTER = [0x1f, 0x43, 0xb6, 0x75];

function webm(blocks, { width, height }, fps) {
  const clusters = [];
  for (const block of blocks) {
    if (block.key) clusters.push({ time: block.time, parts: [element([0xe7], uint(block.time))] });
    const { time, parts } = clusters.at(-1), offset = block.time - time;
    parts.push(element([0xa3], join([[0x81, offset >> 8, offset & 255, block.key ? 0x80 : 0], block.bytes])));
  }
  const duration = new DataView(new ArrayBuffer(8));
  duration.setFloat64(0, (1000 * blocks.length) / fps);
  const app = text("Dreamrun");
  const info = element(INFO, join([
    element([0x2a, 0xd7, 0xb1], uint(1e6)), // a tick is a millisecond
    element([0x44, 0x89], new Uint8Array(duration.buffer)), element([0x4d, 0x80], app), element([0x57, 0x41], app),
  ]));
  const tracks = element(TRACKS, element([0xae], join([
    element([0xd7], uint(1)), element([0x73, 0xc5], uint(1)), element([0x9c], uint(0)), element([0x86], text(CODEC.id)),
    element([0x83], uint(1)), element([0x23, 0xe3, 0x83], uint(Math.round(1e9 / fps))),
    element([0xe0], join([element([0xb0], uint(width)), element([0xba], uint(height))])),
  ])));
  const written = clusters.map(({ parts }) => element(CLUSTER, join(parts)));
  const cues = (positions) => element(CUES, join(clusters.map(({ time }, i) => element([0xbb], join([
    element([0xb3], uint(time)), element([0xb7], join([element([0xf7], uint(1)), element([0xf1], uint(positions[i]))])),
  ])))));
  let position = info.length + tracks.length + cues(written).length; // every number takes eight bytes, whatever it is
  const positions = written.map((cluster) => (position += cluster.length) - cluster.length);
  const head = element(EBML, join([
    element([0x42, 0x86], uint(1)), element([0x42, 0xf7], uint(1)), element([0x42, 0xf2], uint(4)), element([0x42, 0xf3], uint(8)),
    element([0x42, 0x82], text("webm")), element([0x42, 0x87], uint(2)), element([0x42, 0x85], uint(2)),
  ]));
  return join([head, element(SEGMENT, join([info, tracks, cues(positions), ...written]))]);
}

// An element: its number, its size in eight bytes, its content.
function element(number, content) {
  const size = uint(content.length);
  size[0] = 1;
  return join([number, size, content]);
}

function uint(value) {
  const bytes = new DataView(new ArrayBuffer(8));
  bytes.setBigUint64(0, BigInt(Number.isInteger(value) ? value : 0));
  return new Uint8Array(bytes.buffer);
}

const text = (string) => new TextEncoder().encode(string);

function join(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
