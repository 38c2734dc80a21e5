// torch's normal numbers on a CPU: equal seeds give the noise of model/sampler.py, up to rounding.

// Mersenne Twister MT19937 (Matsumoto and Nishimura 1998). Returns a function that draws 32 bits.
function mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    const previous = state[i - 1] ^ (state[i - 1] >>> 30);
    state[i] = Math.imul(1812433253, previous) + i;
  }
  let next = 624;
  return () => {
    if (next === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      next = 0;
    }
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

// normals(seed)(n) is torch.randn(n, generator=torch.Generator().manual_seed(seed)) for n of at least 16: uniform
// numbers of 24 bits, then Box and Muller's transform of each 16, number j with number j + 8.
export function normals(seed) {
  const draw = mersenneTwister(seed);
  const uniform = () => (draw() & 0xffffff) / 0x1000000;
  return (n) => {
    const out = new Float32Array(n);
    const fill = (first) => {
      for (let i = first; i < first + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - out[i])), angle = 2 * Math.PI * out[i + 8];
        out[i] = radius * Math.cos(angle);
        out[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let i = 0; i < n; i++) out[i] = uniform();
    for (let first = 0; first <= n - 16; first += 16) fill(first);
    if (n % 16) {
      for (let i = n - 16; i < n; i++) out[i] = uniform();
      fill(n - 16);
    }
    return out;
  };
}
