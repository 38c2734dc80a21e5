// The action of the held keys, as games/space.py and play/actions.py have it. `space` is config.json's "space".

// An id, or a number for each button and axis.
export function actionForKeys(held, space) {
  const order = new Map(held.map((key, index) => [space.aliases[key.toUpperCase()] ?? key.toUpperCase(), index]));
  if (space.kinds.length) {
    return space.keys.map((keys, i) => {
      const down = keys.map((key) => order.has(key.toUpperCase()));
      if (space.kinds[i] === "button") return Number(down.some(Boolean));
      return Number(down[1] ?? false) - Number(down[0] ?? false);
    });
  }
  let best = space.noop, bestPriority = [-1];
  for (const action of space.acting) {
    const needed = [...new Set(space.keys[action].map((key) => key.toUpperCase()))];
    if (!needed.every((key) => order.has(key))) continue;
    const priority = [needed.length, ...needed.map((key) => order.get(key)).sort((a, b) => b - a)];
    if (isGreater(priority, bestPriority)) [best, bestPriority] = [action, priority];
  }
  return best;
}

function isGreater(a, b) {
  const i = a.findIndex((value, j) => value !== b[j]);
  return i >= 0 && a[i] > (b[i] ?? -1);
}

// The vector that the network gets. An unknown action, id -1 or numbers that are null, is all zeros.
export function actionVector(action, space) {
  const vector = new Float32Array(space.num_actions);
  if (!space.kinds.length) {
    if (action >= 0) vector[action] = 1;
  } else if (!action.includes(null)) {
    vector.set([...action, 1]);
  }
  return vector;
}
