// Files of the page, each loaded when it is first needed.

const loaded = new Map();

// Runs a function once; a failed run is repeated by the next call.
export function once(key, make) {
  if (!loaded.has(key)) {
    const made = make();
    made.catch(() => loaded.delete(key));
    loaded.set(key, made);
  }
  return loaded.get(key);
}

export async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
  return answer;
}

export const json = (path) => once(path, async () => (await fetched(path)).json());
