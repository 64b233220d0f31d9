// The gallery: the caller's jobs as the server keeps them, with thumbnails; and grids of variations.

import { $, button, el } from "/static/dom.js";
import { connection, jobs, request } from "/static/api.js";
import { over, word } from "/static/easel.js";

const PAGE = 24, REFRESH_MS = 4000;
let cards = new Map(), most = PAGE, timer = 0, hooks = { open() {}, use() {} }, loading = null, again = false;

export function build(given) {
  hooks = given;
  $("gallery-state").addEventListener("change", () => { most = PAGE; refresh(); });
  $("gallery-more").addEventListener("click", () => { most += PAGE; refresh(); });
  connection.addEventListener("back", () => refresh());
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  schedule();
}

const seen = new IntersectionObserver((entries) => { for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); entry.target.show?.(); } }, { rootMargin: "200px" });

function schedule() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (!document.hidden && [...cards.values()].some((card) => !over(card.job.state))) await refresh();
    schedule();
  }, REFRESH_MS);
}

/** Load what is shown again; what did not change is kept. A load that is under way is followed by another one. */
export function refresh() {
  again = true;
  return (loading ||= loads());
}

async function loads() {
  try {
    while (again) {
      again = false;
      await load();
    }
  } finally { loading = null; }
}

async function load() {
  const state = $("gallery-state").value;
  let answer;
  try { answer = await jobs(state ? { state } : {}, most); } catch { return; } // the page says elsewhere that the server is away
  if (state !== $("gallery-state").value) return; // the load for the new one follows
  const there = new Set(answer.found.map((job) => job.jobId));
  for (const [id, card] of cards) if (!there.has(id)) { card.node.remove(); cards.delete(id); }
  let place = $("gallery-list").firstElementChild;
  for (const job of answer.found) {
    const card = cards.get(job.jobId) || add(job);
    card.update(job);
    if (card.node === place) place = place.nextElementSibling; else $("gallery-list").insertBefore(card.node, place);
  }
  $("gallery-more").hidden = !answer.more;
  $("gallery-empty").hidden = cards.size > 0;
  mark();
}

function add(job) {
  const card = new Card(job, hooks);
  cards.set(job.jobId, card);
  return card;
}

export function mark() {
  const id = new URLSearchParams(location.hash.slice(1)).get("job");
  for (const [key, card] of cards) card.node.classList.toggle("current", key === id);
}

/** A job as a small picture with its name. */
export class Card {
  constructor(job, { open, use }, caption = "") {
    this.job = job;
    this.caption = caption;
    this.etag = "";
    this.image = el("img", { alt: "", hidden: true });
    this.empty = el("span", {}, "");
    this.name = el("b", {});
    this.state = el("span", {});
    const opener = el("button", { type: "button", onclick: () => open(this.job) }, el("span", { class: "thumb" }, this.image, this.empty), el("span", { class: "text" }, this.name, this.state));
    this.node = el("li", { class: "card" }, opener, el("div", { class: "row" }, button("Use settings", () => use(this.job), { class: "link", "aria-label": `Use settings of ${this.title()}` })));
    this.node.show = () => this.thumbnail();
    seen.observe(this.node);
  }

  title() {
    if (this.caption) return this.caption;
    const of = (pattern) => (this.job.inputs || []).filter((item) => pattern.test(item.field)).map((item) => (item.name || item.sha256.slice(0, 6)).replace(/\.\w+$/, ""));
    const [photo] = of(/^content$/), styles = of(/^styles\[\d+\]\.image$/).join(" + ");
    return photo ? `${photo} in ${styles}` : styles || "picture";
  }

  update(job) {
    const moved = job.state !== this.job.state || job.step !== this.job.step;
    this.job = job;
    this.name.textContent = this.title();
    const steps = job.parameters?.steps || 0;
    const when = job.createTime ? new Date(job.createTime).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "";
    this.state.textContent = over(job.state) ? `${word(job.state)}${when ? `, ${when}` : ""}` : `${word(job.state)}, ${job.step || 0} of ${steps}`;
    this.empty.textContent = word(job.state);
    if (moved && this.etag !== "" || (moved && this.image.hidden)) this.thumbnail();
  }

  /** Whether the server has something to show: the picture, or a preview of it. */
  hasPreview() {
    const every = this.job.output?.previewEverySteps || 0;
    return this.job.state === "JOB_STATE_SUCCEEDED" || (every > 0 && (this.job.step || 0) >= every);
  }

  /** Fetch the preview; nothing is sent if it did not change. */
  async thumbnail() {
    if (this.busy || !this.hasPreview()) return;
    this.busy = true;
    try {
      const answer = await request(`/v1/jobs/${this.job.jobId}/preview?size_px=320`);
      this.etag = answer.headers.get("ETag") || "?";
      const blob = await answer.blob();
      const old = this.image.src;
      this.image.src = URL.createObjectURL(blob);
      await this.image.decode();
      this.image.hidden = false;
      this.empty.hidden = true;
      if (old) URL.revokeObjectURL(old);
    } catch {
      this.empty.hidden = false;
    } finally {
      this.busy = false;
    }
  }
}
