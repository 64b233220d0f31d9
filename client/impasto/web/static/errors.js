// What an error means for somebody who paints. Every reason of docs/reference/errors.md has its words here; a test checks it.

import { $, el, say, seconds } from "/static/dom.js";

const WORDS = {
  INVALID_FIELD: "Some settings cannot be used.",
  MESSAGE_GARBLED: "The server did not understand the request. Reload the page: it may be of another version.",
  MESSAGE_TOO_LARGE: "The pictures are too large together. Use smaller ones.",
  BODY_TOO_LARGE: "This file is too large for the server.",
  BODY_SILENT: "The upload stopped. Try again.",
  BUSY: "The server is reading many uploads. Try again in a moment.",
  LENGTH_MISSING: "The upload was not complete. Try again.",
  MEDIA_TYPE_UNKNOWN: "The server did not understand the request. Reload the page.",
  HOST_UNKNOWN: "This address is not one of the page's names. Its operator can allow it.",
  ORIGIN_FORBIDDEN: "The request came from another site and was rejected.",
  PATH_UNKNOWN: "The server does not have this. Reload the page: it may be of another version.",
  PREVIEW_NOT_FOUND: "There is no preview yet.",
  TOKEN_MISSING: "This server wants a token.",
  TOKEN_UNKNOWN: "The server does not know this token, or it was revoked.",
  CERTIFICATE_WITHOUT_NAME: "The page's own certificate has no name. Tell the operator.",
  JOB_NOT_FOUND: "This picture is not on the server: it has expired, was deleted, or belongs to somebody else.",
  WORKER_NOT_FOUND: "No worker or machine of this name has joined the server.",
  CLIENT_CLOSED: "The page's gateway is ending. Try again.",
  NOT_ADMIN: "Only administrators may do this.",
  IMAGE_NOT_FOUND: "An uploaded file is no longer on the server. Add it again.",
  JOB_HAS_NO_RESULT: "This job has no finished picture.",
  QUEUE_FULL: "The queue is full.",
  QUOTA_EXCEEDED: "You have as many jobs as the server allows. Wait until one ends, or cancel one.",
  STORAGE_FULL: "The server's disk is full. Delete pictures that you do not need, or try later.",
  STORAGE_FAILED: "The server cannot write to its disk.",
  SERVER_FAULT: "The server has a fault and starts no jobs. Tell its operator.",
  STARTING: "The server is starting.",
  DRAINING: "The server is shutting down.",
  WORKER_LOST: "The worker was lost three times while it painted this. A smaller size may help.",
  WORKER_GONE: "The worker was lost. Try again.",
  OUT_OF_MEMORY: "The device has not enough memory. Use a smaller size.",
  ENGINE_ERROR: "The engine failed while it painted this. Tell the operator.",
  ENCODE_ERROR: "The picture could not be encoded. Try another format or size.",
  DEADLINE_EXCEEDED: "The time limit was reached. Set a longer one, or fewer steps.",
  JOB_CANCELLED: "The job was cancelled.",
  METHOD_UNKNOWN: "The server is older than this page and cannot do this.",
  REQUEST_ID_REUSED: "This was already sent with other settings. Press Paint again.",
  JOB_ABANDONED: "The job was just cancelled. Press Paint again.",
  UPLOAD_RESTARTED: "The upload was interrupted. Try again.",
  DATA_LOST: "The job's pictures on the server's disk are lost. Paint it again.",
  RESULT_LOST: "The finished picture on the server's disk is lost. Paint it again.",
  INTERNAL: "The server failed. Its log has details.",
  UNKNOWN: "The job failed without a known reason.",
  UNAVAILABLE: "The server cannot be reached.",
  UNREADABLE: "A file cannot be read.",
  CONNECTION_LOST: "The connection was lost.",
  TLS_FAILED: "The page cannot reach its server: the certificate does not fit. Tell the operator.",
  SILENT: "The server has been silent for a while.",
  WAIT_TIMEOUT: "The server took too long. Try again.",
  DAMAGED: "The picture arrived damaged. Try again.",
  NO_PROVENANCE: "This picture does not say how it was made.",
};
const SAY_MORE = new Set(["ENGINE_ERROR", "ENCODE_ERROR", "UNKNOWN", "INTERNAL", "STORAGE_FAILED", "MESSAGE_GARBLED", "CONNECTION_LOST"]);

/** Return the words for a reason; the server's own message where there are none. */
export function words(reason, message) {
  const known = WORDS[reason];
  if (!known) return message || "Something went wrong.";
  return SAY_MORE.has(reason) && message ? `${known} (${message})` : known;
}

export function explain(error) {
  const text = words(error.reason, error.message);
  return error.retryAfter && error.http === 429 ? `${text} Try again in ${seconds(error.retryAfter)}.` : text;
}

/** Show an error above the Paint button; fields(violation) returns the label of the field, and marks it. */
export function show(error, label = () => "") {
  const box = $("problem");
  const items = (error.violations || []).map((item) => {
    const name = label(item);
    return el("li", {}, name ? `${name}: ${item.description}` : `${item.field}: ${item.description}`);
  });
  box.replaceChildren(el("p", {}, items.length ? "Please change this:" : explain(error)), items.length ? el("ul", {}, ...items) : "");
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" });
}

export function clear() {
  $("problem").hidden = true;
  $("problem").replaceChildren();
}

/** Add a file that cannot be used, and why, to those that are shown. */
export function refuse(name, why) {
  const box = $("problem"), text = `${name} ${why}.`;
  if (!box.querySelector("ul.refused")) show({ message: "These files are not used:", reason: "" });
  const list = box.querySelector("ul.refused") || box.appendChild(el("ul", { class: "refused" }));
  list.append(el("li", {}, text));
  box.scrollIntoView({ block: "nearest" });
  say(text);
}

/** Show a message where there is no error object. */
export const tell = (text) => { show({ message: text, reason: "" }); say(text); };
