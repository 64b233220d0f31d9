// Ties the parts of the page together. The address says what is shown: #job=ID or #grid=ID.

import { $, recall, remember, say } from "/static/dom.js";
import { patiently, request, send } from "/static/api.js";
import * as compose from "/static/compose.js";
import * as easel from "/static/easel.js";
import * as errors from "/static/errors.js";
import * as gallery from "/static/gallery.js";
import * as pictures from "/static/pictures.js";
import * as server from "/static/server.js";
import * as settings from "/static/settings.js";
import { uuid } from "/static/sha256.js";
import * as variations from "/static/variations.js";

const welcome = $("welcome");

/** Submit a job; return it, or null if the server does not take it. Repeated until the server answers: the id makes that safe. */
async function submit(replaced = {}, requestId = uuid()) {
  errors.clear();
  if (!settings.readable()) { errors.tell("Some settings cannot be read; they are marked."); return null; }
  const attempt = async () => {
    const spec = settings.fill(await patiently(() => compose.spec()), replaced);
    remember("pending", { requestId, spec });
    return deliver(requestId, spec);
  };
  try {
    return await attempt().catch((error) => {
      if (!error.violations?.some((item) => item.field.endsWith("image_id"))) throw error;
      pictures.lost(); // they have expired on the server: this browser still has them
      return attempt();
    });
  } catch (error) {
    errors.show(error, (violation) => settings.violated(violation) || compose.violated(violation));
    say("This cannot be painted.");
    return null;
  }
}

async function deliver(requestId, spec) {
  try {
    const { job } = await patiently(() => send("PUT", `/v1/jobs/${encodeURIComponent(requestId)}`, { spec }));
    return job;
  } finally {
    remember("pending", null);
  }
}

async function paint(event) {
  event.preventDefault();
  if ($("paint").disabled) return;
  const text = $("paint").textContent;
  $("paint").disabled = true;
  $("paint").textContent = "Sending…";
  const job = await submit();
  $("paint").textContent = text;
  $("paint").disabled = false;
  if (job) show(job);
}

function show(job) {
  location.hash = `job=${job.jobId}`;
  gallery.refresh();
  if (matchMedia("(max-width: 60rem)").matches) $("easel").scrollIntoView({ behavior: "smooth" });
}

/** Use the settings and pictures of a job, or of the specification in a picture's metadata. */
async function use(source) {
  const spec = source.inputs ? specOf(source) : source;
  settings.take(spec);
  const missing = await compose.take(spec);
  errors.clear();
  if (missing.length) errors.tell(`The settings are taken over. These pictures are not on the server any more, add them again: ${missing.join(", ")}.`);
  else say("The settings are taken over.");
  $("compose").scrollIntoView({ block: "start", behavior: "smooth" });
  $("compose").focus({ preventScroll: true });
}

/** Return the specification of a job. Shares of styles are not in a job; its picture's metadata has them. */
function specOf(job) {
  const input = (field) => { const found = (job.inputs || []).find((item) => item.field === field); return found && { imageId: found.sha256, name: found.name }; };
  const styles = [];
  for (let index = 0; input(`styles[${index}].image`); index++) {
    const name = `styles[${index}]`;
    styles.push({ image: input(`${name}.image`), mask: input(`${name}.mask`), region: input(`${name}.region`) });
  }
  return { content: input("content"), mask: input("mask"), initImage: input("init_image"), styles, parameters: job.parameters, output: job.output, priority: job.priority };
}

/** Use a job's settings; a finished picture has more of them in its metadata. */
async function useJob(job) {
  let spec = job;
  if (job.state === "JOB_STATE_SUCCEEDED" && !job.output?.omitMetadata) {
    try {
      const blob = await (await request(`/v1/jobs/${job.jobId}/result`)).blob();
      spec = await (await request("/v1/recipe", { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } })).json();
      spec.parameters.preset = job.parameters?.preset;
    } catch { spec = job; }
  }
  await use(spec);
}

function route() {
  const where = new URLSearchParams(location.hash.slice(1));
  variations.close();
  if (where.get("job")) easel.open(where.get("job"));
  else if (where.get("grid")) variations.open(where.get("grid"), { open: show, use: useJob });
  else { easel.leave(welcome); $("easel").classList.add("idle"); }
  gallery.mark();
  gallery.refresh();
}

/** Send what a reload interrupted. */
async function resume() {
  const pending = recall("pending", null);
  if (!pending) return;
  try { show(await deliver(pending.requestId, pending.spec)); } catch (error) { errors.show(error, settings.violated); }
}

settings.build();
compose.build(use);
easel.build({ changed: () => { gallery.refresh(); server.refresh(); }, use: useJob });
gallery.build({ open: show, use: useJob });
variations.build(async (replaced, requestId) => Boolean(await submit(replaced, requestId)));
$("compose").addEventListener("submit", paint);
window.addEventListener("hashchange", route);
route();
server.build({
  described: (info) => { settings.describe(info); compose.limit(info.limits); },
  signed: () => { gallery.refresh(); route(); },
}).then(resume);
gallery.refresh();
