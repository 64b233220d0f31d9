// What the server is, whether it can be reached, and the token for it.

import { $, el, remember } from "/static/dom.js";
import { connection, json, token } from "/static/api.js";
import * as errors from "/static/errors.js";
import * as pictures from "/static/pictures.js";

const THEMES = ["auto", "light", "dark"];
let info = null, hooks = { described() {} };

export function build(given) {
  hooks = given;
  theme();
  connection.addEventListener("lost", ({ detail }) => banner(`${errors.words(detail.reason, "The server cannot be reached.")} This page keeps trying; nothing is lost.`));
  connection.addEventListener("back", () => { banner(""); refresh(); });
  connection.addEventListener("token", (event) => ask(event.detail));
  $("about-open").addEventListener("click", () => { show(); $("about").showModal(); refresh().then(show); });
  $("token-open").addEventListener("click", () => ask(null));
  $("token-forget").addEventListener("click", async () => { // the next person at this browser finds nothing
    token.set("");
    await pictures.forget();
    for (const key of ["draft", "given", "pending"]) remember(key, null);
    location.hash = "";
    location.reload();
  });
  $("token-form").addEventListener("submit", () => {
    const value = $("token-value").value.trim();
    if (!value) return;
    token.set(value);
    $("token-value").value = "";
    refresh();
    hooks.signed();
  });
  setInterval(() => { if (!document.hidden) refresh(); }, 15000);
  return refresh();
}

function banner(text) {
  $("banner").textContent = text;
  $("banner").hidden = !text;
  if (text) state("off", "Not reachable");
}

function state(kind, text) {
  $("about-dot").className = `dot ${kind}`;
  $("about-text").textContent = text;
}

function ask(error) {
  $("token-open").hidden = false;
  $("token-why").textContent = error ? `${errors.words(error.reason, error.message)} Its operator gives them out.` : "This server knows its callers by tokens. Its operator gives them out.";
  if (!$("token").open) $("token").showModal();
}

export async function refresh() {
  try {
    info = await json("/v1/info");
  } catch (error) {
    if (!error.away) state("off", error.http === 401 ? "Token needed" : "Error");
    return null;
  }
  if (token.get()) $("token-open").hidden = false;
  const queue = info.queue || {}, busy = (queue.running || 0) + (queue.queued || 0);
  const ready = info.accepting && (info.devices || []).some((device) => device.ready);
  state(ready ? (busy ? "busy" : "ok") : "off", !info.accepting ? "Not accepting jobs" : ready ? (busy ? `${queue.running || 0} painting, ${queue.queued || 0} waiting` : "Ready") : "Starting");
  hooks.described(info);
  return info;
}

function show() {
  if (!info) { $("about-body").replaceChildren(el("p", {}, "The server cannot be reached.")); return; }
  const mib = (bytes) => `${(Number(bytes) / 2 ** 20).toFixed(0)} MiB`, limits = info.limits || {}, storage = info.storage || {}, queue = info.queue || {};
  const lines = [
    ["Version", info.version],
    ...(info.devices || []).map((device) => ["Device", `${device.name}: ${device.description}${device.ready ? "" : ", not ready"}`]),
    ["Filters", (info.networks || []).map((network) => network.id || `${network.name}:${network.weights}`).join(", ")],
    ["Queue", `${queue.running || 0} painting, ${queue.queued || 0} waiting, at most ${limits.maxQueuedJobs}`],
    ["Largest picture", `${limits.maxSizePx} px, ${limits.maxSteps || "any number of"} steps, ${limits.maxStyles} styles`],
    ["Your jobs", limits.maxClientJobs ? `at most ${limits.maxClientJobs} at a time` : "no limit"],
    ["Storage", storage.durable ? `${mib(storage.usedBytes || 0)} of ${mib(storage.limitBytes)}; jobs survive a restart` : "in memory; jobs are lost when the server stops"],
  ];
  const clear = el("button", { type: "button", onclick: async () => { await pictures.forget(); clear.textContent = "Forgotten"; } }, "Forget the pictures in this browser");
  $("about-body").replaceChildren(el("dl", { class: "facts" }, ...lines.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])), el("p", { class: "hint" }, "Photos and styles that you add are kept in this browser, so that a reload loses nothing."), clear);
}

function theme() {
  let chosen = "auto";
  try { chosen = localStorage.getItem("impasto.theme") || "auto"; } catch { /* the system's */ }
  const apply = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = chosen;
    const text = { auto: "Auto", light: "Light", dark: "Dark" }[chosen];
    $("theme").replaceChildren(el("span", { "aria-hidden": "true" }, "\u25d0"), text);
    $("theme").setAttribute("aria-label", `${text}: colours of the page`);
  };
  $("theme").addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    try { localStorage.setItem("impasto.theme", chosen); } catch { /* for this page only */ }
    apply();
  });
  apply();
}
