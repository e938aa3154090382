// The service as the page sees it: the public HTTP API, and nothing else.

/** What the service refuses, in its own words: `code` is stable, `message` says what to change. */
export class Problem extends Error {
  constructor({ title, detail, code }, retryAfterS = 0) {
    super(detail || title);
    this.title = title;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

const MAX_RECONNECTS = 5;
const RECONNECT_PAUSE_MS = 1000;
const KEY = "diffplugin-key"; // kept for this tab alone

/** The API key that every call is to carry, where the service asks for one. */
export const useKey = (key) => sessionStorage.setItem(KEY, key);

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Problem({
      title: "The service does not answer",
      detail: "Check that it runs and that you are connected, then try again.",
      code: "unreachable",
    });
  }
  if (answer.ok) return answer;
  throw await problemOf(answer);
}

async function problemOf(answer) {
  const retryAfterS = Number(answer.headers.get("Retry-After")) || 0;
  try {
    return new Problem(await answer.json(), retryAfterS);
  } catch {
    const title = `The service answered ${answer.status}`;
    return new Problem({ title, detail: "", code: "unknown" }, retryAfterS);
  }
}

const json = async (path, options) => (await call(path, options)).json();

function formOf(files, fields) {
  const form = new FormData();
  for (const [name, file] of Object.entries(files)) if (file) form.append(name, file, file.name || `${name}.png`);
  for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
  return form;
}

export const plugins = async () => (await json("/v1/plugins")).plugins;

/** {status, missing, ...}; also when it is not ready, which is 503. */
export async function readiness() {
  try {
    return await (await fetch("/readyz")).json();
  } catch {
    return { status: "unreachable", missing: [] };
  }
}

/** Plan of a photo and a sentence: tasks in order, scores of all, threshold. */
export async function plan(photo, instruction) {
  const body = formOf({ image: photo }, { instruction });
  return (await json("/v1/plan", { method: "POST", body })).plan;
}

/** Queue an edit; the job as it stands. */
export function submit(photo, mask, fields) {
  const body = formOf({ image: photo, mask }, fields);
  return json("/v1/edit", { method: "POST", body, headers: { Prefer: "respond-async" } });
}

export const job = (id) => json(`/v1/edits/${id}`);
export const cancel = (id) => json(`/v1/edits/${id}/cancel`, { method: "POST" });
export const result = async (id) => (await call(`/v1/edits/${id}/result`)).blob();

/**
 * Call `onEvent` for everything that happens to a job; resolves with its last state.
 *
 * Not an EventSource, which sends no key. A broken connection resumes after the last event.
 */
export async function watch(id, onEvent) {
  let last = "";
  for (let numBroken = 0; numBroken <= MAX_RECONNECTS; numBroken += 1) {
    const headers = last ? { "Last-Event-ID": last } : {};
    const answer = await call(`/v1/edits/${id}/events`, { headers });
    if (answer.status === 204) return job(id);
    try {
      for await (const event of eventsOf(answer.body)) {
        last = event.id;
        numBroken = 0;
        if (event.event === "done") return job(id);
        onEvent(JSON.parse(event.data));
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // else the stream broke
    }
    await new Promise((resolve) => setTimeout(resolve, RECONNECT_PAUSE_MS));
  }
  throw new Problem({
    title: "The connection was lost",
    detail: "The service stopped telling about this edit. Try it again.",
    code: "unreachable",
  });
}

/** Server-sent events of a stream: {id, event, data}; comments are left out. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => !line.startsWith(":"));
      if (lines.length) yield Object.fromEntries(lines.map((line) => line.split(/: (.*)/s, 2)));
    }
  }
}
