// Answers to a prompt, by what they mean; and how well estimators tell right answers from wrong ones.

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
    element("p", "", `Samples, sorted by ${clustering}: each cluster with its share of them, the largest first.${shown ? " Choose an answer to see its tokens." : ""}`),
    list,
    element("details", "", element("summary", "", `${estimators[0].rows.length} estimators of uncertainty`), ...estimators.map(framed)),
  );
};

/** A text of some length, which can be scrolled. @param {string} said */
function prose(said) {
  const made = element("div", "prose", said);
  made.dir = "auto";
  made.tabIndex = 0;
  return made;
}
