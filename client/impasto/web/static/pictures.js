// Pictures by the hash of their file: kept in this browser, so that a reload loses nothing, and uploaded when they are needed.

import { request } from "/static/api.js";
import { sha256 } from "/static/sha256.js";

const KEPT = 60;
const memory = new Map();
const urls = new Map();
const uploaded = new Set();

const opened = new Promise((done) => {
  try {
    const asked = indexedDB.open("impasto", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "sha" });
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => done(null);
  } catch { done(null); }
});

async function inStore(mode, work) {
  const database = await opened;
  if (!database) return undefined;
  return new Promise((done) => {
    try {
      const transaction = database.transaction("pictures", mode);
      const asked = work(transaction.objectStore("pictures"));
      transaction.oncomplete = () => done(asked?.result);
      transaction.onerror = transaction.onabort = () => done(undefined);
    } catch { done(undefined); }
  });
}

/** Keep a file; return its hash and its name. */
export async function keep(blob, name = "") {
  const bytes = await blob.arrayBuffer();
  const sha = await sha256(bytes);
  const copy = new Blob([bytes], { type: blob.type });
  memory.set(sha, copy);
  await inStore("readwrite", (store) => store.put({ sha, blob: copy, at: Date.now() }));
  prune();
  return { sha, name };
}

async function prune() {
  const all = (await inStore("readonly", (store) => store.getAll())) || [];
  const old = all.sort((a, b) => b.at - a.at).slice(KEPT);
  if (old.length) inStore("readwrite", (store) => { for (const item of old) store.delete(item.sha); });
}

/** Forget all pictures that this browser keeps. */
export const forget = () => { memory.clear(); return inStore("readwrite", (store) => store.clear()); };

/** Return a file by its hash: from this browser, or from the server. Throws an ApiError if neither has it. */
export async function file(sha) {
  if (memory.has(sha)) return memory.get(sha);
  const stored = await inStore("readonly", (store) => store.get(sha));
  const blob = stored?.blob || (await (await request(`/v1/images/${sha}`)).blob());
  memory.set(sha, blob);
  return blob;
}

export async function url(sha) {
  if (!urls.has(sha)) urls.set(sha, URL.createObjectURL(await file(sha)));
  return urls.get(sha);
}

/** Upload a file unless it was uploaded before. */
export async function upload(sha) {
  if (uploaded.has(sha)) return;
  const local = memory.get(sha) || (await inStore("readonly", (store) => store.get(sha)))?.blob;
  if (!local) return; // it came from the server
  await request(`/v1/images/${sha}`, { method: "PUT", body: local, headers: { "Content-Type": "application/octet-stream" } });
  uploaded.add(sha);
}

/** The server no longer has the files: they are uploaded again. */
export const lost = () => uploaded.clear();

/** Return a picture's bitmap; throws a readable error if the browser cannot decode it. */
export async function bitmap(sha) {
  const blob = await file(sha);
  try {
    return await createImageBitmap(blob);
  } catch {
    throw new Error("This file is not a picture that the browser can show.");
  }
}

const FIRST = 32; // bytes that say what a file is, whatever its name says
const OTHERS = [[/^GIF8/, "GIF"], [/^BM.{4}\0{4}/s, "BMP"], [/^(II\*\0|MM\0\*)/, "TIFF"], [/^.{4}ftypavi[fs]/s, "AVIF"], [/^.{4}ftyp(hei[cxm]|hev[cx]|mif1|msf1)/s, "HEIC"], [/^\s*(<\?xml|<svg)/, "SVG"], [/^%PDF/, "PDF"]];

/** Return why a file cannot be used as a picture; empty if it can. Limits are those of GetServerInfo. */
export async function wrongWith(blob, limits) {
  const takes = "only PNG, JPEG and WebP pictures can be used";
  let first;
  try {
    first = String.fromCharCode(...new Uint8Array(await blob.slice(0, FIRST).arrayBuffer()));
  } catch { return "cannot be read; folders cannot be used"; }
  if (!first) return "is empty";
  if (!/^(\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP)/s.test(first)) {
    const kind = OTHERS.find(([pattern]) => pattern.test(first))?.[1];
    return `is ${kind ? `a file of the kind ${kind}` : "not a picture"}; ${takes}`;
  }
  const most = Number(limits.maxMessageBytes) || Infinity;
  if (blob.size > most) return `has ${mib(blob.size)} MiB; the server takes at most ${mib(most)} MiB`;
  try {
    const image = await createImageBitmap(blob), pixels = image.width * image.height, size = `${image.width} × ${image.height}`;
    image.close();
    if (pixels > Number(limits.maxImagePixels || Infinity)) return `has ${size} pixels; the server takes at most ${limits.maxImagePixels >= 1e6 ? `${Math.floor(limits.maxImagePixels / 1e6)} million` : limits.maxImagePixels}`;
  } catch { return "is damaged, or too large for this browser"; }
  return "";
}

const mib = (bytes) => (bytes / 2 ** 20).toFixed(bytes < 1e7 ? 1 : 0);

const MARK = new TextEncoder().encode('"impasto":');

/** Whether a file says how it was made: the mark of our metadata is plain text in it. */
export async function hasRecipe(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  for (let at = bytes.indexOf(MARK[0]); at >= 0; at = bytes.indexOf(MARK[0], at + 1)) if (MARK.every((byte, index) => bytes[at + index] === byte)) return true;
  return false;
}
