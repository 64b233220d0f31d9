// The pictures of a job: photo, styles, mask, regions. The draft survives a reload.

import { $, button, el, recall, remember, say } from "/static/dom.js";
import { json, request } from "/static/api.js";
import * as errors from "/static/errors.js";
import * as pictures from "/static/pictures.js";
import * as settings from "/static/settings.js";
import { paintMask } from "/static/brush.js";

let draft = { content: null, styles: [], mask: null, initImage: null, ...recall("draft", {}) };
let limits = { maxStyles: 8 };
let onRecipe = () => {};

const save = () => { remember("draft", draft); render(); };

export function build(useRecipe) {
  onRecipe = useRecipe;
  settings.onChange(() => render());
  window.addEventListener("paste", (event) => { if (event.clipboardData?.files.length) { event.preventDefault(); add(event.clipboardData.files); } });
  let depth = 0;
  const dragged = (event) => Array.from(event.dataTransfer?.types || []).includes("Files");
  window.addEventListener("dragenter", (event) => { if (dragged(event)) { depth++; $("dropping").hidden = false; } });
  window.addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) $("dropping").hidden = true; });
  window.addEventListener("dragover", (event) => { if (dragged(event)) event.preventDefault(); });
  window.addEventListener("drop", (event) => {
    depth = 0;
    $("dropping").hidden = true;
    if (!dragged(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files, event.target.closest?.("#styles, [aria-labelledby=styles-title]") ? "style" : "");
  });
  render();
  samples();
}

export const limit = (given) => { limits = { ...limits, ...given }; };

/** Add files: to the photo if there is none, else to the styles; a picture that says how it was made brings its settings. */
async function add(list, where = "") {
  const files = Array.from(list || []); // now: the browser empties the list of a drop
  errors.clear();
  for (const blob of files) {
    const name = blob.name || "pasted picture";
    const wrong = await pictures.wrongWith(blob, limits);
    if (wrong) { errors.refuse(name, wrong); continue; }
    const kept = await pictures.keep(blob, name);
    if (files.length === 1 && !where && (await recipeOf(blob))) return;
    place(kept, where);
  }
}

async function recipeOf(blob) {
  if (!(await pictures.hasRecipe(blob))) return false;
  try {
    const spec = await (await request("/v1/recipe", { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } })).json();
    await onRecipe(spec);
    return true;
  } catch { return false; }
}

function place(kept, where) {
  if (where === "photo" || (!where && !draft.content)) {
    draft.content = kept;
    draft.mask = null;
    for (const style of draft.styles) style.region = null;
  } else if (where === "init") draft.initImage = kept;
  else if (draft.styles.length >= limits.maxStyles) { errors.refuse(kept.name, `is left out; the server takes at most ${limits.maxStyles} ${limits.maxStyles === 1 ? "style" : "styles"}`); return; }
  else draft.styles.push({ ...kept, share: 1, mask: null, region: null });
  say(`${kept.name} added`);
  save();
}

async function samples() {
  let names;
  try { names = await json("/samples"); } catch { return; }
  const made = (name, where) => {
    const shown = name.replace(/^photo-|\.jpg$/g, "");
    return el("button", { type: "button", "aria-label": `Use the sample ${shown}`, title: shown, onclick: async () => {
      const blob = await (await request(`/samples/${name}`)).blob();
      const kept = await pictures.keep(blob, name);
      place(kept, where);
    } }, el("img", { src: `/samples/${name}?small=true`, alt: "", loading: "lazy", width: 53, height: 43 }));
  };
  $("photo-samples").replaceChildren(...names.contents.map((name) => made(name, "photo")));
  $("style-samples").replaceChildren(...names.styles.map((name) => made(name, "style")));
}

function dropZone(text, where, multiple) {
  const input = el("input", { type: "file", accept: "image/png,image/jpeg,image/webp", multiple, "aria-label": text, onchange: () => { add(input.files, where === "photo" ? "photo" : where); input.value = ""; } });
  return el("label", { class: "drop" }, el("strong", {}, text), el("span", {}, " – drop, paste or browse"), input);
}

function shown(item, ...more) {
  const image = el("img", { alt: "", width: 83, height: 69 });
  pictures.url(item.sha).then((url) => { image.src = url; }, () => { card.classList.add("wrong"); note.hidden = false; });
  const note = el("p", { class: "wrong-text", hidden: true }, "This file is not in this browser and not on the server. Add it again.");
  const card = el("div", { class: "pic" }, image, el("div", {}, el("p", { class: "name", title: item.name }, item.name || "unnamed"), note, ...more));
  return card;
}

function render() {
  renderPhoto();
  renderStyles();
  const note = draft.content || draft.styles.length ? (draft.styles.length ? (draft.content ? "" : "Without a photo this paints a texture of the style.") : "Add a style.") : "";
  $("paint-note").textContent = note;
  $("paint").disabled = !draft.styles.length;
}

function renderPhoto() {
  const slot = $("photo");
  const { content, mask } = draft;
  if (!content) { slot.replaceChildren(dropZone("Choose a photo", "photo", false), ...initZone()); return; }
  const tools = el("div", { class: "row" },
    button(mask ? "Change the mask" : "Paint only a part", async () => {
      const made = await paintMask({ sha: content.sha, mask, title: "Part to paint", text: "Brush over what is painted. The rest of the photo is left unchanged." });
      if (made !== undefined) { draft.mask = made; save(); }
    }, { class: "small" }),
    button("Remove", () => { draft.content = null; draft.mask = null; save(); }, { class: "small", "aria-label": "Remove the photo" }));
  slot.replaceChildren(shown(content, mask ? el("p", { class: "hint" }, "Only a part is painted.") : null, tools), ...initZone());
}

function initZone() {
  if (!settings.startsFromPicture()) return [];
  const zone = draft.initImage ? shown(draft.initImage, button("Remove", () => { draft.initImage = null; save(); }, { class: "small" })) : dropZone("Choose a picture to start from", "init", false);
  return [el("p", { class: "hint" }, "The picture that the canvas starts from:"), zone];
}

function renderStyles() {
  const several = draft.styles.length > 1;
  const cards = draft.styles.map((style, index) => {
    const name = `style ${index + 1}`;
    const share = several && el("label", {}, "Share", el("input", { type: "range", min: 0.1, max: 2, step: 0.1, value: style.share, "aria-label": `Share of ${name}`, onchange: (event) => { style.share = Number(event.target.value); save(); } }), el("span", {}, style.share.toFixed(1)));
    const region = draft.content && several && button(style.region ? "Change where it goes" : "Where it goes", () => chooseRegion(index), { class: "small" });
    const part = button(style.mask ? "Change its part" : "Use a part", async () => {
      const made = await paintMask({ sha: style.sha, mask: style.mask, title: "Part of the style", text: "Brush over the part whose style is used." });
      if (made !== undefined) { style.mask = made; save(); }
    }, { class: "small" });
    const remove = button("Remove", () => { draft.styles.splice(index, 1); if (draft.styles.length < 2) for (const one of draft.styles) one.region = null; save(); }, { class: "small", "aria-label": `Remove ${name}` });
    return shown(style, share, el("div", { class: "row" }, region, part, remove));
  });
  $("styles").replaceChildren(...cards, dropZone(draft.styles.length ? "Add another style" : "Choose a style", "style", true));
}

/** Let the user brush where a style goes; of two styles the other one goes everywhere else. */
async function chooseRegion(index) {
  const style = draft.styles[index];
  const other = draft.styles.length === 2 ? draft.styles[1 - index] : null;
  const text = other ? "Brush over where this style goes. The other one goes everywhere else." : "Brush over where this style goes.";
  const made = await paintMask({ sha: draft.content.sha, mask: style.region, title: `Where style ${index + 1} goes`, text, inverse: Boolean(other) });
  if (made === undefined) return;
  style.region = made;
  if (other) other.region = made?.inverse || null;
  save();
}

/** Return the specification's pictures, once all of them are on the server. */
export async function spec() {
  const used = [draft.content, draft.mask, settings.startsFromPicture() ? draft.initImage : null, ...draft.styles.flatMap((style) => [style, style.mask, style.region])].filter(Boolean);
  for (const sha of new Set(used.map((item) => item.sha))) await pictures.upload(sha);
  const image = (item) => ({ imageId: item.sha, name: item.name || "" });
  const made = { styles: draft.styles.map((style) => ({ image: image(style), weight: style.share, ...(style.mask && { mask: image(style.mask) }), ...(style.region && { region: image(style.region) }) })) };
  if (draft.content) made.content = image(draft.content);
  if (draft.mask && draft.content) made.mask = image(draft.mask);
  if (settings.startsFromPicture() && draft.initImage) made.initImage = image(draft.initImage);
  return made;
}

/** Use the pictures of another job; return the names of those that are neither here nor on the server. */
export async function take({ content, styles, mask, initImage }) {
  const kept = (image) => (image?.imageId ? { sha: image.imageId, name: image.name || "" } : null);
  draft = { content: kept(content), mask: kept(mask), initImage: kept(initImage), styles: (styles || []).map((style) => ({ ...kept(style.image), share: style.weight ?? 1, mask: kept(style.mask), region: kept(style.region) })) };
  save();
  const used = [draft.content, draft.mask, ...draft.styles.flatMap((style) => [style, style.mask, style.region])].filter(Boolean);
  const there = await Promise.all(used.map((item) => pictures.url(item.sha).then(() => true, () => false)));
  return used.filter((_, index) => !there[index]).map((item) => item.name || "a picture");
}

/** Return the label of the picture that a violation names. */
export function violated({ field }) {
  const style = field.match(/^styles\[(\d+)\]/);
  if (style) return `Style ${Number(style[1]) + 1}`;
  return { content: "Photo", mask: "Mask", init_image: "Picture to start from", styles: "Styles" }[field.split(".")[0]] || "";
}
