// A text: its tokens, and what is known of each; with the rows behind it, two settings and what they
// make of it.

/**
 * @typedef {{setting: Setting, box: HTMLElement, input: HTMLInputElement, wrong: HTMLElement,
 *   knobs: Record<string, HTMLInputElement>, columns: Record<string, Float64Array>}} Side
 */

const SLICE_MS = 12; // of work between two frames
const SHORT = 880; // pixels
const COLUMNS = ["entropy", "keptMass", "surprisal", "bound", "kept", "logMass", "meanDepth", "end", "sumsBound", "least", "most"];
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

/** @param {string} base64 */
function decoded(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes.buffer;
}

/** What is known of the tokens of a text that has no rows. @type {Record<string, {label: string, shades?: string}>} */
const RECORDED = {
  surprisal_nats: { label: "surprisal (nats)", shades: "surprisal" },
  entropy_nats: { label: "entropy (nats)", shades: "entropy" },
  raw_surprisal_nats: { label: "surprisal under p (nats)", shades: "surprisal" },
  raw_entropy_nats: { label: "entropy of p (nats)", shades: "entropy" },
  q_surprisal_nats: { label: "surprisal under q (nats)", shades: "surprisal" },
  q_entropy_nats: { label: "entropy of q (nats)", shades: "entropy" },
  residual: { label: "residual", shades: "residual" },
  kl_nats: { label: "KL(q‖p) (nats)", shades: "kl" },
  kept: { label: "tokens kept" },
  kept_mass: { label: "mass kept" },
  rank: { label: "rank" },
  temperature: { label: "temperature" },
};
const COMPUTED = { entropy: "entropy under A", surprisal: "surprisal under A", residual: "residual under A", kl: "KL(A‖B)" };

/** @type {PageText} */
let text;
/** The rows behind it. @type {Rows | null} */
let rows = null;
/** Its tokens' names by id. @type {Record<string, string>} */
let names = {};
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
      say(`Copied ${input.value}`);
    } catch {
      say(`Selected ${input.value}: copy it from there`);
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
  updateInSight();
  if (active >= 0) showCard();
  let next = 0;
  const work = () => {
    if (mine !== version) return;
    const end = performance.now() + SLICE_MS;
    while (next < tokens.length && performance.now() < end) {
      update(next++);
    }
    if (next < tokens.length) {
      if (rows) byId("bound").textContent = `Computing: ${percent(next / tokens.length)} of the tokens.`;
      setTimeout(work);
      return;
    }
    stale.clear();
    if (rows) showTotals();
    showLandmarks();
  };
  work();
}
/** Sides of which not all tokens are computed. @type {Set<Side>} */
let stale = new Set();
/** The version that each token was computed for. */
let computed = new Uint32Array();

function updateInSight() {
  const [from, to] = inSight();
  for (let i = from; i < to; i++) update(i);
}

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

/** Compute a token, unless that is done. @param {number} i */
function update(i) {
  if (computed[i] === version) return;
  computed[i] = version;
  for (const side of rows ? stale : []) {
    const figures = figuresOf(/** @type {Rows} */ (rows), i, side.setting);
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

/** How far that may be off; infinite where it is open whether it is. @param {Side} a @param {Side} b @param {number} i */
function klBoundAt(a, b, i) {
  return klBound(figuresAt(a, i), a.setting, figuresAt(b, i), b.setting);
}

/** What a token is shaded by. @param {string} by @param {number} i */
function valueOf(by, i) {
  if (!rows) return recordedAt(by, i);
  const { columns, setting } = sides[0];
  if (by === "kl") return klAt(sides[0], sides[1], i);
  if (by !== "residual") return columns[by][i];
  const spread = Math.sqrt(varianceUnder(rows, i, setting, figuresAt(sides[0], i)));
  return spread > 0 ? (columns.surprisal[i] - columns.entropy[i]) / spread : NaN;
}

/** What was recorded of a token: infinite where it is null, and NaN where nothing was. @param {string} name @param {number} i */
function recordedAt(name, i) {
  const values = text.recorded?.[name];
  return values ? values[i] ?? (name === "residual" ? NaN : Infinity) : NaN;
}

/** What tokens are shaded by, and the shades for it. */
function shading() {
  const by = /** @type {HTMLSelectElement} */ (byId("shading")).value;
  return { by, ...SHADES[rows ? by : RECORDED[by]?.shades ?? "entropy"] };
}

/** Offer what this text can be shaded by. */
function offerShading() {
  const list = /** @type {HTMLSelectElement} */ (byId("shading"));
  const offers = rows ? Object.entries(COMPUTED)
    : Object.keys(text.recorded ?? {}).filter((name) => RECORDED[name]?.shades).map((name) => [name, RECORDED[name].label]);
  const chosen = list.value;
  list.replaceChildren(...offers.map(([name, label]) => {
    const option = /** @type {HTMLOptionElement} */ (element("option", "", label));
    option.value = name;
    return option;
  }));
  const usual = offers.some(([name]) => name === chosen) ? chosen : offers.find(([name]) => name.startsWith("entropy"))?.[0];
  list.value = usual ?? offers[0]?.[0] ?? "";
  byId("shade").hidden = byId("legend").hidden = !offers.length;
}

/** @param {number} i */
function shade(i) {
  const { by, from, shades } = shading();
  const value = valueOf(by, i);
  const level = Number.isNaN(value) ? from.findIndex((start) => start <= 0 && start > -0.6) : lastAtMost(from, value, 0, from.length - 1);
  const name = `t ${shades[level]}${isCut(i) ? " cut" : ""}${isCut(i, 1) ? " cut-b" : ""}`;
  if (tokens[i].className !== name) tokens[i].className = name;
}

/** Whether a token is cut off, by A or B, or by what it was scored under. @param {number} i @param {number} side */
function isCut(i, side = 0) {
  return rows ? sides[side].columns.surprisal[i] === Infinity : !side && text.recorded?.q_surprisal_nats?.[i] === null;
}

function showLegend() {
  const { unit, from, shades } = shading();
  const parts = from.map((start, i) => element("span", shades[i],
    i === 0 ? `below ${from[1]}` : i === from.length - 1 ? `from ${start} ${unit}` : `${start} to ${from[i + 1]}`));
  byId("legend").replaceChildren(...parts, element("span", "cut", rows ? "cut off by A" : "cut off"),
    ...rows ? [element("span", "cut-b", "cut off by B")] : []);
}

/** Lead to the tokens that are looked for: where the model was least sure, and what is cut off. */
function showLandmarks() {
  const name = rows ? "entropy" : Object.keys(text.recorded ?? {}).find((one) => one.endsWith("entropy_nats"));
  /** @param {number} i */
  const entropy = (i) => rows ? sides[0].columns.entropy[i] : recordedAt(name ?? "", i);
  let least = -1;
  tokens.forEach((_, i) => { if (Number.isFinite(entropy(i)) && !(least >= 0 && entropy(i) <= entropy(least))) least = i; });
  /** @param {string} words @param {() => number} goal */
  const lead = (words, goal) => {
    const button = element("button", "", words);
    button.setAttribute("type", "button");
    button.addEventListener("click", () => {
      pinned = true;
      select(goal(), true);
    });
    return button;
  };
  const cuts = (rows ? [0, 1] : [0]).map((side) => ({ by: rows ? ` by ${"AB"[side]}` : "", at: tokens.flatMap((_, i) => isCut(i, side) ? [i] : []) }));
  byId("landmarks").replaceChildren(
    ...least < 0 ? [] : [lead(`Least sure${rows ? " under A" : ""}: ${spelled(text.tokens[least])} (${shown(entropy(least), 2)} nats)`, () => least)],
    ...cuts.filter(({ at }) => at.length).map(({ by, at }) => lead(`Next of ${at.length.toLocaleString("en")} cut off${by}`,
      () => at.find((i) => i > active) ?? at[0])),
  );
}

/** A table of what A and B make of something. @param {(string | Node)[][]} lines */
function sideTable(lines) {
  return table(["", ...["A", "B"].map((name, i) => element("span", "side " + "ab"[i], name))], lines);
}

/** How far the divergences of all tokens may be off, in words. */
function klSaid() {
  const each = [[0, 1], [1, 0]].map(([a, b]) => tokens.map((_, i) => klBoundAt(sides[a], sides[b], i)));
  const open = new Set(each.flatMap((bounds) => bounds.flatMap((bound, i) => bound === Infinity ? [i] : []))).size;
  const largest = each.map((bounds) => bounds.reduce((most, one) => one === Infinity ? most : Math.max(most, one), 0));
  return `KL(A‖B) is within ${shown(largest[0], 4)} and KL(B‖A) within ${shown(largest[1], 4)}, and a cross-entropy within that and its entropy's bound`
    + (open ? `; at ${open.toLocaleString("en")} token${open === 1 ? "" : "s"} a cut lies where the page cannot tell whether one of them is infinite.` : ".");
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
  const lines = ["mean entropy (nats)", "mean surprisal of tokens kept (nats)", "tokens that came and are kept",
    "perplexity", "mean number kept", "mean mass kept", "mean KL to the other (nats)",
    "mean cross-entropy with the other (nats)", "share of finite KL"];
  byId("totals").replaceChildren(sideTable(lines.map((name, i) => [name, each[0][i], each[1][i]])));
  const largest = sides.map(({ columns }) => columns.bound.reduce((most, one) => Math.max(most, one), 0));
  byId("bound").textContent = `Entropies, surprisals and kept masses of a token are within ${largest.map((one) => shown(one, 4)).join(" (A) and ")} (B) `
    + `of exact values, on average within ${sides.map(({ columns }) => shown(mean(columns.bound), 5)).join(" and ")}. `
    + klSaid();
}

/** Look at a token. @param {number} i @param {boolean} aloud */
function select(i, aloud) {
  if (i < 0 || i >= tokens.length) return;
  if (active >= 0 && active < tokens.length) {
    tokens[active].setAttribute("aria-selected", "false");
    tokens[active].removeAttribute("id");
  }
  active = i;
  update(i);
  tokens[i].setAttribute("aria-selected", "true");
  tokens[i].id = "active";
  byId("text").setAttribute("aria-activedescendant", "active");
  showCard();
  if (!aloud) return;
  bringIntoSight();
  const [surprisal, entropy] = rows ? [sides[0].columns.surprisal[i], sides[0].columns.entropy[i]]
    : [recordedAt("surprisal_nats", i), recordedAt("entropy_nats", i)];
  say(`${spelled(text.tokens[i])}: surprisal ${surprisal === Infinity ? "infinite, cut off" : shown(surprisal, 2)}, entropy ${shown(entropy, 2)} nats`);
}

/** Scroll to the token that is looked at: once more when the pieces around it have their true heights. */
function bringIntoSight() {
  const scroll = () => tokens[active]?.scrollIntoView({ block: "nearest" });
  scroll();
  requestAnimationFrame(scroll);
}

function showCard() {
  if (rows) showComputed(rows, active);
  else showRecorded(active);
}

/** The card of a token as it was recorded. @param {number} i */
function showRecorded(i) {
  const lines = Object.entries(text.recorded ?? {}).map(([name, values]) => {
    const value = values[i];
    const whole = name === "kept" || name === "rank";
    return [RECORDED[name].label, value === null ? (name === "residual" ? "-" : "infinite")
      : whole ? value.toLocaleString("en") : name === "kept_mass" ? percent(value) : shown(value)];
  });
  const others = text.alternatives?.[i] ?? [];
  byId("token").replaceChildren(
    element("p", "said", spelled(text.tokens[i])),
    element("p", "", `token ${i + 1} of ${tokens.length}`),
    table([], lines),
    ...others.length ? [
      element("p", "", "Its runners-up under the model (p) and the setting (q):"),
      element("ol", "choices", ...others.map((one) => choice(one.text,
        [["p", one.raw_probability, true], ["q", one.probability, one.probability > 0]], false))),
    ] : [],
  );
}

/** The card of a token as A and B make it. @param {Rows} rows @param {number} i */
function showComputed(rows, i) {
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
  const items = ids.map((id, j) => choice(names[id] ?? `token ${id}`, shares(depths[j], j), j === place));
  if (place >= ids.length) items.push(choice(text.tokens[i], shares(ownDepth, place), true));
  byId("token").replaceChildren(
    element("p", "said", spelled(text.tokens[i])),
    element("p", "", `token ${i + 1} of ${tokens.length}; ${place === 0 ? "the model's favourite" : `${place.toLocaleString("en")} token${place === 1 ? " was" : "s were"} more likely`}`),
    sideTable([
      ["surprisal (nats)", ...both.map(({ surprisal }) => surprisal === Infinity ? "cut off" : shown(surprisal))],
      ["entropy (nats)", ...both.map(({ entropy }) => shown(entropy))],
      ["tokens kept", ...both.map(({ kept }) => kept.toLocaleString("en"))],
      ["mass kept", ...both.map(({ keptMass }) => percent(keptMass))],
      ["these exact within", ...both.map(({ bound }) => shown(bound, 5))],
      ["KL to the other (nats)", shown(klAt(sides[0], sides[1], i)), shown(klAt(sides[1], sides[0], i))],
      ["KL exact within", ...[[0, 1], [1, 0]].map(([a, b]) => {
        const bound = klBoundAt(sides[a], sides[b], i);
        return bound === Infinity ? "open" : shown(bound, 5);
      })],
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

/**
 * Tokens as elements, within blocks of which those out of sight need not be laid out.
 * @param {string[]} texts
 */
function pieced(texts) {
  const blocks = [];
  let piece = element("div", "piece");
  const tokens = texts.map((one, i) => {
    const token = element("span", "t", one);
    token.setAttribute("role", "option");
    token.setAttribute("aria-selected", "false");
    if (one.trim() === "") token.setAttribute("aria-label", spelled(one));
    token.dataset.i = String(i);
    piece.append(token);
    // A piece is a block of its own, so it ends where a line does.
    if (piece.childElementCount >= 100 && one.endsWith("\n")) {
      blocks.push(piece);
      piece = element("div", "piece");
    }
    return token;
  });
  blocks.push(piece);
  for (const one of blocks) {
    one.setAttribute("role", "none");
    one.dir = "auto";
  }
  return { tokens, blocks };
}

/**
 * Show a text.
 * @param {PageText} next @param {Rows | null} nextRows behind it @param {Record<string, string>} nextNames
 */
function showText(next, nextRows, nextNames) {
  [text, rows, names] = [next, nextRows, nextNames];
  active = -1;
  pinned = false;
  byId("computing").hidden = !rows;
  byId("recorded").hidden = !!rows;
  byId("before").textContent = text.before;
  byId("before").hidden = text.before === "";
  byId("token").replaceChildren(element("p", "", "No token yet: point at one in the text, tap it, or go with the arrow keys."));
  byId("landmarks").replaceChildren();
  byId("text").removeAttribute("aria-activedescendant");
  const pieces = pieced(text.tokens);
  byId("text").replaceChildren(...pieces.blocks);
  tokens = pieces.tokens;
  computed = new Uint32Array(tokens.length);
  offerShading();
  showLegend();
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

/** React to pointer and keys. */
function listen() {
  const area = byId("text");
  area.addEventListener("pointerover", (event) => {
    if (!pinned && event.pointerType === "mouse") select(tokenAt(event), false);
  });
  area.addEventListener("click", (event) => {
    const at = tokenAt(event);
    pinned = at >= 0 && !(pinned && at === active);
    select(at, false);
    if (at >= 0) bringIntoSight(); // from below the card of a narrow window
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
  // By a finger it comes before the click, whose token would be moved away from under it.
  area.addEventListener("focus", () => { if (active < 0 && area.matches(":focus-visible")) select(0, true); });
  addEventListener("scroll", () => { if (stale.size) updateInSight(); }, { passive: true });
  byId("shading").addEventListener("change", () => {
    showLegend();
    tokens.forEach((_, i) => shade(i));
  });
}

/** Make both sides, and listen. @param {string | null} setting that A begins with */
function startText(setting) {
  let first = "raw";
  try {
    first = settingText(parseSetting(setting ?? "raw"));
  } catch {
    // A setting that the sliders lack; the page's `about` names it.
  }
  sides.push(makeSide("A", "a", first), makeSide("B", "b", first === "raw" ? "temperature=0.7,top_p=0.9" : "raw"));
  // In a short window or frame, sliders and text are to be seen together.
  if (innerHeight < SHORT) byId("sums").removeAttribute("open");
  listen();
}
