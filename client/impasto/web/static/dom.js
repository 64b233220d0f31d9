// Small helpers. Text is only ever set as text: names of files and labels are never HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: attributes, then children (texts or elements). Properties start with a dot, listeners with "on". */
export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith(".")) made[key.slice(1)] = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const button = (text, onclick, attributes = {}) => el("button", { type: "button", onclick, ...attributes }, text);

/** Say something to screen readers. */
export function say(text) {
  $("said").textContent = "";
  requestAnimationFrame(() => { $("said").textContent = text; });
}

export function seconds(value) {
  if (!Number.isFinite(value)) return "";
  if (value < 1) return "under 1 s";
  if (value < 100) return `${Math.round(value)} s`;
  if (value < 6000) return `${Math.round(value / 60)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

/** Seconds of a google.protobuf.Duration in JSON, such as "1.5s". */
export const duration = (text) => (text ? parseFloat(text) : 0);

export const short = (number) => (Number.isFinite(number) ? String(Number(number.toPrecision(3))) : "–");

export function remember(key, value) {
  try { localStorage.setItem(`impasto.${key}`, JSON.stringify(value)); } catch { /* a full or forbidden storage loses only the draft */ }
}

export function recall(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(`impasto.${key}`)) ?? otherwise; } catch { return otherwise; }
}
