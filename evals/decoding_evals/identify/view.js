// Who wrote a text: the odds of the candidates along it, and the tokens that moved them.
{
  /** Powers of ten beyond which odds are drawn at the edge. */
  const FURTHEST = 6;
  /** @typedef {{name: string, logQ: (number | null)[], joint: Float64Array, odds: Float64Array}} Candidate
   *   `joint` and `odds` are in nats, before the first token and after each */

  /** ln Σ e^value. @param {number[]} values */
  const logSum = (values) => {
    const most = Math.max(...values);
    return most === -Infinity ? most : most + Math.log(values.reduce((sum, value) => sum + Math.exp(value - most), 0));
  };

  /** The candidates with their odds against all others, after each token. @param {any} record @returns {Candidate[]} */
  const candidatesOf = (record) => {
    const { page } = record;
    const several = new Set(record.models).size > 1;
    /** @type {{name: string, logQ: (number | null)[], prior: number}[]} */
    const found = page.candidates.map((/** @type {number} */ k, /** @type {number} */ place) => ({
      name: record.settings[k] + (several ? ` · ${record.models[k]}` : ""), logQ: page.log_q_nats[place], prior: record.prior[k],
    }));
    if (page.others) found.push({ name: `${page.others.toLocaleString("en")} others together`, logQ: page.others_log_q_nats, prior: page.others_prior });
    const made = found.map(({ name, logQ, prior }) => {
      const joint = new Float64Array(logQ.length + 1);
      joint[0] = Math.log(prior);
      logQ.forEach((value, t) => { joint[t + 1] = joint[t] + (value ?? -Infinity); });
      return { name, logQ, joint, odds: new Float64Array(joint.length) };
    });
    for (let t = 0; t < made[0].joint.length; t++) {
      for (const one of made) one.odds[t] = one.joint[t] - logSum(made.filter((other) => other !== one).map(({ joint }) => joint[t]));
    }
    return made;
  };

  /** The probability with these log odds; not a number where every candidate is ruled out. @param {number} odds */
  const probability = (odds) => 1 / (1 + Math.exp(-odds));

  /** A probability for people, exact near 0 and 1. @param {number} odds */
  const posterior = (odds) => Number.isNaN(odds) ? "-" : odds === -Infinity ? "ruled out"
    : Math.abs(odds) < 7 ? percent(probability(odds)) : odds < 0 ? shown(Math.exp(odds), 4) : `1 − ${shown(Math.exp(-odds), 4)}`;

  /** A few points of a long line: its ends, and enough for every pixel. @param {number} count @param {number} width */
  const places = (count, width) => {
    const every = Math.max(1, Math.floor(count / (2 * width)));
    return Array.from({ length: count }, (_, t) => t).filter((t) => t % every === 0 || t === count - 1);
  };

  /** The ticks of odds. @returns {Tick[]} */
  const oddsTicks = () => [-6, -4, -2, 0, 2, 4, 6].map((power) => {
    const times = (10 ** Math.abs(power)).toLocaleString("en");
    return [power, (power === -6 ? "≤ " : power === 6 ? "≥ " : "") + (power < 0 ? `1 : ${times}` : `${times} : 1`)];
  });

  /**
   * Odds along the text. @param {any} record @param {Candidate[]} candidates
   * @param {() => number} chosen the token that is looked at @param {(t: number, byKey: boolean) => void} look
   */
  const along = (record, candidates, chosen, look) => {
    const count = record.page.tokens.length;
    /** @type {Plot} */
    let plot;
    const seen = drawn("line", { class: "seen" });
    const mark = () => {
      const x = chosen() < 0 ? -9 : plot.x(chosen() + 1);
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: plot.top, y2: plot.bottom })) seen.setAttribute(name, String(value));
      svg.append(seen);
    };
    const { place, svg } = picture(
      `Posterior odds of ${candidates.length} candidates along ${count} tokens. Arrow keys go from token to token.`,
      (svg, width) => {
        const height = 340;
        plot = axes(svg, width, height, { label: record.pieces ? "pieces read" : "tokens read", from: 0, to: Math.max(1, count) },
          { label: "posterior odds against all others", from: -FURTHEST - 0.3, to: FURTHEST + 0.3, ticks: oddsTicks() });
        const bar = plot.y(Math.log10(record.min_odds));
        svg.append(drawn("line", { x1: plot.left, x2: plot.right, y1: bar, y2: bar, class: "reference" }));
        candidates.forEach(({ odds }, k) => {
          const first = odds.findIndex((value) => value === -Infinity || Number.isNaN(value));
          const end = first < 0 ? odds.length : first;
          const points = places(end, width).map((t) => /** @type {[number, number]} */ ([
            plot.x(t), plot.y(Math.min(FURTHEST, Math.max(-FURTHEST, odds[t] / Math.LN10)))]));
          svg.append(curve(points, `line${k}`));
          const [x, y] = points[points.length - 1] ?? [plot.left, plot.bottom];
          if (end < odds.length) svg.append(drawn("path", { d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10`, class: `curve line${k} end` }));
        });
        svg.append(label(plot.right, bar - 4, `named from ${record.min_odds.toLocaleString("en")} : 1`, "end"));
        mark();
        return height;
      }, 640);
    walk(svg, (x) => x < plot.left - 4 || !count ? -1 : Math.min(count - 1, Math.max(0, Math.round((x - plot.left) / (plot.right - plot.left) * count) - 1)),
      (key) => count ? stepAlong(chosen(), count, key) : -1, look);
    return { place, mark };
  };

  /** How a token moved the odds of the best against the second. @param {number} ratio */
  const shadeOf = (ratio) => {
    const size = Math.abs(ratio) >= 1 ? 2 : Math.abs(ratio) >= 0.1 ? 1 : 0;
    return ratio < 0 ? ["", "n1", "n2"][size] : ["", "s2", "s4"][size];
  };

  /**
   * The text, token by token. @param {any} record @param {Candidate[]} candidates
   * @param {() => number} chosen @param {(t: number, byKey: boolean) => void} look
   */
  const tokensOf = (record, candidates, chosen, look) => {
    const texts = /** @type {string[]} */ (record.page.tokens);
    const { tokens: made, blocks } = pieced(texts);
    const deciding = /** @type {number[]} */ (record.deciding_tokens.map((/** @type {any} */ one) => one.token)).sort((a, b) => a - b);
    const out = new Set(record.pieces ? [] : record.ruled_out.map((/** @type {any} */ one) => one.token));
    made.forEach((token, t) => {
      const ratio = (candidates[0]?.logQ[t] ?? 0) - (candidates[1]?.logQ[t] ?? 0);
      token.className = `t ${record.runner_up === null ? "" : shadeOf(ratio)}${deciding.includes(t) ? " deciding" : ""}${out.has(t) ? " cut" : ""}`;
      const says = [...deciding.includes(t) ? ["deciding"] : [], ...out.has(t) ? ["rules a candidate out"] : []];
      if (says.length) token.setAttribute("aria-label", `${spelled(texts[t])}, ${says.join(", ")}`);
    });
    const list = element("div", "tokens", ...blocks);
    list.tabIndex = 0;
    for (const [name, value] of Object.entries({ role: "listbox", "aria-label": "Tokens of the text", "aria-describedby": "identify-keys" })) list.setAttribute(name, value);
    let before = -1;
    /** @param {boolean} byKey */
    const mark = (byKey) => {
      made[before]?.setAttribute("aria-selected", "false");
      made[before]?.removeAttribute("id");
      before = chosen();
      made[before]?.setAttribute("aria-selected", "true");
      if (made[before]) made[before].id = "identify-active";
      list.setAttribute("aria-activedescendant", "identify-active");
      if (byKey) made[before]?.scrollIntoView({ block: "nearest" });
    };
    let kept = -1;
    list.addEventListener("pointerover", (event) => {
      const at = tokenAt(event);
      if (at >= 0 && kept < 0 && event.pointerType === "mouse") look(at, false);
    });
    list.addEventListener("click", (event) => {
      const at = tokenAt(event);
      kept = at === kept ? -1 : at;
      if (at >= 0) look(at, false);
    });
    list.addEventListener("keydown", (event) => {
      if (!WALKED.has(event.key) || event.ctrlKey || event.metaKey || event.altKey || !texts.length) return;
      event.preventDefault();
      const at = chosen();
      const next = event.key === "PageDown" ? deciding.find((t) => t > at) : event.key === "PageUp" ? deciding.filter((t) => t < at).pop() : stepAlong(at, texts.length, event.key);
      if (next === undefined) return;
      kept = next;
      look(next, true);
    });
    return { list, mark };
  };

  /** The card of a token. @param {any} record @param {Candidate[]} candidates @param {number} t */
  const figures = (record, candidates, t) => {
    const alike = record.runner_up !== null && candidates.length > 1;
    const ratio = (candidates[0].logQ[t] ?? NaN) - (candidates[1].logQ[t] ?? NaN);
    return [
      element("p", "said", spelled(record.page.tokens[t])),
      element("p", "", `${record.pieces ? "piece" : "token"} ${t + 1} of ${record.page.tokens.length.toLocaleString("en")}`),
      table(["", "log q\n(nats)", "posterior\nbefore", "after"], candidates.map(({ name, logQ, odds }, k) => [
        element("span", `who line${k}`, swatch(k), ` ${spelled(name)}`),
        odds[t] === -Infinity ? "-" : logQ[t] === null ? "cut off" : shown(/** @type {number} */ (logQ[t]), 2), posterior(odds[t]), posterior(odds[t + 1]),
      ])),
      ...alike ? [element("p", "", `It moved the odds of ${spelled(candidates[0].name)} to ${spelled(candidates[1].name)} by ${ratio < 0 ? "-" : "+"}${shown(Math.abs(ratio))} nats.`)] : [],
    ];
  };

  /** A piece of a candidate's line. @param {number} k */
  const swatch = (k) => {
    const svg = drawn("svg", { width: 24, height: 10, viewBox: "0 0 24 10", "aria-hidden": "true", class: "swatch" });
    svg.append(curve([[0, 5], [24, 5]], `line${k}`));
    return svg;
  };

  views["identify"] = ({ data: record }, place) => {
    if (!record.page) {
      place.append(element("p", "", "Records that were written with --page-data show the odds along the text here."));
      return;
    }
    if (!record.page.tokens.length) return;
    const candidates = candidatesOf(record);
    let at = -1;
    const card = panel("token");
    const chosen = () => at;
    /** @param {number} t @param {boolean} byKey */
    const look = (t, byKey) => {
      at = t;
      picture.mark();
      text.mark(byKey);
      card.replaceChildren(...figures(record, candidates, t));
      if (byKey) say(`${spelled(record.page.tokens[t])}: ${candidates.map(({ name, odds }) => `${name} ${posterior(odds[t + 1])}`).slice(0, 3).join(", ")}`);
    };
    const picture = along(record, candidates, chosen, look);
    const text = tokensOf(record, candidates, chosen, look);
    const names = element("p", "lines", ...candidates.map(({ name }, k) => element("span", "who", swatch(k), ` ${spelled(name)}`)));
    const keys = element("p", "", `Point at a token, tap it, or go with the arrow keys${record.deciding_tokens.length ? "; Page Down and Page Up lead to the tokens that decided" : ""}.`);
    keys.id = "identify-keys";
    const legend = element("div", "shades",
      ...record.runner_up === null ? [] : [element("span", "n2", "against the best: 1 nat or more"), element("span", "n1", "0.1 to 1"), element("span", "", "less"),
        element("span", "s2", "for it: 0.1 to 1"), element("span", "s4", "1 nat or more"), element("span", "deciding", "moved the odds most")],
      ...record.ruled_out.length && !record.pieces ? [element("span", "cut", "rules a candidate out")] : []);
    place.append(element("div", "beside", element("div", "",
      element("h2", "", "Odds along the text"), names,
      ...record.ruled_out.length ? [element("p", "", "× ruled out by the next token")] : [], picture.place,
      element("h2", "", "The text"), keys, legend, text.list), card));
  };
}
