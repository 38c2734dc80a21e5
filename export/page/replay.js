// The replay file of play/replay.py: everything that determines a rollout.

export async function replayFile(config, { prompt, seed, num_steps, actions }, firstRecorded) {
  const { channels, height, width } = config;
  const fields = {
    format: config.replay.format,
    checkpoint: config.hello.checkpoint,
    weights_sha256: config.replay.weights_sha256,
    ...(config.replay.game ? { game: config.replay.game } : {}),
    seed,
    num_steps,
    guidance: 1,
    context_noise: config.context.noise,
    first_recorded: firstRecorded,
    actions,
    prompt: {
      record: prompt.record,
      moment: prompt.moment,
      shape: [prompt.frames.length, height, width, channels],
      frames: await compressed(prompt.frames),
      actions: prompt.actions,
    },
  };
  return `${JSON.stringify(fields)}\n`;
}

// Bytes in zlib's format, in base64.
async function compressed(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new CompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}
