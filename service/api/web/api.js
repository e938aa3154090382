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

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
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

/** Call `onEvent` for everything that happens to a job; resolves with its last state. */
export function watch(id, onEvent) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(`/v1/edits/${id}/events`);
    const end = (settle, value) => {
      events.close();
      settle(value);
    };
    const tell = (event) => onEvent(JSON.parse(event.data));
    for (const kind of ["status", "progress", "preview"]) events.addEventListener(kind, tell);
    events.addEventListener("done", () => end(resolve, job(id)));
    events.addEventListener("error", () => {
      // Otherwise it is about to connect again by itself, and resumes where it was.
      if (events.readyState === EventSource.CLOSED) end(reject, lostConnection());
    });
  });
}

function lostConnection() {
  return new Problem({
    title: "The connection was lost",
    detail: "The service stopped telling about this edit. Try it again.",
    code: "unreachable",
  });
}
