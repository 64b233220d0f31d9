// A grid of variations: one parameter, several values, a job for each. Its id is in the jobs' request ids, so that it survives a reload.

import { $, button, el, say } from "/static/dom.js";
import * as api from "/static/api.js";
import * as easel from "/static/easel.js";
import { Card } from "/static/gallery.js";
import { ALL, byKey, fromText, toText } from "/static/parameters.js";
import { uuid } from "/static/sha256.js";
import * as settings from "/static/settings.js";

const MOST = 12, REFRESH_MS = 2000, PREFIX = "grid";
const CHOICES = ["contentWeight", "styleScale", "totalVariationWeight", "color", "styleLoss", "steps", "seed", "sizePx"];
let timer = 0;

/** Suggest values around the current one. */
function suggestion(item) {
  if (item.kind === "choice") return item.choices.map(([, text]) => text).join(", ");
  if (item.key === "seed") return "1, 2, 3, 4";
  const now = Number(settings.value(item)) || item.min || 1, factors = item.log ? [0.25, 1, 4, 16] : [0.5, 1, 1.5, 2];
  return [...new Set(factors.map((factor) => {
    const value = Math.min(item.max ?? Infinity, Math.max(item.min ?? 0, now * factor));
    return item.kind === "int" ? Math.round(value) : Number(value.toPrecision(2));
  }))].join(", ");
}

function values(item, text) {
  return text.split(",").map((part) => part.trim()).filter(Boolean).map((part) => {
    if (item.kind !== "choice") return fromText(item, part);
    const found = item.choices.find(([key, shown]) => shown === part || key === part);
    if (!found) throw new Error(`“${part}” is none of ${item.choices.map(([, shown]) => shown).join(", ")}`);
    return found[0];
  });
}

/** Build the form; submit(replaced, requestId) sends one job. */
export function build(submit) {
  const which = el("select", { id: "vary" }, ...CHOICES.map((key) => el("option", { value: key }, byKey[key].label)));
  const list = el("input", { id: "vary-values", type: "text", autocomplete: "off", class: "wide", "aria-describedby": "vary-wrong" });
  const wrong = el("p", { class: "wrong-text", id: "vary-wrong", role: "alert" });
  const go = button("Paint the grid", async () => {
    const item = byKey[which.value];
    let chosen;
    try { chosen = values(item, list.value); } catch (error) { wrong.textContent = error.message; list.focus(); return; }
    if (chosen.length < 2 || chosen.length > MOST) { wrong.textContent = `Give 2 to ${MOST} values.`; list.focus(); return; }
    wrong.textContent = "";
    go.disabled = true;
    try {
      const id = `${PREFIX}.${uuid().slice(0, 13)}.${item.key}`;
      for (const [index, value] of chosen.entries()) if (!(await submit({ [item.key]: value }, `${id}.${index}`))) return;
      location.hash = `grid=${encodeURIComponent(id)}`;
    } finally { go.disabled = false; }
  });
  const renew = () => { list.value = suggestion(byKey[which.value]); };
  which.addEventListener("change", renew);
  $("variations").addEventListener("toggle", () => { if ($("variations").open && !list.value) renew(); });
  $("variations-form").replaceChildren(el("div", { class: "stack" },
    el("label", { class: "inline", for: "vary" }, "Vary", which), el("label", { class: "visually-hidden", for: "vary-values" }, "Values, separated by commas"), list, wrong, go));
}

/** Show a grid in the stage, and keep it up to date. */
export async function open(id, hooks) {
  close();
  const cells = new Map(), list = el("ul", { class: "cells", "aria-label": "Variations" });
  const item = byKey[id.split(".")[2]] || ALL[0];
  easel.leave(list);
  say("Grid of variations");
  const refresh = async () => {
    let pending = true;
    try {
      // The grid's first job is its oldest: no page after it has another one.
      const { found } = await api.jobs({}, Infinity, (listed) => !list.isConnected || listed.some((job) => job.requestId === `${id}.0`));
      const jobs = found.filter((job) => (job.requestId || "").startsWith(`${id}.`));
      jobs.sort((a, b) => Number(a.requestId.split(".").pop()) - Number(b.requestId.split(".").pop()));
      for (const job of jobs) {
        if (!cells.has(job.jobId)) {
          const value = job.parameters?.[item.key];
          const text = item.choices?.find(([key]) => key === value)?.[1] ?? toText(item, value ?? 0);
          const card = new Card(job, hooks, `${item.label} ${text}`);
          cells.set(job.jobId, card);
          list.append(card.node);
        }
        cells.get(job.jobId).update(job);
      }
      pending = jobs.some((job) => !easel.over(job.state)); // a grid without jobs will have none: they are sent before it is shown
      if (!jobs.length) list.replaceChildren(el("li", {}, "These pictures are no longer on the server."));
      else if (list.firstElementChild && !list.firstElementChild.classList.contains("card")) list.firstElementChild.remove();
    } catch { /* the page says that the server is away */ }
    if (pending && list.isConnected) timer = setTimeout(refresh, REFRESH_MS);
  };
  await refresh();
}

export const close = () => clearTimeout(timer);
