// The loss curve: total, content and style by step, on a logarithmic scale.

import { el, short, svg } from "/static/dom.js";

const WIDTH = 600, HEIGHT = 110, MOST = 600, DEPTH = Math.log(60);
const KINDS = ["total", "content", "style"];

export class Curve {
  constructor() {
    this.steps = new Map();
    this.paths = Object.fromEntries(KINDS.map((kind) => [kind, svg("path", { class: kind })]));
    this.picture = svg("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "Loss by step" },
      svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }), this.paths.style, this.paths.content, this.paths.total);
    this.values = Object.fromEntries(KINDS.map((kind) => [kind, el("b", {}, "–")]));
    this.legend = el("p", { class: "legend" }, ...KINDS.map((kind) => el("span", {}, el("i", { class: kind }), `${kind === "total" ? "loss" : kind} `, this.values[kind])));
    this.node = el("div", { class: "stack", hidden: true }, this.picture, this.legend);
    this.due = false;
  }

  /** Add a step's losses. A step that is painted again replaces its earlier value. */
  add(step, losses) {
    for (const later of this.steps.keys()) if (later > step) this.steps.delete(later);
    this.steps.set(step, losses);
    if (!this.due) { this.due = true; requestAnimationFrame(() => { this.due = false; this.draw(); }); }
  }

  draw() {
    const all = [...this.steps.entries()].sort((a, b) => a[0] - b[0]);
    this.node.hidden = all.length < 2;
    const last = all.at(-1)?.[1];
    if (!last) return;
    for (const kind of KINDS) this.values[kind].textContent = short(Number(last[kind] ?? 0));
    const every = Math.ceil(all.length / MOST), kept = all.filter((_, index) => index % every === 0 || index === all.length - 1);
    const good = (value) => Number.isFinite(Number(value)) && Number(value) > 0;
    const logs = kept.flatMap(([, losses]) => KINDS.map((kind) => losses[kind]).filter(good).map((value) => Math.log(value)));
    const high = Math.max(...logs), low = Math.max(Math.min(...logs), high - DEPTH), span = high - low || 1;
    const first = kept[0][0], most = Math.max(1, kept.at(-1)[0] - first);
    for (const kind of KINDS) {
      const points = kept.filter(([, losses]) => good(losses[kind])).map(([step, losses]) => `${((step - first) / most * WIDTH).toFixed(1)} ${(4 + (1 - Math.max(0, (Math.log(losses[kind]) - low) / span)) * (HEIGHT - 10)).toFixed(1)}`);
      this.paths[kind].setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    }
    this.picture.setAttribute("aria-label", `Loss by step: ${short(Number(last.total))} at step ${all.at(-1)[0]}`);
  }
}
