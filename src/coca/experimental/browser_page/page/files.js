// Files of the page, each loaded when it is first needed, with their progress.

const loaded = new Map();
/** Downloads that run: path -> bytes that were read, and all bytes. */
const running = new Map();
let report = () => {};

// Registers the function that receives the bytes that were read, and all, of what is loading.
export function onProgress(listener) {
  report = listener;
}

// Runs a function once; a failed run is repeated by the next call.
export function once(key, make) {
  if (!loaded.has(key)) {
    const made = make();
    made.catch(() => loaded.delete(key));
    loaded.set(key, made);
  }
  return loaded.get(key);
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
  return answer;
}

// The bytes of a file.
export async function bytes(path) {
  try {
    const answer = await fetched(path);
    const progress = { read: 0, all: Number(answer.headers.get("Content-Length")) };
    running.set(path, progress);
    const parts = [];
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) return await new Blob(parts).arrayBuffer();
      parts.push(value);
      // What is sent compressed has more bytes than its length says.
      progress.read = Math.min(progress.all, progress.read + value.length);
      tell();
    }
  } finally {
    running.delete(path);
    tell();
  }
}

function tell() {
  const sums = { read: 0, all: 0 };
  for (const { read, all } of running.values()) {
    sums.read += read;
    sums.all += all;
  }
  report(sums);
}

export const json = (path) => once(path, async () => (await fetched(path)).json());
