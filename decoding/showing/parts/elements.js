"use strict";
// What scripts of a page share. Whatever comes from a model, a prompt or a file is set as text.

/**
 * @typedef {{title: string, caption: string, head: string[] | null, numeric: boolean[], rows: string[][]}} Table
 * @typedef {{vocabulary: number, rows: string}} Packed  rows in base64, and what they are of
 * @typedef {{id: number, text: string, probability: number, raw_probability: number}} Alternative
 * @typedef {{title: string, about: string, before: string, tokens: string[], setting: string | null,
 *   page: Packed | null, recorded?: Record<string, (number | null)[]>,
 *   alternatives?: Alternative[][]}} PageText
 * @typedef {{view: string, title: string, about: string, texts?: PageText[],
 *   tables?: (string | Table)[], data?: any}} Entry
 * @typedef {{format: Format, names: Record<string, string>}} Vocabulary
 */

/**
 * Draws the entries of a view into an empty element; a view's script sets its own.
 * @type {Record<string, (entry: Entry, place: HTMLElement) => void>}
 */
const views = {};

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

/** @param {ArrayLike<number>} values */
function mean(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return values.length ? sum / values.length : NaN;
}

/** Have a screen reader say something. @param {string} text */
function say(text) {
  byId("live").textContent = text;
}

/**
 * A new element of SVG.
 * @param {string} tag @param {Record<string, string | number>} attributes @param {...(string | Node)} parts
 */
function drawn(tag, attributes = {}, ...parts) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...parts);
  return made;
}

/** Whether a header would be empty. @param {string | Node} content */
function isBlank(content) {
  return typeof content === "string" && content.trim() === "";
}

/**
 * A table whose first column names the lines.
 * @param {(string | Node)[]} head @param {(string | Node)[][]} lines @param {boolean[]} numeric by column
 */
function table(head, lines, numeric = []) {
  /** @param {"th" | "td"} tag @param {string | Node} content @param {number} column @param {string} scope */
  const cell = (tag, content, column, scope = "") => {
    const made = element(tag, numeric[column] ?? column > 0 ? "number" : "", content);
    if (scope) made.setAttribute("scope", scope);
    return made;
  };
  const body = element("tbody", "", ...lines.map((line) => element("tr", "",
    ...line.map((content, column) => column || isBlank(content) ? cell("td", content, column) : cell("th", content, 0, "row")))));
  if (!head.length) return element("table", "", body);
  const top = element("tr", "", ...head.map((content, column) => isBlank(content) ? cell("td", " ", column) : cell("th", content, column, "col")));
  return element("table", "", element("thead", "", top), body);
}

/** A button that shows one of an entry's texts, and is pressed while it does. @param {number} at @param {...(string | Node)} parts */
function textButton(at, ...parts) {
  const button = element("button", "answer", ...parts);
  button.setAttribute("type", "button");
  button.setAttribute("aria-pressed", "false");
  button.dataset.text = String(at);
  button.addEventListener("click", () => chooseText(at));
  return button;
}

/** Show one of an entry's texts. @param {number} at */
function chooseText(at) {
  const list = /** @type {HTMLSelectElement} */ (byId("which-text"));
  list.value = String(at);
  list.dispatchEvent(new Event("change"));
  byId("text").scrollIntoView({ block: "nearest" });
  say(`Shown below: ${list.selectedOptions[0].textContent}`);
}

/** A table that can be scrolled, with what stands above and below it. @param {Table} parts */
function framed({ title, caption, head, numeric, rows }) {
  const frame = element("div", "frame", table(head ?? [], rows, numeric));
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", title.trim() || "Table");
  const made = element("figure");
  if (title.trim()) made.append(element("figcaption", "", title.trim()));
  made.append(frame);
  if (caption.trim()) made.append(element("p", "", caption.trim()));
  return made;
}
