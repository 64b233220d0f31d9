// The finished picture: before and after under a slider, to fit or 1:1.

import { button, el } from "/static/dom.js";

export class Compare {
  /** stage: the element to show in. */
  constructor(stage, name) {
    this.stage = stage;
    this.after = el("img", { class: "after", alt: `The painted picture, ${name}` });
    this.before = el("img", { class: "before", alt: "The photo before", hidden: true });
    this.slider = el("input", { type: "range", min: 0, max: 100, step: 0.5, value: 0, "aria-label": "Before and after: how much of the photo is shown", hidden: true });
    this.node = el("div", { class: "compare" }, this.before, this.after, el("div", { class: "handle" }), this.slider);
    this.slider.addEventListener("input", () => this.move());
    this.both = button("Before / after", () => this.toggle(), { "aria-pressed": "false", hidden: true });
    this.zoom = button("1:1", () => this.toggleZoom(), { "aria-pressed": "false", "aria-label": "Show at 1:1, a pixel for each pixel" });
    this.pan();
  }

  show(after) {
    this.after.src = after;
    this.stage.classList.remove("zoomed");
    this.stage.replaceChildren(this.node);
    return this.after.decode().catch(() => {});
  }

  /** Offer the photo to compare with. */
  offer(before) {
    this.before.src = before;
    this.both.hidden = false;
  }

  toggle() {
    const split = this.node.classList.toggle("split");
    this.both.setAttribute("aria-pressed", String(split));
    this.before.hidden = this.slider.hidden = !split;
    if (split) { this.slider.value = 50; this.slider.focus(); }
    this.move();
  }

  move() {
    this.node.style.setProperty("--at", `${this.slider.value}%`);
    this.slider.setAttribute("aria-valuetext", `${Math.round(this.slider.value)} % photo`);
  }

  toggleZoom() {
    const zoomed = this.stage.classList.toggle("zoomed");
    this.zoom.setAttribute("aria-pressed", String(zoomed));
    if (zoomed) { // 1:1 in the pixels of the screen
      this.after.style.width = `${this.after.naturalWidth / devicePixelRatio}px`;
      this.stage.setAttribute("tabindex", "0");
      this.stage.setAttribute("role", "group");
      this.stage.setAttribute("aria-label", "Picture at 1:1; arrow keys scroll");
      this.stage.scrollTo((this.stage.scrollWidth - this.stage.clientWidth) / 2, (this.stage.scrollHeight - this.stage.clientHeight) / 2);
    } else {
      this.after.style.width = "";
      for (const name of ["tabindex", "role", "aria-label"]) this.stage.removeAttribute(name);
    }
  }

  pan() {
    let from = null;
    this.node.addEventListener("pointerdown", (event) => { if (this.stage.classList.contains("zoomed") && this.slider.hidden) { from = [event.clientX + this.stage.scrollLeft, event.clientY + this.stage.scrollTop]; event.preventDefault(); } });
    this.node.addEventListener("pointermove", (event) => { if (from) this.stage.scrollTo(from[0] - event.clientX, from[1] - event.clientY); });
    for (const name of ["pointerup", "pointerleave", "pointercancel"]) this.node.addEventListener(name, () => { from = null; });
    this.after.addEventListener("dblclick", () => this.toggleZoom());
  }
}
