// Two models beside each other: how their differences are spread over the tokens.
{
  /** @typedef {{key: string, title: string, unit: string, says: (name: string, value: string) => string}} Spread */
  /** @type {Spread[]} */
  const SPREADS = [
    { key: "kl_percentiles_nats", title: "KL(A‖B)", unit: " nats", says: (share, value) => `${share} of the tokens have a KL of ${value} or less` },
    { key: "delta_p_percentiles", title: "Δp of the true token, B − A", unit: "", says: (share, value) => `${share} of the tokens have a Δp of ${value} or less` },
  ];

  /** The percentiles with their names, the least first. @param {Record<string, number | null>} of @returns {[string, number | null][]} */
  const inOrder = (of) => {
    const names = Object.keys(of).filter((name) => name !== "min" && name !== "max").sort((a, b) => Number(a) - Number(b));
    return ["min", ...names, "max"].map((name) => [name, of[name]]);
  };

  /** A figure for people, which is null where it is infinite. @param {number | null} value @param {string} unit */
  const figure = (value, unit) => value === null ? "infinite" : (value < 0 ? "-" : "") + shown(Math.abs(value), 4) + unit;

  /** The percentiles of one figure. @param {Spread} spread @param {any} record @param {HTMLElement} card */
  const percentiles = ({ key, title, unit, says }, record, card) => {
    const points = inOrder(record[key]);
    const finite = points.flatMap(([, value]) => value === null ? [] : [value]);
    const above = finite.filter((value) => value > 0);
    // From a hundredfold on, powers of ten; a percentile of 0 then stands at the bottom.
    const log = finite.every((value) => value >= 0) && Math.max(...above, 0) > 100 * Math.min(...above);
    let at = -1;
    /** @type {Plot} */
    let plot;
    /** @param {number} i @returns {[number, number]} */
    const point = (i) => {
      const value = points[i][1];
      return [plot.x(i), value === null ? plot.top : log && value <= 0 ? plot.bottom : Math.min(plot.bottom, plot.y(value))];
    };
    const seen = drawn("circle", { r: 9, class: "seen" });
    const mark = () => {
      if (at < 0) return;
      const [cx, cy] = point(at);
      seen.setAttribute("cx", String(cx));
      seen.setAttribute("cy", String(cy));
      svg.append(seen);
    };
    const { place, svg } = picture(
      `Percentiles of ${title} over the tokens: ${points.map(([name, value]) => `${name} ${figure(value, unit)}`).join(", ")}. Arrow keys go from one to the next.`,
      (svg, width) => {
        const height = 260;
        const ticks = points.map(([name], i) => /** @type {Tick} */ ([i, width < 420 && i % 2 ? "" : name]));
        plot = axes(svg, width, height, { label: "percentile of the tokens", from: -0.3, to: points.length - 0.7, ticks },
          { label: `${title}${unit && ` (${unit.trim()})`}`, ...around(log ? above : [...finite, 0], log) });
        if (!log) svg.append(drawn("line", { x1: plot.left, x2: plot.right, y1: plot.y(0), y2: plot.y(0), class: "reference" }));
        const all = points.map((_, i) => point(i));
        svg.append(curve(all, "a"), ...all.map(([cx, cy], i) => drawn("circle", { cx, cy, r: 4.5, class: `mark a${points[i][1] === null ? " beyond" : ""}` })));
        mark();
        return height;
      }, 540);
    walk(svg, (x, y) => {
      const away = points.map((_, i) => Math.hypot(point(i)[0] - x, point(i)[1] - y));
      const least = Math.min(...away);
      return least < 40 ? away.indexOf(least) : -1;
    }, (key) => stepAlong(at, points.length, key), (part, byKey) => {
      at = part;
      mark();
      const [name, value] = points[part];
      const share = name === "min" ? "None" : name === "max" ? "All" : `${name} %`;
      const sentence = name === "min" ? `The least of all tokens: ${figure(value, unit)}` : says(share, figure(value, unit));
      card.replaceChildren(element("p", "said", `${title}: ${name}${name === "min" || name === "max" ? "" : " %"}`), element("p", "", `${sentence}.`));
      if (byKey) say(sentence);
    });
    return place;
  };

  views["compare-models"] = ({ data: record }, place) => {
    const card = panel("percentile");
    place.append(element("div", "beside", element("div", "", ...SPREADS.flatMap((spread) => [
      element("h2", "", spread.title), percentiles(spread, record, card)])), card));
  };
}
