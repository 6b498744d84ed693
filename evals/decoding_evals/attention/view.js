// Heads by layer, and the row of one head: where each token looks.
{
  /**
   * @typedef {{kept: number, queries: number, heads: number[], keys: string, weights: string}} HeadRows
   * @typedef {(number | null)[][]} ByHead
   * @typedef {{layers: number, heads: number, entropy_nats: ByHead, normalized_entropy: ByHead,
   *   without_sink_normalized_entropy: ByHead, sink_weight: ByHead, collapsed_heads: number[][],
   *   collapse_threshold: number, tokens: string[], front: string[], rows: HeadRows | null}} Heads
   */

  const HEAD_MEASURES = /** @type {const} */ ({
    normalized_entropy: "normalised entropy: 0 is a look at one token, 1 an even look at all",
    without_sink_normalized_entropy: "normalised entropy without the first token",
    sink_weight: "weight on the first token, the sink",
  });
  const HEAD_SHADES = { from: [0, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9], shades: SHADES.entropy.shades };
  const WEIGHT_SHADES = { from: [0, 0.01, 0.03, 0.08, 0.15, 0.3, 0.5, 0.75], shades: SHADES.entropy.shades };
  const FIRST_SIGHT = 40; // tokens, the last of which looks at first
  const WEIGHT_STEPS = 65535; // parts of 1 that weights are stored as

  /** The shade of a value, and the scale of all. @param {{from: number[], shades: string[]}} scale @param {number} value */
  function shadeIn({ from, shades }, value) {
    return shades[lastAtMost(from, value, 0, from.length - 1)];
  }

  /** What shades mean. @param {{from: number[], shades: string[]}} scale @param {...(string | Node)} more */
  function scaleOfShades({ from, shades }, ...more) {
    return element("div", "scale", ...from.map((start, i) => element("span", shades[i], i ? `from ${start}` : `below ${from[1]}`)), ...more);
  }

  views["attention"] = (entry, place) => {
    const heads = /** @type {Heads} */ (entry.data);
    const row = element("div");
    const figures = element("p", "figures");
    const list = /** @type {HTMLSelectElement} */ (element("select", "", ...Object.entries(HEAD_MEASURES).map(([name, words]) => {
      const option = /** @type {HTMLOptionElement} */ (element("option", "", words));
      option.value = name;
      return option;
    })));
    const rows = heads.rows && headRows(heads.rows, heads.front, heads.tokens, row);
    const grid = headGrid(heads, figures, rows ? rows : () => {});
    const shade = () => grid.shade(/** @type {keyof typeof HEAD_MEASURES} */ (list.value));
    list.addEventListener("change", shade);
    shade();
    place.append(
      element("h2", "", "Heads by layer"),
      element("p", "", `Each row is a layer, each column a head. Point at a head or go to it with the arrow keys${rows ? ", and choose it to see where its tokens look" : ""}. `
        + `× marks a collapsed head: its mean normalised entropy is below ${heads.collapse_threshold}.`
        + (rows ? "" : " Where a head's tokens look is on a page of records that were written with --page-data.")),
      element("label", "", "Shade heads by ", list),
      scaleOfShades(HEAD_SHADES, element("span", "", "× collapsed"), element("span", "unknown", "- undefined")),
      grid.place, figures, row,
    );
    if (heads.normalized_entropy[0]?.length) grid.take(0, 0);
  };

  /**
   * The heads as a grid that keys walk.
   * @param {Heads} heads @param {HTMLElement} figures says those of a head @param {(layer: number, head: number) => void} choose
   */
  function headGrid(heads, figures, choose) {
    const collapsed = new Set(heads.collapsed_heads.map(String));
    /** @type {HTMLElement[][]} */
    const cells = heads.normalized_entropy.map((layer, at) => layer.map((_, head) => {
      const cell = element("td", "head");
      cell.tabIndex = at || head ? -1 : 0;
      cell.dataset.layer = String(at);
      cell.dataset.head = String(head);
      return cell;
    }));
    const every = Math.ceil(heads.heads / 8);
    const corner = element("th", "", "layer");
    const top = element("tr", "", corner, ...Array.from({ length: heads.heads }, (_, head) => element("th", "", head % every ? "" : String(head))));
    const body = cells.map((layer, at) => {
      const name = element("th", "", String(at));
      name.setAttribute("scope", "row");
      return element("tr", "", name, ...layer);
    });
    const grid = element("table", "heads", element("thead", "", top), element("tbody", "", ...body));
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-label", "Heads by layer");
    top.setAttribute("aria-hidden", "true"); // each head says its number
    grid.style.maxWidth = `${4 + 2.2 * heads.heads}rem`;
    /** @param {number} layer @param {number} head */
    const said = (layer, head) => {
      const [entropy, without, sink] = /** @type {const} */ (["normalized_entropy", "without_sink_normalized_entropy", "sink_weight"])
        .map((name) => shown(heads[name][layer][head] ?? NaN));
      return `Layer ${layer}, head ${head}: normalised entropy ${entropy} (${shown(heads.entropy_nats[layer][head] ?? NaN)} nats), `
        + `without the first token ${without}, weight on the first token ${sink}${collapsed.has(`${layer},${head}`) ? "; collapsed" : ""}.`;
    };
    /** @param {Event} event */
    const placeOf = ({ target }) => target instanceof HTMLElement && target.dataset.head !== undefined
      ? [Number(target.dataset.layer), Number(target.dataset.head)] : null;
    /** @param {number} layer @param {number} head */
    const take = (layer, head) => {
      for (const cell of cells.flat()) {
        cell.tabIndex = -1;
        cell.setAttribute("aria-selected", "false");
      }
      const cell = cells[layer][head];
      cell.tabIndex = 0;
      cell.setAttribute("aria-selected", "true");
      figures.textContent = said(layer, head);
      choose(layer, head);
    };
    grid.addEventListener("pointerover", (event) => {
      const at = placeOf(event);
      if (at) figures.textContent = said(at[0], at[1]);
    });
    grid.addEventListener("click", (event) => {
      const at = placeOf(event);
      if (at) take(at[0], at[1]);
    });
    grid.addEventListener("keydown", (event) => {
      const at = placeOf(event);
      if (!at || event.ctrlKey || event.metaKey || event.altKey) return;
      const [layer, head] = at;
      /** @type {Record<string, [number, number]>} */
      const goal = { ArrowRight: [layer, head + 1], ArrowLeft: [layer, head - 1], ArrowDown: [layer + 1, head], ArrowUp: [layer - 1, head],
        Home: [layer, 0], End: [layer, cells[layer].length - 1], PageUp: [0, head], PageDown: [cells.length - 1, head], Enter: [layer, head], " ": [layer, head] };
      if (!(event.key in goal)) return;
      event.preventDefault();
      const [to, own] = goal[event.key];
      if (!cells[to]?.[own]) return;
      take(to, own);
      cells[to][own].focus();
    });
    return {
      place: grid,
      take,
      /** Shade by a measure. @param {keyof typeof HEAD_MEASURES} by */
      shade: (by) => cells.forEach((layer, at) => layer.forEach((cell, head) => {
        const value = heads[by][at][head];
        cell.className = `head ${value === null ? "unknown" : shadeIn(HEAD_SHADES, value)}`;
        cell.textContent = value === null ? "-" : collapsed.has(`${at},${head}`) ? "×" : "";
        cell.setAttribute("aria-label", said(at, head));
      })),
    };
  }

  /**
   * Where a head's tokens look: a text whose tokens are shaded by the weight that the chosen one has on them.
   * @param {HeadRows} rows @param {string[]} front stands before the text @param {string[]} own tokens of the text @param {HTMLElement} place
   * @returns {(layer: number, head: number) => void} shows a head
   */
  function headRows(rows, front, own, place) {
    const tokens = [...front, ...own];
    /** The number of a token in its text, 0 and less in front of it. @param {number} at */
    const number = (at) => at - front.length + 1;
    const [keys, weights] = [rows.keys, rows.weights].map((base64) => new Uint16Array(decoded(base64)));
    const firsts = rows.heads.map((_, layer) => rows.heads.slice(0, layer).reduce((sum, count) => sum + count, 0));
    let [layer, head, query, pinned] = [0, 0, tokens.findLastIndex((text, i) => i < Math.min(rows.queries, FIRST_SIGHT) && text.trim() !== ""), false];
    query = Math.max(0, query);
    const title = element("h2");
    const said = element("p");
    const largest = element("div");
    const texts = tokens.map((text, i) => {
      const token = element("span", "t", text);
      token.setAttribute("role", "option");
      token.dataset.i = String(i);
      if (text.trim() === "") token.setAttribute("aria-label", spelled(text));
      return token;
    });
    const area = element("div", "looks", ...texts);
    area.dir = "auto";
    area.tabIndex = 0;
    area.setAttribute("role", "listbox");
    area.setAttribute("aria-label", "Tokens, of which one looks at those before it");
    /** The weights of a query, the largest first. @param {number} at @returns {[number, number][]} */
    const rowOf = (at) => {
      const start = ((firsts[layer] + head) * rows.queries + at) * rows.kept;
      return Array.from({ length: rows.kept }, (_, i) => /** @type {[number, number]} */ ([keys[start + i], weights[start + i] / WEIGHT_STEPS]))
        .filter(([, weight]) => weight > 0);
    };
    const show = (aloud = false) => {
      title.textContent = `Where the tokens look: layer ${layer}, head ${head}`;
      const row = rowOf(query);
      const known = new Map(row);
      const rest = Math.max(0, 1 - row.reduce((sum, [, weight]) => sum + weight, 0));
      texts.forEach((token, i) => {
        const weight = known.get(i) ?? 0;
        token.className = `t ${i > query ? "after" : shadeIn(WEIGHT_SHADES, weight)}`;
        token.setAttribute("aria-selected", String(i === query));
        if (i === query) token.id = "looking";
        else token.removeAttribute("id");
      });
      area.setAttribute("aria-activedescendant", "looking");
      const words = `${spelled(tokens[query])}, token ${number(query)} of ${number(tokens.length - 1)}: `;
      said.textContent = `${words}its ${row.length} largest weights are shown; ${rest < 0.0005 ? "less than 0.05%" : percent(rest)} of its weight is on others.`;
      const lines = row.map(([key, weight]) => {
        const bar = element("i");
        bar.style.width = `${100 * weight}%`;
        return element("li", "", element("span", "", element("span", "place", `${number(key)} `), element("span", "name", spelled(tokens[key]) + (key === query ? " ← itself" : ""))),
          element("div", "bar q", element("span"), element("span", "", bar), element("b", "", percent(weight))));
      });
      const list = element("ol", "choices", ...lines);
      list.setAttribute("aria-label", "The largest weights: token, its number, weight");
      largest.replaceChildren(list);
      if (aloud) say(`${words}${row.slice(0, 3).map(([key, weight]) => `${percent(weight)} on ${spelled(tokens[key])}`).join(", ")}`);
    };
    /** @param {number} at */
    const look = (at, aloud = false) => {
      if (at < 0 || at >= tokens.length) return;
      if (at >= rows.queries) {
        say(`The page keeps the rows of the first ${rows.queries} tokens`);
        return;
      }
      query = at;
      show(aloud);
    };
    /** @param {Event} event */
    const tokenOf = ({ target }) => target instanceof HTMLElement && target.dataset.i !== undefined ? Number(target.dataset.i) : -1;
    area.addEventListener("pointerover", (event) => { if (!pinned && event.pointerType === "mouse") look(tokenOf(event)); });
    area.addEventListener("click", (event) => {
      const at = tokenOf(event);
      pinned = at >= 0 && !(pinned && at === query);
      look(at);
    });
    area.addEventListener("keydown", (event) => {
      const ahead = getComputedStyle(area).direction === "rtl" ? -1 : 1;
      /** @type {Record<string, number>} */
      const goal = { ArrowRight: query + ahead, ArrowLeft: query - ahead, ArrowDown: query + 1, ArrowUp: query - 1, Home: 0, End: rows.queries - 1 };
      if (!(event.key in goal) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      pinned = true;
      look(goal[event.key], true);
      texts[query].scrollIntoView({ block: "nearest" });
    });
    const limit = rows.queries < tokens.length ? ` The page keeps the rows of the first ${rows.queries.toLocaleString("en")} tokens.` : "";
    place.append(title,
      element("p", "", `Choose a token, by pointer or arrow keys: those before it are shaded by its weight on them. The page keeps the ${rows.kept} largest weights of each token and head.${limit}`),
      scaleOfShades(WEIGHT_SHADES), area, said, largest);
    return (toLayer, toHead) => {
      [layer, head] = [toLayer, toHead];
      show();
    };
  }
}
