// The documentation of the API, made from /openapi.json: no library, and nothing from elsewhere.

import { $, el } from "/static/dom.js";

/** Show a text; what stands in backticks is code. */
const said = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));

const local = (ref) => ref.split("/").pop();
const link = (name) => el("a", { href: `#${name}` }, name);

function type(schema = {}) {
  if (schema.$ref) return link(local(schema.$ref));
  if (schema.allOf) return type(schema.allOf[0]);
  if (schema.anyOf) return type(schema.anyOf.find((item) => item.type !== "null"));
  if (schema.type === "array") return el("span", {}, "list of ", type(schema.items));
  return el("span", {}, [schema.format || schema.contentEncoding || schema.type || "any", schema.enum ? `: ${schema.enum.join(", ")}` : ""].join(""));
}

const table = (heads, rows) => el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell)))))));

function fields(schema) {
  return table(["field", "type", "meaning"], Object.entries(schema.properties || {}).map(([name, field]) => [el("code", {}, name), type(field), field.description || ""]));
}

function example(content) {
  const found = Object.values(content.examples || {})[0]?.value;
  return found === undefined ? null : el("pre", { tabindex: "0" }, typeof found === "string" ? found : JSON.stringify(found, null, 2));
}

function contents(content = {}) {
  return Object.entries(content).flatMap(([media, item]) => [el("p", {}, el("code", {}, media), " ", type(item.schema)), example(item)]);
}

function curl(method, path, operation) {
  const line = ["curl"];
  if (method !== "get") line.push("-X", method.toUpperCase());
  const body = operation.requestBody?.content || {};
  if (body["multipart/form-data"]) line.push("-F content=@photo.jpg -F style=@painting.jpg");
  else if (operation.requestBody) line.push("--data-binary @photo.jpg");
  line.push(`${location.origin}${path}`);
  if (Object.keys(operation.responses["200"]?.content || {}).some((media) => media.startsWith("image/"))) line.push("-o out.png");
  return el("pre", { tabindex: "0" }, line.join(" "));
}

function operationNode(method, path, operation) {
  const answers = Object.entries(operation.responses);
  const good = answers.filter(([code]) => code < 400), bad = answers.filter(([code]) => code >= 400);
  return el("article", { class: "panel", id: operation.operationId },
    el("h3", {}, el("span", { class: "method" }, method.toUpperCase()), el("code", {}, path)),
    el("p", { class: "said" }, ...said(operation.description)), curl(method, path, operation),
    operation.parameters?.length ? table(["parameter", "in", "type", "meaning"], operation.parameters.map((item) => [el("code", {}, item.name), item.in, type(item.schema), item.description || ""])) : null,
    operation.requestBody ? el("details", {}, el("summary", {}, "Body"), ...contents(operation.requestBody.content)) : null,
    ...good.map(([code, answer]) => el("div", {}, el("p", {}, el("b", {}, code), ` ${answer.description}`), ...contents(answer.content))),
    el("details", {}, el("summary", {}, "Errors"), table(["code", "when"], bad.map(([code, answer]) => [code, answer.description]))));
}

async function show() {
  const described = await (await fetch("/openapi.json")).json();
  const tags = new Map();
  for (const [path, methods] of Object.entries(described.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.at(-1) || "other";
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push(operationNode(method, path, operation));
    }
  }
  const paragraphs = described.info.description.split("\n\n").map((text) => (text.startsWith("    ") ? el("pre", { tabindex: "0" }, text.trim()) : el("p", {}, ...said(text))));
  const schemas = Object.entries(described.components.schemas).map(([name, schema]) => el("article", { class: "panel", id: name }, el("h3", {}, name), el("p", { class: "said" }, ...said(schema.description || "")), schema.properties ? fields(schema) : null));
  $("docs").replaceChildren(...paragraphs, ...[...tags].flatMap(([tag, nodes]) => [el("h2", {}, tag), ...nodes]), el("h2", {}, "Messages"), ...schemas);
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show().catch(() => { $("docs").replaceChildren(el("p", {}, "The description cannot be loaded.")); });
