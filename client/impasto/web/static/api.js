// Calls of the HTTP API: tokens, errors, and whether the server can be reached.

const PROBE_MS = 1500, PAGE = 200;
export const connection = new EventTarget();
let lost = false;

export const token = {
  get: () => { try { return sessionStorage.getItem("impasto.token") || ""; } catch { return ""; } },
  set: (value) => { try { value ? sessionStorage.setItem("impasto.token", value) : sessionStorage.removeItem("impasto.token"); } catch { /* none is kept */ } },
};

/** An error with a google.rpc.Status. */
export class ApiError extends Error {
  constructor(http, status, retryAfter) {
    super(status.message || `HTTP ${http}`);
    this.http = http;
    const details = status.details || [];
    const info = details.find((item) => (item["@type"] || "").endsWith("ErrorInfo")) || {};
    this.reason = info.reason || "";
    this.metadata = info.metadata || {};
    this.violations = details.flatMap((item) => item.fieldViolations || []);
    this.retryAfter = Number(retryAfter) || 0;
  }
  /** Whether the server is away: it comes back by itself. */
  get away() { return this.http === 0 || (this.http === 503 && this.reason !== "BUSY" && this.reason !== "SERVER_FAULT" && this.reason !== "STORAGE_FAILED"); }
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export async function request(path, options = {}) {
  const headers = new Headers(options.headers || {}), sent = token.get();
  if (sent) headers.set("Authorization", `Bearer ${sent}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: options.cache || "default", credentials: "omit" });
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    const error = new ApiError(0, { message: "The server cannot be reached." });
    away(error);
    throw error;
  }
  if (answer.ok || answer.status === 304) return answer;
  const status = await answer.json().catch(() => ({ message: answer.statusText }));
  const error = new ApiError(answer.status, status, answer.headers.get("Retry-After"));
  if (error.away) away(error);
  if (error.http === 401 && sent === token.get()) connection.dispatchEvent(new CustomEvent("token", { detail: error }));
  throw error;
}

export const json = async (path, options) => (await request(path, options)).json();
export const post = (path) => json(path, { method: "POST" });
export const send = (method, path, body) => json(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

/** Return the caller's jobs, newest first, and whether there are more: so many at most, and no more pages once there are enough. */
export async function jobs(filter = {}, most = Infinity, enough = () => false) {
  const found = [];
  let token = "";
  do {
    const query = new URLSearchParams({ page_size: Math.min(PAGE, most - found.length), page_token: token, ...filter });
    const answer = await json(`/v1/jobs?${query}`);
    found.push(...(answer.jobs || []));
    token = answer.nextPageToken || "";
  } while (token && found.length < most && !enough(found));
  return { found, more: Boolean(token) };
}

/** Repeat a call that is safe to repeat until the server answers. */
export async function patiently(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!error.away) throw error;
      await pause(Math.max(1000, error.retryAfter * 1000));
    }
  }
}

function away(error) {
  if (lost) return;
  lost = true;
  connection.dispatchEvent(new CustomEvent("lost", { detail: error }));
  probe();
}

async function probe() {
  while (lost) {
    await pause(PROBE_MS);
    try {
      const answer = await fetch("/readyz", { cache: "no-store", credentials: "omit" });
      if (answer.ok) {
        lost = false;
        connection.dispatchEvent(new Event("back"));
      }
    } catch { /* still away */ }
  }
}

/**
 * Read a job's events until it ends: each once and in order, across lost connections.
 * on(name, data) gets each event; the promise ends with the job.
 */
export async function watch(id, on, signal) {
  let last = "0", ended = false, failures = 0;
  while (!ended && !signal.aborted) {
    try {
      if (document.hidden) await visible(signal);
      const answer = await request(`/v1/jobs/${encodeURIComponent(id)}/events?previews=true`, {
        headers: { Accept: "text/event-stream", "Last-Event-ID": last }, signal, cache: "no-store",
      });
      if (answer.status === 204) return;
      for await (const event of events(answer.body)) {
        failures = 0;
        if (event.name === "status") break;
        last = event.id || last;
        ended = event.name === "result";
        on(event.name, event.data);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error instanceof ApiError && !error.away) throw error;
    }
    if (!ended) await pause(Math.min(4000, 500 * 2 ** failures++));
  }
}

function visible(signal) {
  return new Promise((done) => {
    const check = () => { if (!document.hidden || signal.aborted) { document.removeEventListener("visibilitychange", check); done(); } };
    document.addEventListener("visibilitychange", check);
    signal.addEventListener("abort", check);
  });
}

/** Yield the server-sent events of a body. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", id = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { name, id, data: JSON.parse(data.join("\n")) };
          name = ""; id = ""; data = [];
        } else if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("id:")) id = line.slice(3).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).trim());
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
