// The parameters of a job: their labels, limits and kinds. Defaults come from the server's presets.

const word = (prefix, ...names) => names.map((name) => [`${prefix}_${name.toUpperCase()}`, name.replaceAll("_", " ")]);

/** key: name in the JSON mapping; field: the contract's name, which errors use; log: a logarithmic slider. */
export const MAIN = [
  { key: "sizePx", field: "size_px", label: "Size", kind: "int", min: 64, max: 1024, step: 32, hint: "Longer side, in pixels. Twice the size takes four times as long." },
  { key: "steps", field: "steps", label: "Steps", kind: "int", min: 5, max: 500, step: 5, hint: "More steps, more paint." },
  { key: "contentWeight", field: "content_weight", label: "Content weight", kind: "number", min: 0.001, max: 1, log: true, hint: "How much of the photo stays." },
  { key: "styleScale", field: "style_scale", label: "Stroke size", kind: "number", min: 0.25, max: 2, step: 0.05, hint: "Size of the style's strokes, relative to the picture." },
  { key: "totalVariationWeight", field: "total_variation_weight", label: "Smoothness", kind: "number", min: 0.001, max: 10, log: true, hint: "Weight of the total variation: less grain." },
  { key: "color", field: "color", label: "Colours", kind: "choice", choices: [["COLOR_STYLE", "of the style"], ["COLOR_LUMINANCE", "of the photo"], ["COLOR_MATCHED", "matched"]] },
];
export const MORE = [
  { key: "styleLoss", field: "style_loss", label: "Style loss", kind: "choice", choices: word("STYLE_LOSS", "gram", "covariance", "moments", "sliced", "histogram"), hint: "Feature statistics that define the style." },
  { key: "styleWeight", field: "style_weight", label: "Style weight", kind: "number" },
  { key: "network", field: "network", label: "Network", kind: "network", hint: "Such as vgg19:imagenet-v1, or alexnet:random-7 for random filters; empty for the server's." },
  { key: "init", field: "init", label: "Start from", kind: "choice", choices: [["INIT_CONTENT", "the photo"], ["INIT_NOISE", "noise"], ["INIT_STYLE", "the style"], ["INIT_IMAGE", "another picture"]] },
  { key: "seed", field: "seed", label: "Seed", kind: "int", hint: "Of the noise." },
  { key: "optimizer", field: "optimizer", label: "Optimizer", kind: "choice", choices: [["OPTIMIZER_LBFGS", "L-BFGS"], ["OPTIMIZER_ADAM", "Adam"]] },
  { key: "learningRate", field: "learning_rate", label: "Learning rate", kind: "number" },
  { key: "history", field: "history", label: "History", kind: "int", hint: "Correction pairs of L-BFGS." },
  { key: "levels", field: "levels", label: "Levels", kind: "int", hint: "Sizes to paint at; 0 lets the server choose." },
  { key: "tolerance", field: "tolerance", label: "Tolerance", kind: "number", hint: "Ends early when ten steps lower the loss by less; 0 for never." },
  { key: "normalization", field: "normalization", label: "Normalization", kind: "choice", choices: word("NORMALIZATION", "target", "gatys", "mean") },
  { key: "pooling", field: "pooling", label: "Pooling", kind: "choice", choices: word("POOLING", "average", "max") },
  { key: "precision", field: "precision", label: "Precision", kind: "choice", choices: word("PRECISION", "auto", "float32", "bfloat16", "tf32") },
  { key: "widthPx", field: "width_px", label: "Exact width", kind: "int", hint: "Crops the photo. 0 for none." },
  { key: "heightPx", field: "height_px", label: "Exact height", kind: "int" },
  { key: "contentLayers", field: "content_layers", label: "Content layers", kind: "layers" },
  { key: "styleLayers", field: "style_layers", label: "Style layers", kind: "layers", hint: "LAYER=WEIGHT, separated by commas." },
  { key: "schedule", field: "schedule", label: "Schedule", kind: "schedule", hint: "SIZE:STEPS, separated by commas; replaces size, steps and levels." },
];
export const OUTPUT = [
  { key: "format", field: "format", label: "File format", kind: "choice", group: "output", initial: "IMAGE_FORMAT_PNG", choices: word("IMAGE_FORMAT", "png", "jpeg", "webp") },
  { key: "quality", field: "quality", label: "Quality", kind: "int", group: "output", initial: 95, hint: "Of JPEG and WebP, 1 to 100." },
  { key: "previewEverySteps", field: "preview_every_steps", label: "Preview every", kind: "int", group: "output", initial: 0, hint: "Steps between previews; 0 for about thirty previews." },
  { key: "omitMetadata", field: "omit_metadata", label: "Leave the settings out of the file", kind: "flag", group: "output", initial: false },
  { key: "priority", field: "priority", label: "Priority", kind: "int", group: "spec", initial: 0, hint: "From -10 to 10." },
  { key: "timeLimit", field: "time_limit", label: "Time limit", kind: "seconds", group: "spec", initial: "", hint: "In seconds; empty for none." },
  { key: "onDeadline", field: "on_deadline", label: "At the time limit", kind: "choice", group: "spec", initial: "ON_DEADLINE_FAIL", choices: [["ON_DEADLINE_FAIL", "fail"], ["ON_DEADLINE_RETURN_BEST", "keep the best picture"]] },
];
export const ALL = [...MAIN, ...MORE, ...OUTPUT];
export const byKey = Object.fromEntries(ALL.map((item) => [item.key, item]));

const trimmed = (number) => String(Number(number.toPrecision(6)));

/** Return a value as the text in a field. */
export function toText(item, value) {
  if (value === undefined || value === null) return "";
  if (item.kind === "layers") return (value.layers || []).map((one) => `${one.layer}=${trimmed(one.weight || 0)}`).join(", ");
  if (item.kind === "schedule") return value.map((one) => `${one.sizePx}:${one.steps}`).join(", ");
  if (item.kind === "seconds") return String(value).replace(/s$/, "");
  if (item.kind === "number") return trimmed(Number(value));
  return String(value);
}

/** Return the value of a text for the JSON mapping; undefined if it is empty. Throws an Error that says what is wrong. */
export function fromText(item, text) {
  const given = String(text).trim();
  if (item.kind === "flag") return given === "true";
  if (given === "") return item.kind === "schedule" ? [] : undefined;
  if (item.kind === "choice" || item.kind === "network") return given;
  if (item.kind === "layers") {
    return { layers: given.split(",").map((part) => part.trim()).filter(Boolean).map((part) => {
      const [layer, weight = "1"] = part.split("=").map((one) => one.trim());
      return { layer, weight: numeric(weight, part) };
    }) };
  }
  if (item.kind === "schedule") {
    return given.split(",").map((part) => {
      const [size, steps] = part.split(":");
      return { sizePx: whole(size, part), steps: whole(steps, part) };
    });
  }
  if (item.kind === "seconds") return `${numeric(given, given)}s`;
  if (item.key === "seed") { whole(given, given); return given; }
  return item.kind === "int" ? whole(given, given) : numeric(given, given);
}

function numeric(text, shown) {
  const value = Number(text);
  if (String(text ?? "").trim() === "" || !Number.isFinite(value)) throw new Error(`“${shown}” is not a number`);
  return value;
}

function whole(text, shown) {
  if (!/^-?\d+$/.test(String(text ?? "").trim())) throw new Error(`“${shown}” is not a whole number`);
  return Number(text);
}

/** Sliders: their own scale is 0 to 1000 where the parameter's is logarithmic. */
export const toSlider = (item, value) => (item.log ? (1000 * Math.log(Math.max(item.min, value) / item.min)) / Math.log(item.max / item.min) : value);
export const fromSlider = (item, value) => (item.log ? Number((item.min * (item.max / item.min) ** (value / 1000)).toPrecision(2)) : Number(value));
