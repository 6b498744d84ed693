// Answers to a prompt, by what they mean; and how well estimators tell right answers from wrong ones.
{
  /**
   * @typedef {{text: string, count: number, at: number}} Answer  `at` is its place among the texts
   * @typedef {{share: number, answers: Answer[]}} Cluster
   * @typedef {{prompt: string | null, context: string | null, greedy: string | null, facts: string[][],
   *   clusters: Cluster[], clustering: string, estimators: Table[]}} Answered
   */

  views["uncertainty"] = (entry, place) => {
    const { prompt, context, greedy, facts, clusters, clustering, estimators } = /** @type {Answered} */ (entry.data);
    const shown = Boolean(entry.texts?.length);
    /** An answer, which shows its tokens where they are known. @param {string} said @param {number} at @param {number} count */
    const answer = (said, at, count = 1) => {
      const parts = [element("bdi", "", said || "(empty)"), count > 1 ? ` × ${count}` : ""];
      return shown ? textButton(at, ...parts) : element("div", "answer", ...parts);
    };
    const list = element("ol", "clusters", ...clusters.map(({ share, answers }) => {
      const bar = element("i");
      bar.style.width = `${100 * share}%`;
      return element("li", "", element("div", "bar q", element("span"), element("span", "", bar), element("b", "", percent(share))),
        element("div", "", ...answers.map(({ text: said, at, count }) => answer(said, at, count))));
    }));
    place.append(
      element("h2", "", "The prompt"),
      ...[context, prompt ?? "(no row says it)"].map((one) => one === null ? "" : prose(one)),
      table([], facts.map(([name, sign, words]) => [name, element("span", "", sign ? `${sign} ${words}` : words)]), [false, false]),
      element("h2", "", "Answers"),
      ...greedy === null ? [] : [element("p", "", "The greedy one, at each step the most probable token:"), answer(greedy, 0)],
      element("p", "", `Samples, sorted by ${clustering}: each cluster with its share of them, the largest first.${shown ? " Choose an answer to see its tokens." : " Records that were written with --page-data show the tokens of each."}`),
      list,
      element("details", "", element("summary", "", `${estimators[0].rows.length} estimators of uncertainty`), ...estimators.map(framed)),
      ...overview(entry),
    );
  };

  /** All prompts that were answered with one, the least sure first, each a way to its record. @param {Entry} entry */
  function overview(entry) {
    const here = data.entries.indexOf(entry);
    /** @param {Entry | undefined} one */
    const answers = (one) => one?.view === "uncertainty" ? /** @type {Answered} */ (one.data) : null;
    let [from, to] = [answers(entry) ? here : here - 1, here + 1];
    while (answers(data.entries[from - 1])) from--;
    while (answers(data.entries[to])) to++;
    const all = data.entries.slice(from, to).flatMap((one, i) => {
      const known = answers(one);
      return known ? [{ at: from + i, title: one.title, known }] : [];
    });
    if (all.length < 2) return [];
    const list = chooser(Object.fromEntries(all[0].known.estimators[0].rows.map(([name, , , unit]) => [name, `${name} (${unit})`])));
    const place = element("div");
    const draw = () => {
      const found = all.map(({ at, title, known }) => {
        const said = known.estimators[0].rows.find(([name]) => name === list.value)?.[1] ?? "-";
        const value = Number(said.replaceAll(",", ""));
        return { at, title, said, value: Number.isNaN(value) ? -Infinity : value, correct: known.facts.find(([name]) => name === "correct")?.[1] || "-" };
      }).sort((one, other) => one.value < other.value ? 1 : one.value > other.value ? -1 : one.at - other.at);
      place.replaceChildren(table(["prompt", "value", "correct"], found.map(({ at, title, said, correct }) => {
        const button = element("button", "way", element("bdi", "", title));
        button.setAttribute("type", "button");
        button.addEventListener("click", () => chooseEntry(at));
        return [button, said, correct];
      }), [false, true, false]));
    };
    list.addEventListener("change", draw);
    draw();
    const made = /** @type {HTMLDetailsElement} */ (element("details", "overview", element("summary", "", `All ${all.length.toLocaleString("en")} prompts, the least sure first`),
      element("label", "", "By ", list), place));
    made.open = !answers(entry);
    return [made];
  }

  /** A text of some length, which can be scrolled. @param {string} said */
  function prose(said) {
    const made = element("div", "prose", said);
    made.dir = "auto";
    made.tabIndex = 0;
    return made;
  }

  /**
   * @typedef {{coverage: number[], risk: number[]}} RiskCurve
   * @typedef {[number, number] | null} Ends  of an interval
   * @typedef {{prompts: number, auroc: number | null, auroc_interval: Ends, prr: number | null, prr_interval: Ends,
   *   aurc: number | null, risk_coverage: RiskCurve, note: string | null}} Evaluated
   * @typedef {{risk: number | null, oracle: {aurc: number | null, risk_coverage: RiskCurve}, estimators: Record<string, Evaluated>,
   *   votes: Record<string, {prompts: number, accuracy: number, accuracy_interval: Ends}>,
   *   abstention?: {estimator: string, kept: number, threshold: number | null}, promise: string[]}} Evaluation
   */

  views["uncertainty-evaluation"] = (entry, place) => {
    const evaluation = /** @type {Evaluation} */ (entry.data);
    const known = Object.entries(evaluation.estimators).filter(([, { prompts }]) => prompts);
    const votes = Object.entries(evaluation.votes);
    place.append(...overview(entry), ...telling(known), ...known.length && evaluation.risk !== null ? riskCoverage(evaluation, known) : []);
    if (votes.length > 1) {
      const lines = votes.map(([name, { accuracy, accuracy_interval }]) => intervalLine(name, accuracy, accuracy_interval));
      place.append(element("h2", "", "Which answer to give"),
        element("p", "", "How often the answer is correct that is chosen greedily, or by the votes of the samples, weighed by a confidence; intervals are of 95 %."),
        intervals("Accuracy by how the answer is chosen", lines, { label: "accuracy", from: 0, to: 1 }));
    }
  };

  /** @param {string} name @param {number} value @param {Ends} ends */
  function intervalLine(name, value, ends) {
    const [low, high] = ends ?? [null, null];
    const said = shown(value) + (low === null || high === null ? "" : ` (${shown(low)} to ${shown(high)})`);
    return { name, value, low: low ?? value, high: high ?? value, said };
  }

  /** How well each estimator tells right answers from wrong ones, by a figure that is chosen. @param {[string, Evaluated][]} known */
  function telling(known) {
    const drawing = element("div");
    const figure = chooser({ auroc: "AUROC: how often a wrong answer is less sure than a right one", prr: "PRR: 1 where rejecting the unsure is as good as knowing the wrong, 0 as chance" });
    const draw = () => {
      const by = /** @type {"auroc" | "prr"} */ (figure.value);
      const defined = known.filter(([, one]) => one[by] !== null);
      const lines = defined.sort(([, one], [, other]) => (other[by] ?? 0) - (one[by] ?? 0))
        .map(([name, one]) => intervalLine(name, one[by] ?? NaN, one[`${by}_interval`]));
      const { from, to } = around(lines.flatMap(({ value, low, high }) => [value, low, high]));
      const axis = by === "auroc" ? { label: "AUROC", from: 0, to: 1 } : { label: "PRR", from: Math.min(from, 0), to: Math.max(to, 1) };
      const undefinedOnes = known.filter(([, one]) => one[by] === null);
      drawing.replaceChildren(
        ...lines.length ? [intervals(`${by.toUpperCase()} of each estimator, with intervals of 95 %`, lines, axis, by === "auroc" ? 0.5 : 0)] : [],
        ...undefinedOnes.length ? [element("p", "", `Undefined for ${undefinedOnes.map(([name]) => name).join(", ")}: ${undefinedOnes[0][1].note ?? "too few answers"}.`)] : [],
      );
    };
    figure.addEventListener("change", draw);
    draw();
    return [element("h2", "", "Which estimator tells right answers from wrong ones?"), element("label", "", "Figure ", figure),
      element("p", "", "The best one first; intervals are of 95 %, and the line marks chance."), drawing];
  }

  /** A list to choose from. @param {Record<string, string>} options by value */
  function chooser(options) {
    const list = /** @type {HTMLSelectElement} */ (element("select"));
    list.append(...Object.entries(options).map(([value, words]) => {
      const option = /** @type {HTMLOptionElement} */ (element("option", "", words));
      option.value = value;
      return option;
    }));
    return list;
  }

  /** The risk of the answers that are kept, by how many are. @param {Evaluation} evaluation @param {[string, Evaluated][]} known */
  function riskCoverage({ risk, oracle, abstention, promise }, known) {
    const ordered = [...known].sort(([, one], [, other]) => (one.aurc ?? Infinity) - (other.aurc ?? Infinity));
    const list = chooser(Object.fromEntries(ordered.map(([name, { aurc }]) => [name, `${name} (area ${shown(aurc ?? NaN)})`])));
    if (abstention && abstention.estimator in Object.fromEntries(known)) list.value = abstention.estimator;
    const said = element("p", "figures");
    const drawing = element("div");
    const draw = () => {
      const own = Object.fromEntries(known)[list.value].risk_coverage;
      const kept = abstention?.estimator === list.value && abstention.threshold !== null ? abstention.kept : 0;
      drawing.replaceChildren(riskPicture(list.value, own, ordered.map(([, one]) => one.risk_coverage), oracle.risk_coverage, risk ?? 0, kept, said));
    };
    list.addEventListener("change", draw);
    draw();
    return [element("h2", "", "Risk and coverage"), element("label", "", "Keep the answers of which it is surest: ", list),
      element("p", "", "Point at the curve, or walk along it with the arrow keys."),
      element("div", "scale", ...[["curve-key a", "this estimator"], ["curve-key other", "the others"], ["curve-key oracle", "a perfect order"], ["curve-key chance", "a random order"],
        ...abstention && abstention.threshold !== null ? [["curve-key kept", "kept by the threshold"]] : []].map(([name, words]) => element("span", name, words))),
      drawing, said, ...promise.map((line) => element("p", "promise", line))];
  }

  /**
   * @param {string} name @param {RiskCurve} own @param {RiskCurve[]} others @param {RiskCurve} oracle @param {number} chance
   * @param {number} kept answers below the threshold, or 0 @param {HTMLElement} said says a point
   */
  function riskPicture(name, own, others, oracle, chance, kept, said) {
    let at = -1;
    /** @type {Plot | null} */
    let plot = null;
    const mark = drawn("circle", { r: 5, class: "mark a" });
    const count = own.coverage.length;
    /** @param {number} i */
    const words = (i) => `The ${(i + 1).toLocaleString("en")} surest of ${count.toLocaleString("en")} answers (${percent(own.coverage[i])}): risk ${shown(own.risk[i])}`
      + `; a perfect order ${shown(oracle.risk[Math.min(oracle.risk.length, Math.max(1, Math.round(own.coverage[i] * oracle.risk.length))) - 1])}, a random one ${shown(chance)}.`;
    const place = () => {
      if (at < 0 || !plot) return;
      mark.setAttribute("cx", String(plot.x(own.coverage[at])));
      mark.setAttribute("cy", String(plot.y(own.risk[at])));
    };
    // The first few answers say little, and do not set the scale.
    const highest = Math.max(0.05, chance, ...[own, ...others].flatMap(({ risk }) => risk.slice(Math.floor(risk.length / 20))));
    const made = picture(`Risk by coverage for ${name}: ${shown(own.risk[0])} for the surest answer, ${shown(own.risk[count - 1])} for all; a random order has ${shown(chance)}.`, (svg, width) => {
      const height = Math.min(420, Math.max(260, 0.6 * width));
      const drawing = axes(svg, width, height, { label: "coverage: share of answers kept", from: 0, to: 1 },
        { label: "risk: mean of 1 − quality", from: 0, to: Math.min(1.02, 1.08 * highest) });
      plot = drawing;
      /** @param {RiskCurve} one @returns {[number, number][]} */
      const points = (one) => one.coverage.map((coverage, i) => [drawing.x(coverage), drawing.y(Math.min(one.risk[i], 1.08 * highest))]);
      for (const one of others) if (one !== own) svg.append(curve(points(one), "other"));
      svg.append(drawn("line", { x1: drawing.left, x2: drawing.right, y1: drawing.y(chance), y2: drawing.y(chance), class: "curve chance" }),
        curve(points(oracle), "oracle"), curve(points(own), "a"));
      if (kept) {
        const x = drawing.x(own.coverage[kept - 1]);
        svg.append(drawn("line", { x1: x, x2: x, y1: drawing.top, y2: drawing.bottom, class: "curve kept" }));
      }
      if (count === 1) at = 0;
      svg.append(mark);
      place();
      return height;
    });
    /** @param {number} i */
    const show = (i, byKey = false) => {
      at = i;
      place();
      said.textContent = words(i);
      if (byKey) say(words(i));
    };
    const { svg } = made;
    walk(svg, (x) => {
      if (!plot) return -1;
      const share = (x - plot.left) / (plot.right - plot.left);
      return Math.min(count - 1, Math.max(0, Math.round(share * count) - 1));
    }, (key) => stepAlong(at, count, key), show);
    show(kept ? kept - 1 : count - 1);
    return made.place;
  }
}
