// The mask brush: white is painted, black is not. With a mouse, a finger, a pen, or the keyboard.

import { $, button, el, say } from "/static/dom.js";
import * as pictures from "/static/pictures.js";

const LONGEST = 1024, UNDOS = 40, TINT = "rgba(214, 92, 40, 0.62)";

/**
 * Ask for a mask over a picture. Return it as a kept picture, null for none (everything), undefined if nothing was changed.
 * With inverse it has the opposite mask as `inverse`.
 */
export async function paintMask({ sha, mask, title, text, inverse = false }) {
  const image = await pictures.bitmap(sha).catch((error) => { say(error.message); return null; });
  if (!image) return undefined;
  const scale = Math.min(1, LONGEST / Math.max(image.width, image.height));
  const width = Math.max(1, Math.round(image.width * scale)), height = Math.max(1, Math.round(image.height * scale));
  const layer = new OffscreenCanvas(width, height), ink = layer.getContext("2d");
  if (mask) await load(mask, ink, width, height);
  return ask({ image, width, height, layer, ink, title, text, inverse, had: Boolean(mask) });
}

/** Draw an earlier mask as ink: opaque where it is white. */
async function load(mask, ink, width, height) {
  const old = await pictures.bitmap(mask.sha).catch(() => null);
  if (!old) return;
  ink.drawImage(old, 0, 0, width, height);
  const data = ink.getImageData(0, 0, width, height);
  for (let at = 0; at < data.data.length; at += 4) data.data[at + 3] = data.data[at];
  ink.putImageData(data, 0, 0);
}

function ask({ image, width, height, layer, ink, title, text, inverse, had }) {
  const dialog = $("brush"), canvas = el("canvas", { width, height, tabindex: "0", role: "application", "aria-label": `${title}. Arrow keys move the brush, the space bar paints, Z undoes.` });
  const screen = canvas.getContext("2d"), tinted = new OffscreenCanvas(width, height), tint = tinted.getContext("2d");
  const undo = [], redo = [];
  let erase = false, at = [width / 2, height / 2], last = null, drawing = false;
  const size = el("input", { type: "range", min: 4, max: Math.round(Math.max(width, height) / 3), value: Math.round(Math.max(width, height) / 10), id: "brush-size" });

  const draw = () => {
    screen.globalCompositeOperation = "source-over";
    screen.drawImage(image, 0, 0, width, height);
    tint.globalCompositeOperation = "copy";
    tint.drawImage(layer, 0, 0);
    tint.globalCompositeOperation = "source-in";
    tint.fillStyle = TINT;
    tint.fillRect(0, 0, width, height);
    screen.drawImage(tinted, 0, 0);
    screen.beginPath();
    screen.arc(at[0], at[1], size.value / 2, 0, 7);
    screen.lineWidth = Math.max(1.5, width / 400);
    screen.strokeStyle = "#fff";
    screen.stroke();
    screen.setLineDash([5, 5]);
    screen.strokeStyle = "#000";
    screen.stroke();
    screen.setLineDash([]);
  };
  const snapshot = () => ink.getImageData(0, 0, width, height);
  const remember = () => { undo.push(snapshot()); if (undo.length > UNDOS) undo.shift(); redo.length = 0; };
  const line = (from, to) => {
    ink.globalCompositeOperation = erase ? "destination-out" : "source-over";
    ink.strokeStyle = "#fff";
    ink.lineCap = ink.lineJoin = "round";
    ink.lineWidth = Number(size.value);
    ink.beginPath();
    ink.moveTo(...from);
    ink.lineTo(to[0] + 0.01, to[1]);
    ink.stroke();
    ink.globalCompositeOperation = "source-over";
  };
  const step = (from, to, word) => { if (!from.length) return; to.push(snapshot()); ink.putImageData(from.pop(), 0, 0); say(word); update(); };
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height]; };

  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); remember(); drawing = true; last = at = place(event); line(last, last); draw(); });
  canvas.addEventListener("pointermove", (event) => { at = place(event); if (drawing) { line(last, at); last = at; } draw(); });
  const stop = () => { drawing = false; update(); };
  canvas.addEventListener("pointerup", stop);
  canvas.addEventListener("pointercancel", stop);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (move) {
      const by = Math.max(2, size.value / 4), from = at;
      at = [Math.min(width, Math.max(0, at[0] + move[0] * by)), Math.min(height, Math.max(0, at[1] + move[1] * by))];
      if (event.shiftKey) { remember(); line(from, at); }
    } else if (event.key === " ") { remember(); line(at, at); say(erase ? "erased" : "painted"); }
    else if (event.key.toLowerCase() === "z") { event.shiftKey ? step(redo, undo, "redone") : step(undo, redo, "undone"); }
    else return;
    event.preventDefault();
    update();
  });

  const paint = button("Brush", () => { erase = false; update(); }), rub = button("Eraser", () => { erase = true; update(); });
  const back = button("Undo", () => step(undo, redo, "undone")), forth = button("Redo", () => step(redo, undo, "redone"));
  const whole = (fill) => { remember(); ink.clearRect(0, 0, width, height); if (fill) { ink.fillStyle = "#fff"; ink.fillRect(0, 0, width, height); } update(); };
  const turned = () => { remember(); ink.globalCompositeOperation = "xor"; ink.fillStyle = "#fff"; ink.fillRect(0, 0, width, height); ink.globalCompositeOperation = "source-over"; update(); };
  const update = () => {
    paint.setAttribute("aria-pressed", String(!erase));
    rub.setAttribute("aria-pressed", String(erase));
    back.disabled = !undo.length;
    forth.disabled = !redo.length;
    draw();
  };
  size.addEventListener("input", draw);

  return new Promise((done) => {
    let answer;
    const use = button("Use it", async () => { answer = await finished(layer, width, height, inverse); dialog.close(); }, { class: "primary" });
    const none = button(had ? "Remove it" : "No mask", () => { answer = null; dialog.close(); });
    dialog.replaceChildren(
      el("h2", { id: "brush-title" }, title), el("p", { class: "hint" }, text),
      el("div", { class: "tools" }, paint, rub, el("label", { for: "brush-size" }, "Size", size), back, forth, button("All", () => whole(true)), button("Nothing", () => whole(false)), button("Invert", turned)),
      el("div", { class: "canvas" }, canvas),
      el("div", { class: "row tools" }, button("Cancel", () => dialog.close()), none, use));
    dialog.addEventListener("close", () => { done(answer); dialog.replaceChildren(); }, { once: true });
    update();
    dialog.showModal();
    canvas.focus();
  });
}

/** Return the mask as a kept black and white picture; null if it selects everything or nothing. */
async function finished(layer, width, height, inverse) {
  const source = layer.getContext("2d").getImageData(0, 0, width, height);
  let chosen = 0;
  for (let at = 3; at < source.data.length; at += 4) chosen += source.data[at] > 127;
  if (!chosen || chosen === width * height) return null;
  const made = await picture(source, width, height, false);
  if (inverse) made.inverse = await picture(source, width, height, true);
  return made;
}

async function picture(source, width, height, turned) {
  const out = new ImageData(width, height);
  for (let at = 0; at < out.data.length; at += 4) {
    const grey = turned ? 255 - source.data[at + 3] : source.data[at + 3];
    out.data.set([grey, grey, grey, 255], at);
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(out, 0, 0);
  return pictures.keep(await canvas.convertToBlob({ type: "image/png" }), turned ? "inverse mask.png" : "mask.png");
}
