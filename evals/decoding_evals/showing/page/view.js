"use strict";
// The page: its texts, two settings, and what they make of each token. Whatever comes from a model,
// a prompt or a file is set as text.

/**
 * @typedef {{title: string, about: string, before: string, tokens: string[], setting: string | null,
 *   rows: string}} PageText
 * @typedef {{format: Format, texts: PageText[], names: Record<string, string>}} PageData
 * @typedef {{setting: Setting, box: HTMLElement, input: HTMLInputElement, wrong: HTMLElement,
 *   knobs: Record<string, HTMLInputElement>, columns: Record<string, Float64Array>}} Side
 */

/** @type {PageData} */
const data = JSON.parse(/** @type {HTMLElement} */ (document.getElementById("data")).textContent || "");
const SLICE_MS = 12; // of work between two frames
const COLUMNS = ["entropy", "keptMass", "surprisal", "bound", "kept", "logMass", "meanDepth", "end"];
const TOP_K = [0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000];
const KNOBS = {
  temperature: { label: "temperature", min: 0, max: 2, step: 0.01 },
  top_k: { label: "top-k", min: 0, max: TOP_K.length - 1, step: 1 },
  top_p: { label: "top-p", min: 0.01, max: 1, step: 0.01 },
  min_p: { label: "min-p", min: 0, max: 0.5, step: 0.005 },
};
/** Where each shade begins, and what a token's value is called. @type {Record<string, {unit: string, from: number[], shades: string[]}>} */
const SHADES = {
  entropy: { unit: "nats", from: [0, 0.25, 0.75, 1.5, 2.5, 3.5, 5, 7], shades: ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"] },
  surprisal: { unit: "nats", from: [0, 0.25, 0.75, 1.5, 2.5, 4, 6, 9], shades: ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"] },
  residual: { unit: "standard deviations", from: [-Infinity, -1, -0.5, 0.5, 1, 2, 3, 5], shades: ["n2", "n1", "s0", "s2", "s3", "s4", "s5", "s6"] },
  kl: { unit: "nats", from: [0, 0.01, 0.05, 0.15, 0.4, 1, 2, 4], shades: ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"] },
};

/** @param {string} id */
function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * A new element with a text or parts.
 * @param {string} tag @param {string} name its class @param {...(string | Node)} parts
 */
function element(tag, name = "", ...parts) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...parts);
  return made;
}

/** A number for people. @param {number} value @param {number} digits */
function shown(value, digits = 3) {
  if (Number.isNaN(value)) return "-";
  if (!Number.isFinite(value)) return "∞";
  if (value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits) return value.toExponential(1);
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A probability for people. @param {number} value */
function percent(value) {
  return value > 0 && value < 0.0005 ? "<0.05%" : `${(100 * value).toFixed(1)}%`;
}

/** A text in which spaces at its ends and what cannot be seen are spelled out. @param {string} text */
function spelled(text) {
  if (text === "") return "(no text of its own)";
  return text.replace(/\n/g, "\\n").replace(/\t/g, "\\t").replace(/\r/g, "\\r").replace(/^ | $/g, "␣")
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (one) => `\\u{${/** @type {number} */ (one.codePointAt(0)).toString(16)}}`);
}

/** @param {string} base64 */
function decoded(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

const texts = data.texts.map((text) => new Rows(decoded(text.rows), data.format));
let which = 0;
let rows = texts[0];
/** @type {HTMLElement[]} */
let tokens = [];
let active = -1;
let pinned = false;
let version = 0;
/** @type {Side[]} */
const sides = [];

/** @param {string} name @param {"a" | "b"} of @param {string} text its setting at first @returns {Side} */
function makeSide(name, of, text) {
  const box = element("fieldset", of, element("legend", "", `Setting ${name}`));
  const input = /** @type {HTMLInputElement} */ (element("input"));
  const wrong = element("p", "wrong");
  wrong.setAttribute("role", "alert");
  /** @type {Side} */
  const side = { setting: parseSetting(text), box, input, wrong, knobs: {}, columns: {} };
  for (const [field, { label, min, max, step }] of Object.entries(KNOBS)) {
    const knob = /** @type {HTMLInputElement} */ (element("input"));
    Object.assign(knob, { type: "range", min: String(min), max: String(max), step: String(step), id: `${of}-${field}` });
    const caption = /** @type {HTMLLabelElement} */ (element("label", "", label));
    caption.htmlFor = knob.id;
    const out = element("output");
    out.setAttribute("aria-hidden", "true"); // the slider says it
    knob.addEventListener("input", () => {
      const value = field === "top_k" ? TOP_K[Number(knob.value)] : Number(knob.value);
      change(side, { ...side.setting, [field]: value });
    });
    side.knobs[field] = knob;
    box.append(element("div", "knob", caption, knob, out));
  }
  Object.assign(input, { type: "text", spellcheck: false, autocomplete: "off", id: `${of}-text` });
  input.setAttribute("aria-label", `Setting ${name} as text`);
  input.addEventListener("input", () => {
    try {
      change(side, parseSetting(input.value), false);
      wrong.textContent = "";
    } catch (error) {
      wrong.textContent = error instanceof Error ? error.message : String(error);
    }
  });
  const copy = /** @type {HTMLButtonElement} */ (element("button", "", "Copy"));
  copy.type = "button";
  copy.setAttribute("aria-label", `Copy setting ${name}`);
  copy.addEventListener("click", async () => {
    input.select();
    try {
      await navigator.clipboard.writeText(input.value);
      byId("live").textContent = `Copied ${input.value}`;
    } catch {
      byId("live").textContent = `Selected ${input.value}: copy it from there`;
    }
  });
  box.append(element("div", "form", input, copy), wrong);
  byId("settings").append(box);
  showSetting(side);
  return side;
}

/** Put sliders and text where the setting is. @param {Side} side */
function showSetting(side, withText = true) {
  for (const [field, knob] of Object.entries(side.knobs)) {
    const value = side.setting[/** @type {keyof Setting} */ (field)];
    knob.value = String(field === "top_k" ? lastAtMost(TOP_K, value, 0, TOP_K.length - 1) : value);
    const neutral = (field === "top_k" && value === 0) || (field === "min_p" && value === 0) || (field === "top_p" && value === 1);
    const words = neutral ? "off" : field === "temperature" && value === 0 ? "greedy" : String(value);
    knob.setAttribute("aria-valuetext", words);
    /** @type {HTMLElement} */ (knob.nextElementSibling).textContent = words;
  }
  if (withText) {
    side.input.value = settingText(side.setting);
    side.wrong.textContent = "";
  }
}

/** @param {Side} side @param {Setting} setting */
function change(side, setting, withText = true) {
  side.setting = setting;
  showSetting(side, withText);
  compute([side]);
}

/** Compute tokens anew, first those in sight. @param {Side[]} changed */
function compute(changed) {
  const mine = ++version;
  stale = new Set([...stale, ...changed]);
  const due = [...stale];
  const [from, to] = inSight();
  for (let i = from; i < to; i++) update(i, due);
  if (active >= 0) showCard();
  let next = 0;
  const work = () => {
    if (mine !== version) return;
    const end = performance.now() + SLICE_MS;
    while (next < tokens.length && performance.now() < end) {
      if (next < from || next >= to) update(next, due);
      next++;
    }
    if (next < tokens.length) {
      setTimeout(work);
      return;
    }
    stale.clear();
    showTotals();
  };
  work();
}
/** Sides of which not all tokens are computed. @type {Set<Side>} */
let stale = new Set();

/** The tokens that are in sight. @returns {[number, number]} */
function inSight() {
  /** @param {(box: DOMRect) => boolean} is */
  const first = (is) => {
    let [low, high] = [0, tokens.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (is(tokens[middle].getBoundingClientRect())) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const from = first((box) => box.bottom >= 0);
  return [from, Math.min(from + 2000, Math.max(from, first((box) => box.top > innerHeight)))];
}

/** @param {number} i a token @param {Side[]} due */
function update(i, due) {
  for (const side of due) {
    const figures = figuresOf(rows, i, side.setting);
    for (const name of COLUMNS) {
      side.columns[name][i] = figures[/** @type {keyof Figures} */ (name)];
    }
  }
  shade(i);
}

/** @param {Side} side @param {number} i @returns {Figures} */
function figuresAt(side, i) {
  return /** @type {Figures} */ (Object.fromEntries(COLUMNS.map((name) => [name, side.columns[name][i]])));
}

/** KL of one side from the other. @param {Side} a @param {Side} b @param {number} i */
function klAt(a, b, i) {
  return klBetween(figuresAt(a, i), a.setting, figuresAt(b, i), b.setting);
}

/** What a token is shaded by. @param {string} by @param {number} i */
function valueOf(by, i) {
  const { columns, setting } = sides[0];
  if (by === "kl") return klAt(sides[0], sides[1], i);
  if (by !== "residual") return columns[by][i];
  const spread = Math.sqrt(varianceUnder(rows, i, setting, figuresAt(sides[0], i)));
  return spread > 0 ? (columns.surprisal[i] - columns.entropy[i]) / spread : NaN;
}

/** @param {number} i */
function shade(i) {
  const by = /** @type {HTMLSelectElement} */ (byId("shading")).value;
  const { from, shades } = SHADES[by];
  const value = valueOf(by, i);
  const level = Number.isNaN(value) ? from.findIndex((start) => start <= 0 && start > -0.6) : lastAtMost(from, value, 0, from.length - 1);
  const name = `t ${shades[level]}${sides[0].columns.surprisal[i] === Infinity ? " cut" : ""}`;
  if (tokens[i].className !== name) tokens[i].className = name;
}

function showLegend() {
  const { unit, from, shades } = SHADES[/** @type {HTMLSelectElement} */ (byId("shading")).value];
  const parts = from.map((start, i) => element("span", shades[i],
    i === 0 ? `below ${from[1]}` : i === from.length - 1 ? `from ${start} ${unit}` : `${start} to ${from[i + 1]}`));
  byId("legend").replaceChildren(...parts, element("span", "cut", "cut off by A"));
}

/** @param {ArrayLike<number>} values */
function mean(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return values.length ? sum / values.length : NaN;
}

/** A table of what A and B make of something. @param {(string[])[]} lines */
function table(lines) {
  const head = element("tr", "", element("td", "", " "), ...["A", "B"].map((name, i) => {
    const cell = element("th", "ab"[i], name);
    cell.setAttribute("scope", "col");
    return cell;
  }));
  const body = element("tbody", "", ...lines.map(([name, ...cells]) => {
    const first = element("th", "", name);
    first.setAttribute("scope", "row");
    return element("tr", "", first, ...cells.map((cell) => element("td", "", cell)));
  }));
  return element("table", "", element("thead", "", head), body);
}

function showTotals() {
  const each = sides.map(({ columns }, index) => {
    const covered = columns.surprisal.filter(Number.isFinite);
    const kl = columns.entropy.map((_, i) => klAt(sides[index], sides[1 - index], i));
    const finite = kl.filter(Number.isFinite);
    const nll = mean(columns.surprisal);
    return [
      shown(mean(columns.entropy)), shown(mean(covered)),
      percent(columns.surprisal.length ? covered.length / columns.surprisal.length : NaN),
      shown(Math.exp(nll), 2), shown(mean(columns.kept), 1), percent(mean(columns.keptMass)),
      shown(mean(kl)), shown(mean(columns.entropy.map((value, i) => value + kl[i]))),
      percent(kl.length ? finite.length / kl.length : NaN),
    ];
  });
  const names = ["mean entropy (nats)", "mean surprisal of tokens kept (nats)", "tokens that came and are kept",
    "perplexity", "mean number kept", "mean mass kept", "mean KL to the other (nats)",
    "mean cross-entropy with the other (nats)", "share of finite KL"];
  byId("totals").replaceChildren(table(names.map((name, i) => [name, each[0][i], each[1][i]])));
  const largest = sides.map(({ columns }) => columns.bound.reduce((most, one) => Math.max(most, one), 0));
  byId("bound").textContent = `Entropies, surprisals and kept masses of a token are within ${largest.map((one) => shown(one, 4)).join(" (A) and ")} (B) `
    + `of exact values, on average within ${sides.map(({ columns }) => shown(mean(columns.bound), 5)).join(" and ")}.`;
}

/** Look at a token. @param {number} i @param {boolean} say */
function select(i, say) {
  if (i < 0 || i >= tokens.length) return;
  if (active >= 0 && active < tokens.length) {
    tokens[active].setAttribute("aria-selected", "false");
    tokens[active].removeAttribute("id");
  }
  active = i;
  tokens[i].setAttribute("aria-selected", "true");
  tokens[i].id = "active";
  byId("text").setAttribute("aria-activedescendant", "active");
  showCard();
  if (!say) return;
  tokens[i].scrollIntoView({ block: "nearest" });
  const { columns } = sides[0];
  byId("live").textContent = `${spelled(data.texts[which].tokens[i])}: surprisal ${columns.surprisal[i] === Infinity ? "infinite, cut off" : shown(columns.surprisal[i], 2)}, `
    + `entropy ${shown(columns.entropy[i], 2)} nats`;
}

function showCard() {
  const i = active, text = data.texts[which];
  const both = sides.map((side) => figuresAt(side, i));
  rows.look(i);
  const { place, ownDepth } = rows;
  const ids = rows.namedIds();
  const depths = ids.map((_, j) => rows.depth[j]);
  rows.weigh(1);
  const total = rows.total;
  /** @param {number} depth @param {number} at its place in the order @returns {[string, number, boolean][]} */
  const shares = (depth, at) => [["p", Math.exp(-depth) / total, true],
    ...sides.map(({ setting }, j) => /** @type {[string, number, boolean]} */ ([
      "ab"[j], Math.exp(-(setting.temperature === 0 ? 0 : depth / setting.temperature) - both[j].logMass),
      at === place ? both[j].surprisal !== Infinity : at < both[j].end,
    ]))];
  const items = ids.map((id, j) => choice(data.names[id] ?? `token ${id}`, shares(depths[j], j), j === place));
  if (place >= ids.length) items.push(choice(text.tokens[i], shares(ownDepth, place), true));
  byId("token").replaceChildren(
    element("p", "said", spelled(text.tokens[i])),
    element("p", "", `token ${i + 1} of ${tokens.length}; ${place === 0 ? "the model's favourite" : `${place.toLocaleString("en")} tokens were more likely`}`),
    table([
      ["surprisal (nats)", ...both.map(({ surprisal }) => surprisal === Infinity ? "cut off" : shown(surprisal))],
      ["entropy (nats)", ...both.map(({ entropy }) => shown(entropy))],
      ["tokens kept", ...both.map(({ kept }) => kept.toLocaleString("en"))],
      ["mass kept", ...both.map(({ keptMass }) => percent(keptMass))],
      ["KL to the other (nats)", shown(klAt(sides[0], sides[1], i)), shown(klAt(sides[1], sides[0], i))],
      ["exact within", ...both.map(({ bound }) => shown(bound, 5))],
    ]),
    element("p", "", "The first tokens under the model (p), A and B:"),
    element("ol", "choices", ...items),
  );
}

/** A token with its probabilities. @param {string} name @param {[string, number, boolean][]} shares @param {boolean} came */
function choice(name, shares, came) {
  const bars = shares.map(([of, share, kept]) => {
    const bar = element("i");
    bar.style.width = `${kept ? 100 * share : 0}%`;
    return element("div", `bar ${of}`, element("span", "", of === "p" ? "p" : of.toUpperCase()), element("span", "", bar),
      element("b", kept ? "" : "struck", kept ? percent(share) : "cut off"));
  });
  const out = shares.slice(1).every(([, , kept]) => !kept);
  const label = element("span", `name${came ? " came" : ""}${out ? " struck" : ""}`, spelled(name) + (came ? " ← came" : ""));
  return element("li", "", label, element("div", "", ...bars));
}

/** Show a text. @param {number} index */
function show(index) {
  which = index;
  rows = texts[index];
  active = -1;
  pinned = false;
  const text = data.texts[index];
  byId("about").textContent = text.about;
  byId("before").textContent = text.before;
  byId("before").hidden = text.before === "";
  byId("token").replaceChildren(element("p", "", "No token yet."));
  byId("text").removeAttribute("aria-activedescendant");
  const pieces = [];
  let piece = element("div", "piece");
  tokens = text.tokens.map((one, i) => {
    const token = element("span", "t", one);
    token.setAttribute("role", "option");
    token.setAttribute("aria-selected", "false");
    if (one.trim() === "") token.setAttribute("aria-label", spelled(one));
    token.dataset.i = String(i);
    piece.append(token);
    // A piece is a block of its own, so it ends where a line does.
    if (piece.childElementCount >= 100 && one.endsWith("\n")) {
      pieces.push(piece);
      piece = element("div", "piece");
    }
    return token;
  });
  pieces.push(piece);
  for (const one of pieces) {
    one.setAttribute("role", "none");
    one.dir = "auto";
  }
  byId("text").replaceChildren(...pieces);
  for (const side of sides) {
    side.columns = Object.fromEntries(COLUMNS.map((name) => [name, new Float64Array(tokens.length)]));
  }
  compute(sides);
}

/** The token that an event is about, or -1. @param {Event} event */
function tokenAt(event) {
  const token = event.target instanceof Element ? event.target.closest(".t") : null;
  return token instanceof HTMLElement ? Number(token.dataset.i) : -1;
}

function listen() {
  const area = byId("text");
  area.addEventListener("pointerover", (event) => {
    if (!pinned && event.pointerType === "mouse") select(tokenAt(event), false);
  });
  area.addEventListener("click", (event) => {
    const at = tokenAt(event);
    pinned = at >= 0 && !(pinned && at === active);
    select(at, false);
  });
  area.addEventListener("keydown", (event) => {
    const rightToLeft = active >= 0 && getComputedStyle(/** @type {Element} */ (tokens[active].parentElement)).direction === "rtl";
    const ahead = rightToLeft ? -1 : 1;
    /** @type {Record<string, number>} */
    const goal = { ArrowRight: active + ahead, ArrowLeft: active - ahead, ArrowDown: active + 1, ArrowUp: active - 1,
      Home: 0, End: tokens.length - 1, PageDown: active + 20, PageUp: active - 20 };
    if (!(event.key in goal) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    pinned = true;
    select(Math.min(tokens.length - 1, Math.max(0, goal[event.key])), true);
  });
  area.addEventListener("focus", () => { if (active < 0) select(0, true); });
  byId("shading").addEventListener("change", () => {
    showLegend();
    tokens.forEach((_, i) => shade(i));
  });
  const list = /** @type {HTMLSelectElement} */ (byId("which"));
  list.addEventListener("change", () => show(Number(list.value)));
}

function start() {
  const list = byId("which");
  data.texts.forEach((text, i) => {
    const one = /** @type {HTMLOptionElement} */ (element("option", "", spelled(text.title)));
    one.value = String(i);
    list.append(one);
  });
  byId("choose").hidden = data.texts.length < 2;
  let first = "raw";
  try {
    first = settingText(parseSetting(data.texts[0]?.setting ?? "raw"));
  } catch {
    // A setting that the sliders lack; the page's `about` names it.
  }
  sides.push(makeSide("A", "a", first), makeSide("B", "b", first === "raw" ? "temperature=0.7,top_p=0.9" : "raw"));
  showLegend();
  listen();
  if (texts.length) show(0);
}

Object.defineProperty(window, "decodingReport", {
  value: Object.freeze({ evaluate: (/** @type {string} */ setting) => evaluateTexts(texts, setting) }),
});
start();
