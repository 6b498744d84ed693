// A fitted temperature: with its errors on an axis, and reliability before and after.
{
  /** @typedef {{confidence: number, accuracy: number, count: number}} Bin */
  /** @typedef {{when: "before" | "after", side: "a" | "b", name: string, bins: Bin[]}} Series */

  /** The bounds of an interval that may be unknown, and how it is said. @param {(number | null)[] | null} interval */
  const bounds = (interval) => interval && {
    low: interval[0], high: interval[1],
    said: `${interval[0] === null ? "-" : shown(interval[0])} to ${interval[1] === null ? "unbounded" : shown(interval[1])}`,
  };

  /** The temperature and its intervals of 95 %. @param {any} record */
  const temperatures = (record) => {
    const lines = [
      ["likeliest, by Fisher information", record.temperature, bounds(record.confidence_interval)],
      ["likeliest, by bootstrap over documents", record.temperature, bounds(record.bootstrap_interval)],
      [`MAP, prior ${record.prior_median} with scale ${record.prior_scale}`, record.map_temperature, bounds(record.map_interval)],
    ].filter(([, value, interval]) => value !== null && interval)
      .map(([name, value, interval]) => ({ name, value, ...interval, said: `${shown(value)} (${interval.said})` }));
    const values = lines.flatMap(({ value, low, high }) => [value, low, high]).filter((one) => one !== null);
    return intervals("Temperature with intervals of 95 %", lines, { label: "temperature", ...around([...values, 1]) }, 1);
  };

  /** How far a bin is off. @param {Bin} bin */
  const excess = ({ confidence, accuracy }) => accuracy - confidence;

  /** What a bin says, unless chance alone would: two deviations of as many independent tokens. @param {Bin} bin */
  const verdict = (bin) => {
    const chance = 2 * Math.sqrt(bin.confidence * (1 - bin.confidence) / bin.count);
    if (Math.abs(excess(bin)) <= chance) return `No further off than chance alone would bring ${bin.count.toLocaleString("en")} tokens: ±${shown(chance)}.`;
    return excess(bin) < 0 ? "Too sure: the favourite came less often than its probability says."
      : "Not sure enough: the favourite came more often than its probability says.";
  };

  /** A difference for people, with its sign. @param {number} value */
  const signed = (value) => (value < 0 ? "-" : "+") + shown(Math.abs(value));

  /** Accuracy against confidence in bins, which are looked at one by one. @param {Series[]} series @param {HTMLElement} card */
  const reliability = (series, card) => {
    const parts = series.flatMap((one) => one.bins.map((bin, i) => ({ ...one, bin, i })));
    let at = -1;
    /** @type {Plot} */
    let plot;
    const seen = drawn("circle", { r: 9, class: "seen" });
    const mark = () => {
      if (at < 0) return;
      seen.setAttribute("cx", String(plot.x(parts[at].bin.confidence)));
      seen.setAttribute("cy", String(plot.y(parts[at].bin.accuracy)));
      svg.append(seen);
    };
    const { place, svg } = picture(
      `Reliability: accuracy against confidence in bins. ${series.map(({ name, bins }) => `${name}, ${bins.length} bins`).join("; ")}. Arrow keys go from bin to bin.`,
      (svg, width) => {
        const height = Math.min(width, 460);
        const unit = { from: 0, to: 1, ticks: /** @type {Tick[]} */ ([0, 0.2, 0.4, 0.6, 0.8, 1].map((value) => [value, String(value)])) };
        plot = axes(svg, width, height, { ...unit, label: "confidence: probability of the favourite token" },
          { ...unit, label: "accuracy: how often it is the one" });
        svg.append(drawn("line", { x1: plot.x(0), y1: plot.y(0), x2: plot.x(1), y2: plot.y(1), class: "reference" }));
        for (const { side, bins } of series) {
          const points = bins.map(({ confidence, accuracy }) => /** @type {[number, number]} */ ([plot.x(confidence), plot.y(accuracy)]));
          svg.append(curve(points, side), ...points.map(([x, y]) => side === "a"
            ? drawn("circle", { cx: x, cy: y, r: 4.5, class: "mark a" })
            : drawn("rect", { x: x - 4, y: y - 4, width: 8, height: 8, class: "mark b" })));
        }
        mark();
        return height;
      }, 540);
    walk(svg, (x, y) => {
      const away = parts.map(({ bin }) => Math.hypot(plot.x(bin.confidence) - x, plot.y(bin.accuracy) - y));
      const nearest = Math.min(...away);
      return nearest < 40 ? away.indexOf(nearest) : -1;
    }, (key) => stepAlong(at, parts.length, key), (part, byKey) => {
      at = part;
      mark();
      const { name, bin, i, bins, side } = parts[part];
      card.replaceChildren(
        element("p", `said ${side}`, `${name}: bin ${i + 1} of ${bins.length}`),
        table([], [["confidence", shown(bin.confidence)], ["accuracy", shown(bin.accuracy)],
          ["accuracy − confidence", signed(excess(bin))], ["tokens", bin.count.toLocaleString("en")]]),
        element("p", "", verdict(bin)),
      );
      if (byKey) say(`${name}, bin ${i + 1}: confidence ${shown(bin.confidence)}, accuracy ${shown(bin.accuracy)}, ${bin.count} tokens`);
    });
    return place;
  };

  /** Every bin, before and after. @param {Series[]} series */
  const allBins = (series) => element("details", "",
    element("summary", "", "All bins: of about equal size, the least confident first"),
    element("div", "frames", ...series.map(({ name, bins }) => framed({
      title: name, caption: "", head: ["bin", "confidence", "accuracy", "accuracy −\nconfidence", "tokens"],
      numeric: [false, true, true, true, true],
      rows: bins.map((bin, i) => [
        String(i + 1), shown(bin.confidence), shown(bin.accuracy), signed(excess(bin)), bin.count.toLocaleString("en"),
      ]),
    }))));

  views["calibrate"] = ({ data: record }, place) => {
    place.append(element("h2", "", "The temperature"),
      element("p", "", "The dotted line is 1, the model as it is."), temperatures(record));
    if (record.ece_before === null) return;
    /** @type {Series[]} */
    const series = [
      { when: "before", side: "b", name: "as it is", bins: record.reliability_before },
      { when: "after", side: "a", name: record.setting.split(",")[0], bins: record.reliability_after },
    ];
    const card = panel("bin");
    const legend = element("p", "", ...series.flatMap(({ side, name, when }) => [
      element("span", `side ${side}`, `${side === "a" ? "●" : "■"} ${name}: ECE ${shown(record[`ece_${when}`])}`), " · ",
    ]), "on the dotted line, probabilities are true; below it, the model is too sure of itself");
    place.append(element("h2", "", "Reliability"), legend,
      element("div", "beside", reliability(series, card), card), allBins(series));
  };
}
