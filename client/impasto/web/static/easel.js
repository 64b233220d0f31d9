// The job that is shown: its preview, curve, time and controls while it is painted, then its picture.

import { $, button, duration, el, say, seconds } from "/static/dom.js";
import { json, post, request, watch } from "/static/api.js";
import { Compare } from "/static/compare.js";
import { Curve } from "/static/curve.js";
import * as errors from "/static/errors.js";
import * as pictures from "/static/pictures.js";

const STATES = { JOB_STATE_QUEUED: "Waiting", JOB_STATE_RUNNING: "Painting", JOB_STATE_PAUSED: "Paused", JOB_STATE_SUCCEEDED: "Finished", JOB_STATE_FAILED: "Failed", JOB_STATE_CANCELLED: "Cancelled" };
const REASONS = { STOP_REASON_STALLED: "no further improvement was found", STOP_REASON_CONVERGED: "the loss converged", STOP_REASON_DEADLINE: "the time limit was reached", STOP_REASON_ABANDONED: "its caller left" };
const ESTIMATE_MS = 5000;
export const word = (state) => STATES[state] || "Unknown";
export const over = (state) => ["JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"].includes(state);

let shown = null;
let hooks = { changed() {}, use() {} };
export const build = (given) => { hooks = given; };
export const current = () => shown?.id;

/** Show nothing, or something else in the stage. */
export function leave(...nodes) {
  shown?.stop();
  shown = null;
  $("job").hidden = true;
  $("stage").classList.remove("zoomed");
  if (nodes.length) $("stage").replaceChildren(...nodes);
  $("easel").classList.toggle("idle", !nodes.length);
}

export function open(id) {
  if (shown?.id === id) return shown;
  shown?.stop();
  shown = new Shown(id);
  $("easel").classList.remove("idle");
  shown.run();
  return shown;
}

class Shown {
  constructor(id) {
    this.id = id;
    this.job = { jobId: id, state: "" };
    this.aborter = new AbortController();
    this.curve = new Curve();
    this.urls = [];
    this.title = el("strong", {}, "…");
    this.detail = el("span", {});
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Progress" });
    this.controls = el("div", { class: "row" });
    this.facts = el("dl", { class: "facts" });
    this.note = el("p", { class: "problem", hidden: true, role: "alert" });
    this.preview = el("img", { alt: "Preview of the picture" });
    $("stage").classList.remove("zoomed");
    $("stage").replaceChildren(el("p", { class: "waiting" }, "Waiting for the first preview"));
    $("job").replaceChildren(el("div", { class: "stack" }, el("p", { class: "state" }, this.title, this.detail), this.bar, this.controls, this.note, this.curve.node, el("details", {}, el("summary", {}, "About this picture"), this.facts)));
    $("job").hidden = false;
    this.asking = setInterval(() => this.estimate(), ESTIMATE_MS);
  }

  stop() {
    this.aborter.abort();
    clearInterval(this.asking);
    for (const url of this.urls) URL.revokeObjectURL(url);
  }

  get gone() { return this.aborter.signal.aborted; }

  async run() {
    try {
      await watch(this.id, (name, data) => this.event(name, data), this.aborter.signal);
    } catch (error) {
      if (this.gone) return;
      this.title.textContent = "Not available";
      this.fail(errors.explain(error));
      $("stage").replaceChildren(el("p", { class: "waiting" }, "No picture"));
      this.controls.replaceChildren();
    }
  }

  fail(text) { this.note.textContent = text; this.note.hidden = false; }

  event(name, data) {
    if (this.gone) return;
    if (name === "snapshot") this.update(data.snapshot);
    else if (name === "start") { this.update({ state: "JOB_STATE_RUNNING", device: data.start.device }); if (data.start.note) this.fail(data.start.note); }
    else if (name === "pause") this.update({ state: data.pause.reason === "PAUSE_REASON_REQUESTED" ? "JOB_STATE_PAUSED" : "JOB_STATE_QUEUED", step: data.pause.step });
    else if (name === "heartbeat") this.update({ state: data.heartbeat.state, queuePosition: data.heartbeat.queuePosition });
    else if (name === "step") this.step(data.step);
    else if (name === "result") this.finished(data.result.job);
  }

  update(changes) {
    const before = this.job.state;
    this.job = { ...this.job, ...changes };
    this.describe();
    if (before !== this.job.state) {
      this.control();
      say(word(this.job.state));
      hooks.changed(this.job);
      if (["JOB_STATE_QUEUED", "JOB_STATE_PAUSED"].includes(this.job.state)) this.estimate();
    }
  }

  step(step) {
    this.job.step = step.step;
    this.job.steps = step.steps;
    this.job.remaining = duration(step.remaining);
    if (this.job.state !== "JOB_STATE_RUNNING") this.update({ state: "JOB_STATE_RUNNING" });
    if (step.losses) this.curve.add(step.step, step.losses);
    if (step.preview?.data) {
      this.preview.src = `data:image/jpeg;base64,${step.preview.data}`;
      if (this.preview.parentNode?.parentNode !== $("stage")) $("stage").replaceChildren(el("div", { class: "preview" }, this.preview));
    }
    this.describe();
  }

  describe() {
    const { state, step = 0, queuePosition = 0, remaining, starts, ends, stopReason } = this.job;
    const steps = this.job.steps || this.job.parameters?.steps || 0;
    this.title.textContent = word(state);
    const parts = [];
    if (state === "JOB_STATE_QUEUED") {
      parts.push(queuePosition ? `${queuePosition} ahead in the queue` : "next in the queue");
      if (starts) parts.push(`starts in about ${seconds((starts - Date.now()) / 1000)}`);
    }
    if (["JOB_STATE_RUNNING", "JOB_STATE_PAUSED"].includes(state)) parts.push(`step ${step} of ${steps}`);
    if (state === "JOB_STATE_RUNNING" && remaining > 0) parts.push(`${seconds(remaining)} left`);
    if (state === "JOB_STATE_QUEUED" && ends) parts.push(`finished in about ${seconds((ends - Date.now()) / 1000)}`);
    if (state === "JOB_STATE_SUCCEEDED") parts.push(`${step} steps in ${seconds(duration(this.job.timings?.optimize))}`, ...(REASONS[stopReason] ? [REASONS[stopReason]] : []));
    if (state === "JOB_STATE_CANCELLED" && REASONS[stopReason]) parts.push(REASONS[stopReason]);
    this.detail.textContent = parts.filter(Boolean).join(" · ");
    this.bar.hidden = over(state);
    this.bar.max = Math.max(1, steps);
    this.bar.value = step;
  }

  async estimate() {
    if (this.gone || over(this.job.state) || document.hidden) return;
    try {
      const { job } = await json(`/v1/jobs/${this.id}`);
      this.job.starts = job.estimatedStartTime && Date.parse(job.estimatedStartTime);
      this.job.ends = job.estimatedEndTime && Date.parse(job.estimatedEndTime);
      if (job.state === "JOB_STATE_QUEUED") this.job.queuePosition = job.queuePosition;
      this.describe();
    } catch { /* the stream says what is wrong */ }
  }

  control() {
    const { state } = this.job;
    const act = (name) => async (event) => {
      const pressed = event.currentTarget;
      pressed.disabled = true;
      try { const { job } = await post(`/v1/jobs/${this.id}/${name}`); this.update({ state: job.state }); } catch (error) { this.fail(errors.explain(error)); } finally { pressed.disabled = false; }
    };
    const found = [];
    if (["JOB_STATE_QUEUED", "JOB_STATE_RUNNING"].includes(state)) found.push(button("Pause", act("pause")));
    if (state === "JOB_STATE_PAUSED") found.push(button("Resume", act("resume"), { class: "primary" }));
    if (!over(state)) found.push(button("Cancel", act("cancel"), { class: "danger" }));
    found.push(button("Use these settings", () => hooks.use(this.job)));
    this.controls.replaceChildren(...found);
  }

  async finished(job) {
    this.update(job);
    this.tellFacts();
    clearInterval(this.asking);
    if (job.state === "JOB_STATE_FAILED") this.fail(errors.words(job.error?.reason, job.error?.message));
    else if (job.warnings?.length) this.fail(job.warnings.map((item) => item.message).join(" "));
    const remove = button("Delete", () => this.remove(), { class: "danger" });
    if (job.state !== "JOB_STATE_SUCCEEDED") {
      this.controls.append(remove);
      if (!$("stage").querySelector("img")) $("stage").replaceChildren(el("p", { class: "waiting" }, job.state === "JOB_STATE_FAILED" ? "No picture" : "Cancelled before it was finished"));
      return;
    }
    try {
      const blob = await (await request(`/v1/jobs/${this.id}/result`)).blob();
      if (this.gone) return;
      const url = URL.createObjectURL(blob);
      this.urls.push(url);
      const compare = new Compare($("stage"), `${job.widthPx} by ${job.heightPx} pixels`);
      await compare.show(url);
      const ending = { "image/jpeg": "jpg", "image/webp": "webp" }[blob.type] || "png";
      const download = el("a", { class: "file primary", href: url, download: `impasto-${this.id}.${ending}` }, "Download");
      this.controls.replaceChildren(download, compare.both, compare.zoom, button("Use these settings", () => hooks.use(this.job)), remove);
      const photo = (job.inputs || []).find((item) => item.field === "content");
      if (photo) pictures.url(photo.sha256).then((before) => { if (!this.gone) compare.offer(before); }, () => {});
      say("The picture is finished.");
    } catch (error) {
      if (!this.gone) this.fail(errors.explain(error));
    }
  }

  async remove() {
    if (!confirm("Delete this picture from the server?")) return;
    try { await request(`/v1/jobs/${this.id}`, { method: "DELETE" }); } catch (error) { this.fail(errors.explain(error)); return; }
    hooks.changed({ ...this.job, state: "deleted" });
    location.hash = "";
  }

  tellFacts() {
    const { job } = this, p = job.parameters || {};
    const names = (job.inputs || []).filter((item) => item.field === "content" || /\.image$/.test(item.field)).map((item) => item.name || item.sha256.slice(0, 8));
    const lines = [["Pictures", names.join(" + ")], ["Size", `${job.widthPx} × ${job.heightPx} px`], ["Preset", p.preset], ["Filters", job.network?.id], ["Device", job.device], ["Losses", job.losses && ["total", "content", "style", "totalVariation"].map((key) => `${key} ${Number(job.losses[key] || 0).toPrecision(3)}`).join(", ")], ["Painted", job.createTime && new Date(job.createTime).toLocaleString()], ["Owner", job.owner], ["Job", job.jobId]];
    this.facts.replaceChildren(...lines.filter(([, text]) => text).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  }
}
