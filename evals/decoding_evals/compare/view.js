// Settings beside each other: cross-entropy against entropy, and a matrix of each pair.
{
  /** Settings of which the matrix shows every one. */
  const MOST = 60;
  /** Settings whose numbers stand beside their points. */
  const NAMED = 60;
  const SHADES = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];
  /** @typedef {{key: string, symbol: string, says: string, unit: string}} Measure */
  /** @type {Measure[]} */
  const MEASURES = [
    { key: "kl_nats", symbol: "KL", says: "KL divergence of i from j", unit: " nats" },
    { key: "js_nats", symbol: "JS", says: "Jensen-Shannon divergence", unit: " nats" },
    { key: "total_variation", symbol: "TV", says: "total variation", unit: "" },
  ];

  /** A figure that is null where it is infinite. @param {number | null} value */
  const orInfinite = (value) => value === null ? "infinite" : shown(value);

  /** The radius of a mark by the share of the text's tokens that is cut off. @param {number} share */
  const radius = (share) => Math.sqrt((20 + 600 * share) / Math.PI) * 4 / 3;

  /** What the pictures know of each setting. @param {any} record */
  const settingsOf = (record) => record.settings.map((/** @type {string} */ name, /** @type {number} */ i) => ({
    i, name, number: `[${i + 1}]`, entropy: record.entropy_nats[i], cost: record.covered_cross_entropy_nats[i], cut: 1 - record.coverage[i],
  }));
  /** @typedef {{i: number, name: string, number: string, entropy: number, cost: number | null, cut: number}} Point */

  /** Whether no other setting is lower in entropy, cross-entropy and what is cut off. @param {Point} one @param {Point[]} all */
  const onFrontier = (one, all) => one.cost !== null && !all.some((other) => other.cost !== null
    && other.entropy <= one.entropy && other.cost <= /** @type {number} */ (one.cost) && other.cut <= one.cut
    && (other.entropy < one.entropy || other.cost < /** @type {number} */ (one.cost) || other.cut < one.cut));

  /**
   * Names beside points where they cover nothing, those of the frontier first.
   * @param {{x: number, y: number, r: number, texts: string[]}[]} points @param {Plot} plot
   */
  const namesBeside = (points, plot) => {
    /** @type {number[][]} */
    const taken = points.map(({ x, y, r }) => [x - r, y - r, x + r, y + r]);
    /** @type {Element[]} */
    const made = [];
    for (const { x, y, r, texts } of points) {
      place: for (const text of texts) {
        const wide = LETTER_PX * text.length;
        for (const [left, low] of [[x + r + 3, y + 4], [x - r - 3 - wide, y + 4], [x + r, y - r], [x + r, y + r + 8], [x - wide / 2, y - r - 3], [x - wide / 2, y + r + 12]]) {
          const box = [left, low - 10, left + wide, low + 2];
          const free = box[0] >= plot.left && box[2] <= plot.right + 12 && box[1] >= plot.top && box[3] <= plot.bottom
            && taken.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
          if (!free) continue;
          taken.push(box);
          made.push(label(left, low, text));
          break place;
        }
      }
    }
    return made;
  };

  /**
   * Cross-entropy of the text's covered tokens against entropy.
   * @param {Point[]} settings @param {(i: number, byKey: boolean) => void} look
   */
  const frontier = (settings, look) => {
    const drawnOnes = settings.filter(({ cost }) => cost !== null);
    const best = new Set(drawnOnes.filter((one) => onFrontier(one, settings)));
    const inOrder = [...drawnOnes].sort((a, b) => a.entropy - b.entropy || a.i - b.i);
    let [chosen, beside] = [-1, -1];
    /** @type {Plot} */
    let plot;
    /** Ring a setting, and another one it is held against. @param {number} i @param {number} j */
    const mark = (i, j) => {
      [chosen, beside] = [i, j];
      for (const ring of svg.querySelectorAll(".seen")) ring.remove();
      for (const k of new Set([i, j])) {
        const one = settings[k];
        if (!one || one.cost === null) continue;
        svg.append(drawn("circle", { cx: plot.x(one.entropy), cy: plot.y(one.cost), r: radius(one.cut) + 4, class: `seen${k === i ? "" : " other"}` }));
      }
    };
    const { place, svg } = picture(
      `Cross-entropy against mean entropy of ${drawnOnes.length} settings, of which ${best.size} are on the frontier. Arrow keys go from setting to setting.`,
      (svg, width) => {
        const height = Math.min(440, Math.max(320, width * 0.8));
        const across = around([0, ...drawnOnes.map(({ entropy }) => entropy)]);
        plot = axes(svg, width, height, { label: "mean entropy of q (nats)", ...across },
          { label: "cross-entropy of the text's covered tokens (nats)", ...around(drawnOnes.map(({ cost }) => Number(cost))) });
        const [low, high] = [Math.max(across.from, ...[plot.bottom].map((y) => valueAt(plot, y))), Math.min(across.to, valueAt(plot, plot.top))];
        if (low < high) svg.append(drawn("line", { x1: plot.x(low), y1: plot.y(low), x2: plot.x(high), y2: plot.y(high), class: "reference" }));
        const points = [...drawnOnes].sort((a, b) => Number(best.has(a)) - Number(best.has(b)));
        svg.append(...points.map((one) => drawn("circle", { cx: plot.x(one.entropy), cy: plot.y(Number(one.cost)), r: radius(one.cut),
          class: `mark ${best.has(one) ? "a best" : "p"}`, "data-setting": one.i })));
        const named = points.reverse().filter((one) => drawnOnes.length <= NAMED || best.has(one)).slice(0, NAMED);
        svg.append(...namesBeside(named.map(({ entropy, cost, cut, name, number }) => ({
          x: plot.x(entropy), y: plot.y(Number(cost)), r: radius(cut), texts: drawnOnes.length > 12 || name.length > 32 ? [number] : [`${number} ${name}`, number],
        })), plot));
        mark(chosen, beside);
        return height;
      }, 540);
    walk(svg, (x, y) => {
      const away = drawnOnes.map(({ entropy, cost, cut }) => Math.hypot(plot.x(entropy) - x, plot.y(Number(cost)) - y) - radius(cut));
      const least = Math.min(...away);
      return least < 24 ? drawnOnes[away.indexOf(least)].i : -1;
    }, (key) => inOrder.length ? inOrder[stepAlong(inOrder.findIndex(({ i }) => i === chosen), inOrder.length, key)].i : -1, look);
    return { place, mark, best, missing: settings.length - drawnOnes.length };
  };

  /** The value of y at a place. @param {Plot} plot @param {number} at */
  const valueAt = (plot, at) => {
    const [zero, one] = [plot.y(0), plot.y(1)];
    return (at - zero) / (one - zero);
  };

  /** From where on each shade but the first is used: round steps below the largest value, of which rounding leaves something. @param {number} largest */
  const levels = (largest) => {
    if (largest < 1e-6) return [];
    const power = Math.floor(Math.log10(largest));
    const steps = [1, 0, -1, -2, -3].flatMap((down) => [5, 2, 1].map((times) => times * 10 ** (power + down)));
    return steps.filter((one) => one < largest).slice(0, SHADES.length - 1).reverse();
  };

  /**
   * A matrix of each pair, whose cells are looked at one by one.
   * @param {any} record @param {Point[]} settings @param {(i: number, j: number, byKey: boolean) => void} look
   */
  const matrix = (record, settings, look) => {
    const every = Math.ceil(settings.length / MOST);
    const some = settings.filter(({ i }) => i % every === 0);
    const count = some.length;
    let measure = MEASURES[0];
    /** @type {[number, number]} */
    let chosen = [-1, -1];
    let [left, top, cell] = [0, 0, 0];
    const [row, column, seen] = ["band", "band", "seen"].map((name) => drawn("rect", { class: name }));
    const legend = element("div", "shades");
    /** @param {number} i @param {number} j */
    const mark = (i, j) => {
      chosen = [i, j];
      const [across, down] = [some.findIndex((one) => one.i === j), some.findIndex((one) => one.i === i)];
      for (const one of [row, column, seen]) one.remove();
      /** @param {Element} one @param {number} x @param {number} y @param {number} wide @param {number} high */
      const put = (one, x, y, wide, high) => {
        for (const [name, value] of Object.entries({ x, y, width: wide, height: high })) one.setAttribute(name, String(value));
        svg.append(one);
      };
      if (down >= 0) put(row, left, top + cell * down, cell * count, cell);
      if (across >= 0) put(column, left + cell * across, top, cell, cell * count);
      if (down >= 0 && across >= 0) put(seen, left + cell * across, top + cell * down, cell, cell);
    };
    /** @param {SVGElement} svg @param {number} width */
    const draw = (svg, width) => {
      left = 14 + LETTER_PX * (String(settings.length).length + 2);
      top = 34;
      cell = Math.min(64, (width - left - 2) / count);
      const values = some.map(({ i }) => some.map(({ i: j }) => /** @type {number | null} */ (record[measure.key][i][j])));
      const from = levels(Math.max(0, ...values.flat().map((value) => value ?? 0)));
      svg.append(drawn("defs", {}, drawn("pattern", { id: "infinite", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        drawn("line", { x1: 3, x2: 3, y1: 0, y2: 6 }))));
      const text = drawn("g", { class: "axes", "aria-hidden": "true" }, label(left, TEXT_PX, "to setting j", "start", "name"), label(0, top - 6, "i", "start", "name"));
      const skip = Math.ceil(LETTER_PX * 4 / cell);
      const skipDown = Math.ceil(13 / cell);
      values.forEach((line, down) => {
        if (down % skipDown === 0) text.append(label(left - 5, top + cell * (down + 0.5) + 4, some[down].number, "end"));
        if (down % skip === 0) text.append(label(left + cell * (down + 0.5), top - 6, some[down].number, "middle"));
        line.forEach((value, across) => {
          const shade = value === null ? "infinite" : SHADES[from.filter((start) => start <= value).length];
          const [x, y] = [left + cell * across, top + cell * down];
          svg.append(drawn("rect", { x, y, width: cell, height: cell, class: `cell ${shade}`, "data-pair": `${some[down].i} ${some[across].i}` }));
          if (cell >= 34) svg.append(label(x + cell / 2, y + cell / 2 + 4, value === null ? "∞" : value.toFixed(2), "middle", `on ${shade}`));
        });
      });
      svg.append(text);
      legend.replaceChildren(...[0, ...from].map((start, i) => element("span", SHADES[i], i && i === from.length ? `from ${rounded(start)}${measure.unit}`
        : i ? `${rounded(start)} to ${rounded(from[i])}` : from.length ? `below ${rounded(from[0])}` : "below 1e-6")),
        ...values.flat().includes(null) ? [element("span", "hatched", element("b", "", "∞ infinite"))] : []);
      svg.setAttribute("aria-label", `${measure.says} of each pair of ${count} settings, as a map of ${count} by ${count} cells. Arrow keys go from cell to cell.`);
      return top + cell * count + 4;
    };
    const { place, svg, again } = picture("", draw, 640);
    walk(svg, (x, y) => {
      const [across, down] = [Math.floor((x - left) / cell), Math.floor((y - top) / cell)];
      return across >= 0 && across < count && down >= 0 && down < count ? down * count + across : -1;
    }, (key) => {
      const at = [some.findIndex((one) => one.i === chosen[0]), some.findIndex((one) => one.i === chosen[1])].map((one) => Math.max(0, one));
      if (key === "Home") return at[0] * count;
      if (key === "End") return at[0] * count + count - 1;
      const axis = key === "ArrowLeft" || key === "ArrowRight" ? 1 : 0;
      if (chosen[0] >= 0) at[axis] += { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[key] ?? 0;
      const [i, j] = at.map((one) => Math.min(count - 1, Math.max(0, one)));
      return i * count + j;
    }, (part, byKey) => look(some[Math.floor(part / count)].i, some[part % count].i, byKey));
    return { place: element("div", "", place, legend), mark, skipped: settings.length - count,
      /** @param {Measure} next */
      choose: (next) => {
        measure = next;
        again();
        mark(...chosen);
      } };
  };

  /** A round number as text. @param {number} value */
  const rounded = (value) => value < 1e-4 ? value.toExponential(0) : String(Number(value.toPrecision(3)));

  /** Radio buttons, one for each measure. @param {(measure: Measure) => void} choose */
  const chooser = (choose) => element("fieldset", "chooser", element("legend", "", "Matrix of"), ...MEASURES.map((measure, i) => {
    const button = /** @type {HTMLInputElement} */ (element("input"));
    button.type = "radio";
    button.name = "measure";
    button.checked = i === 0;
    button.addEventListener("change", () => choose(measure));
    return element("label", "", button, ` ${measure.symbol}: ${measure.says}`);
  }));

  /** The figures of a setting. @param {any} record @param {Point} one @param {boolean} best */
  const figures = (record, { i, name, number }, best) => [
    element("p", "said", `${number} ${spelled(name)}`),
    table([], [
      ["mean entropy (nats)", withError(record.entropy_nats[i], record.entropy_standard_error[i])],
      ["effective choices", shown(record.effective_choices[i], 2)],
      ["tokens kept", shown(record.kept[i], 1)],
      ["mass kept", percent(record.kept_mass[i])],
      ["text's tokens covered", percent(record.coverage[i])],
      ["cross-entropy (nats)", orInfinite(record.cross_entropy_nats[i])],
      ["of covered tokens (nats)", record.covered_cross_entropy_nats[i] === null ? "-" : shown(record.covered_cross_entropy_nats[i])],
      ["on the frontier", best ? "yes" : "no"],
    ]),
  ];

  /** @param {number} value @param {number | null} error */
  const withError = (value, error) => error === null ? shown(value) : `${shown(value)} ± ${shown(error)}`;

  /** The figures of a pair. @param {any} record @param {Point} one @param {Point} other */
  const pair = (record, one, other) => {
    const [i, j] = [one.i, other.i];
    /** @type {[Point, Point][]} */
    const ways = [[one, other], [other, one]];
    /** @param {Point} a @param {Point} b */
    const name = (a, b) => `KL(${a.number}‖${b.number})`;
    return [
      element("p", "said", `i = ${one.number} ${spelled(one.name)}`, element("br"), `j = ${other.number} ${spelled(other.name)}`),
      table([], [
        ...ways.map(([a, b]) => [`${name(a, b)}, nats`, orInfinite(record.kl_nats[a.i][b.i])]),
        ["Jensen-Shannon, nats", shown(record.js_nats[i][j])],
        ["total variation", shown(record.total_variation[i][j])],
      ]),
      ...ways.filter(([a, b]) => record.kl_nats[a.i][b.i] === null).map(([a, b]) => {
        const where = record.kl_where_finite_nats[a.i][b.i];
        return element("p", "", `${name(a, b)} is finite at ${percent(record.kl_finite_share[a.i][b.i])} of the positions${where === null ? "" : `, there ${shown(where)} nats`}.`);
      }),
    ];
  };

  views["compare"] = ({ data: record }, place) => {
    const settings = settingsOf(record);
    const card = panel("setting");
    const above = frontier(settings, (i, byKey) => {
      above.mark(i, i);
      below.mark(i, i);
      card.replaceChildren(...figures(record, settings[i], above.best.has(settings[i])));
      if (byKey) say(`${settings[i].name}: entropy ${shown(settings[i].entropy)}, cross-entropy of covered tokens ${shown(settings[i].cost ?? NaN)} nats, covers ${percent(1 - settings[i].cut)}`);
    });
    let measure = MEASURES[0];
    const below = matrix(record, settings, (i, j, byKey) => {
      above.mark(i, j);
      below.mark(i, j);
      card.replaceChildren(...i === j ? figures(record, settings[i], above.best.has(settings[i])) : pair(record, settings[i], settings[j]));
      if (byKey) say(`${measure.symbol} of ${settings[i].name} and ${settings[j].name}: ${orInfinite(record[measure.key][i][j])}`);
    });
    const legend = element("p", "", element("span", "side a", "● frontier: no other setting is lower in entropy, cross-entropy and share of tokens cut off"),
      " · the larger a mark, the more of the text's tokens are cut off · on the dotted line the text is as surprising as q expects; above it, q is too sure");
    const best = [...above.best].sort((a, b) => a.i - b.i).map(({ number, name }) => `${number} ${name}`);
    place.append(element("div", "beside", element("div", "",
      element("h2", "", "Entropy and cross-entropy"), legend,
      ...best.length && best.length <= 12 ? [element("p", "", `On the frontier: ${best.join(" · ")}`)] : [], above.place,
      ...above.missing ? [element("p", "", `${above.missing} of ${settings.length} settings cover no token of the text and have no mark.`)] : [],
      ...settings.length < 2 ? [] : [
        element("h2", "", "Each pair"),
        chooser((next) => {
          measure = next;
          below.choose(next);
        }),
        ...below.skipped ? [element("p", "", `${settings.length - below.skipped} of ${settings.length} settings are shown.`)] : [],
        below.place]), card));
  };
}
