// The form of the settings. A value that is not changed is not sent: it comes from the preset.

import { $, el, recall, remember } from "/static/dom.js";
import { ALL, MAIN, MORE, OUTPUT, fromSlider, fromText, toSlider, toText } from "/static/parameters.js";

const given = new Map(Object.entries(recall("given", {}) || {}));
const fields = new Map();
const taken = new Set(); // settings of another picture that nobody has changed since
const HOW_FAR = ["steps", "tolerance"]; // what draft, good and best are about
const listeners = [];
let presets = {}, networks = [], preset = recall("preset", "default");
const choice = el("select", { id: "set-preset" });

export const onChange = (listener) => listeners.push(listener);

/** Return a parameter's value: what was chosen, else the preset's. */
export function value(item) {
  if (given.has(item.key)) return given.get(item.key);
  return item.group ? item.initial : presets[preset]?.[item.key];
}

export function build() {
  const presetRow = el("div", { class: "setting chosen" }, el("label", { for: "set-preset" }, "Preset"), choice);
  choice.addEventListener("change", () => {
    preset = choice.value;
    for (const key of HOW_FAR) if (taken.delete(key)) given.delete(key);
    changed();
  });
  $("settings").replaceChildren(presetRow, ...MAIN.map(row));
  $("settings-more").replaceChildren(...MORE.map(row), ...OUTPUT.map(row), el("datalist", { id: "networks" }));
  $("settings-reset").addEventListener("click", () => { clearMarks(); given.clear(); preset = presets.default ? "default" : preset; changed(); $("set-preset").focus(); });
  refresh();
}

/** Use the server's presets, networks and limits. */
export function describe(info) {
  presets = Object.fromEntries((info.presets || []).map((item) => [item.name, item.parameters || {}]));
  networks = info.networks || [];
  if (!presets[preset] && Object.keys(presets).length) preset = "default";
  choice.replaceChildren(...Object.keys(presets).map((name) => el("option", { value: name }, name)));
  const most = { sizePx: info.limits?.maxSizePx, steps: undefined };
  for (const item of MAIN) {
    const slider = fields.get(item.key)?.slider;
    if (slider && most[item.key]) slider.max = Math.min(2048, most[item.key]);
  }
  fields.get("network").input.placeholder = networks[0]?.id || "";
  $("networks").replaceChildren(...networks.map((item) => el("option", { value: (item.id || "").replace("SEED", "1") })));
  refresh();
}

function row(item) {
  const id = `set-${item.field}`;
  const label = el("label", { for: id }, item.label);
  let input, slider = null;
  if (item.kind === "choice") {
    input = el("select", { id }, ...(item.choices || []).map(([key, text]) => el("option", { value: key }, text)));
  } else if (item.kind === "flag") {
    input = el("input", { id, type: "checkbox" });
  } else {
    const numeric = ["int", "number", "seconds"].includes(item.kind);
    input = el("input", { id, type: "text", inputmode: numeric ? "decimal" : "text", autocomplete: "off", spellcheck: "false", class: numeric ? "" : "wide" });
    if (item.kind === "network") input.setAttribute("list", "networks");
  }
  if (item.max) {
    slider = el("input", { type: "range", min: item.log ? 0 : item.min, max: item.log ? 1000 : item.max, step: item.log ? 1 : item.step, "aria-label": `${item.label}, slider` });
    slider.addEventListener("input", () => { set(item, fromSlider(item, Number(slider.value))); });
  }
  const hint = item.hint ? el("p", { class: "hint", id: `${id}-hint` }, item.hint) : null;
  const wrong = el("p", { class: "wrong", id: `${id}-wrong`, hidden: true });
  input.setAttribute("aria-describedby", [hint ? `${id}-hint` : "", `${id}-wrong`].filter(Boolean).join(" "));
  const whole = el("div", { class: `setting${input.classList.contains("wide") ? " stacked" : ""}${input.tagName === "SELECT" ? " chosen" : ""}` }, label, input, slider, hint, wrong);
  fields.set(item.key, { item, input, slider, wrong, whole });
  input.addEventListener("change", () => read(item));
  return whole;
}

/** Return what a field has, in an array; null, and a mark, if it cannot be read. */
function parsed({ item, input }) {
  try {
    const found = [fromText(item, item.kind === "flag" ? String(input.checked) : input.value)];
    mark(item.key, "");
    return found;
  } catch (error) {
    mark(item.key, error.message);
    return null;
  }
}

function read(item) {
  const found = parsed(fields.get(item.key));
  if (found) set(item, ...found);
}

function set(item, next) {
  const usual = item.group ? item.initial : presets[preset]?.[item.key];
  const same = next === undefined || (next === "" && !usual) || JSON.stringify(next) === JSON.stringify(usual) || (item.kind === "seconds" && next === "") || (item.kind === "schedule" && !next.length);
  if (same) given.delete(item.key); else given.set(item.key, next);
  taken.delete(item.key);
  mark(item.key, "");
  changed();
}

function changed() {
  remember("given", Object.fromEntries(given));
  remember("preset", preset);
  refresh();
  for (const listener of listeners) listener();
}

function refresh() {
  choice.value = preset;
  for (const { item, input, slider, whole } of fields.values()) {
    const now = value(item);
    const unread = input.getAttribute("aria-invalid") === "true"; // what was typed there stays
    if (item.kind === "flag") input.checked = Boolean(now);
    else if (item.kind === "network") { if (document.activeElement !== input && !unread) input.value = given.get("network") || ""; }
    else if (document.activeElement !== input && !unread) input.value = toText(item, now);
    if (slider && now !== undefined) slider.value = toSlider(item, Number(now));
    if (slider) slider.setAttribute("aria-valuetext", toText(item, now));
    whole.classList.toggle("changed", given.has(item.key));
  }
  $("settings-reset").hidden = given.size === 0;
}

/** Mark a field as wrong, or as right with an empty text. */
function mark(key, text) {
  const field = fields.get(key);
  field.wrong.textContent = text;
  field.wrong.hidden = !text;
  if (text) field.input.setAttribute("aria-invalid", "true"); else field.input.removeAttribute("aria-invalid");
  if (text && field.whole.closest("details")) field.whole.closest("details").open = true;
}

const clearMarks = () => { for (const key of fields.keys()) mark(key, ""); };

/** Mark the field that a violation names; return its label. */
export function violated({ field, description }) {
  const name = field.replace(/^(parameters|output)\./, "").replace(/[.[].*$/, "");
  const item = ALL.find((one) => one.field === name);
  if (!item) return "";
  mark(item.key, description);
  return item.label;
}

/** Read every field, and mark those that cannot be read; return whether there are none. The server's marks are dropped. */
export function readable() {
  const all = [...fields.values()], found = all.map(parsed); // all of them first: a setting that changes draws the others anew
  for (const [index, { item }] of all.entries()) if (found[index]) set(item, ...found[index]);
  const bad = all.find((_, index) => !found[index]);
  bad?.input.focus();
  return !bad;
}

/** Write the settings into a specification, with some replaced. */
export function fill(spec, replaced = {}) {
  const all = { ...Object.fromEntries(given), ...replaced };
  spec.parameters = { preset };
  spec.output = { ...spec.output, previewSizePx: 512 };
  for (const [key, chosen] of Object.entries(all)) {
    const group = ALL.find((item) => item.key === key)?.group;
    const target = group === "output" ? spec.output : group === "spec" ? spec : spec.parameters;
    target[key] = chosen;
  }
  const steps = spec.parameters.schedule?.length ? spec.parameters.schedule.reduce((sum, item) => sum + item.steps, 0) : Number(all.steps ?? presets[preset]?.steps ?? 100);
  if (!spec.output.previewEverySteps) spec.output.previewEverySteps = Math.max(1, Math.round(steps / 30));
  if (spec.parameters.schedule?.length) for (const key of ["sizePx", "steps", "levels"]) delete spec.parameters[key];
  return spec;
}

/** Use the settings of another job: its parameters as they are filled in. */
export function take({ parameters = {}, output = {}, priority }) {
  clearMarks();
  given.clear();
  preset = presets[parameters.preset] ? parameters.preset : "default";
  const usual = presets[preset] || {};
  for (const item of [...MAIN, ...MORE]) {
    const theirs = parameters[item.key];
    if (theirs === undefined || JSON.stringify(theirs) === JSON.stringify(usual[item.key])) continue;
    if (item.kind === "network" && theirs === networks[0]?.id) continue;
    if (item.key === "precision" && !usual.precision) continue;
    given.set(item.key, theirs);
  }
  if (given.get("schedule")?.length) for (const key of ["sizePx", "steps", "levels"]) given.delete(key);
  taken.clear();
  for (const key of given.keys()) taken.add(key);
  for (const item of OUTPUT) if (item.group === "output" && item.key !== "previewEverySteps" && output[item.key] !== undefined && output[item.key] !== item.initial) given.set(item.key, output[item.key]);
  if (priority) given.set("priority", priority);
  changed();
}

export const startsFromPicture = () => given.get("init") === "INIT_IMAGE";
export const count = () => given.size;
