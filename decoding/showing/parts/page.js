// The page: its entries, and the one that is shown.

/** @type {{entries: Entry[], vocabularies: Vocabulary[]}} */
const data = JSON.parse(byId("data").textContent || "");
/** @type {Map<Packed, Rows>} */
const unpacked = new Map();

/** The rows of a text, unpacked when they are first asked for. @param {PageText} text */
function rowsOf({ page }) {
  if (!page) return null;
  const found = unpacked.get(page) ?? new Rows(decoded(page.rows), data.vocabularies[page.vocabulary].format);
  unpacked.set(page, found);
  return found;
}

/** Fill a list. @param {string} id @param {string[]} titles @param {(index: number) => void} choose */
function fill(id, titles, choose) {
  const list = /** @type {HTMLSelectElement} */ (byId(id));
  list.replaceChildren(...titles.map((title, i) => {
    const option = /** @type {HTMLOptionElement} */ (element("option", "", spelled(title)));
    option.value = String(i);
    return option;
  }));
  list.onchange = () => choose(Number(list.value));
  /** @type {HTMLElement} */ (list.closest(".choose")).hidden = titles.length < 2;
  if (titles.length) list.value = "0";
}

/** Show another entry, from within the one that is shown. @param {number} index */
function chooseEntry(index) {
  const list = /** @type {HTMLSelectElement} */ (byId("which-entry"));
  list.value = String(index);
  list.dispatchEvent(new Event("change"));
  scrollTo(0, 0);
  list.focus();
}

/** @param {number} index */
function showEntry(index) {
  const entry = data.entries[index];
  byId("title").textContent = document.title = entry.title;
  byId("about").textContent = entry.about;
  const drawing = byId("drawing");
  drawing.replaceChildren();
  if (entry.data !== undefined) views[entry.view]?.(entry, drawing);
  drawing.hidden = !drawing.childElementCount;
  byId("tables").replaceChildren(...(entry.tables ?? []).map(
    (part) => typeof part === "string" ? element("p", "line", part) : framed(part)));
  const texts = entry.texts ?? [];
  document.body.classList.toggle("reads", texts.length > 0);
  byId("reading").hidden = byId("card").hidden = !texts.length;
  /** @param {number} i */
  const showNth = (i) => {
    const page = texts[i].page;
    if (texts.length > 1) byId("about").textContent = `${entry.about} ${texts[i].about}`;
    for (const button of document.querySelectorAll("button[data-text]")) {
      button.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (button).dataset.text === String(i)));
    }
    showText(texts[i], rowsOf(texts[i]), page ? data.vocabularies[page.vocabulary].names : {});
  };
  fill("which-text", texts.map(({ title }) => title), showNth);
  if (texts.length) showNth(0);
}

Object.defineProperty(window, "decodingReport", {
  value: Object.freeze({
    evaluate: (/** @type {string} */ setting) => evaluateTexts(
      data.entries.flatMap(({ texts }) => texts ?? []).map(rowsOf).filter((rows) => rows !== null), setting),
  }),
});
startText(data.entries.flatMap(({ texts }) => texts ?? [])[0]?.setting ?? null);
fill("which-entry", data.entries.map(({ title }) => title), showEntry);
if (data.entries.length) showEntry(0);
else byId("title").textContent = "Nothing was recorded";
