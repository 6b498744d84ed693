// Checks of a set-up, those that failed first.
{
  /** @typedef {{name: string, status: "pass" | "fail" | "skipped", figure: number | null, limit: number | null, message: string}} Check */
  const STATUSES = /** @type {const} */ (["fail", "skipped", "pass"]);
  const WORDS = { fail: "✗ FAIL", skipped: "– skipped", pass: "✓ pass" };

  /** A small number for people. @param {number} value */
  const small = (value) => value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));

  /** One check. @param {Check} check */
  const item = ({ name, status, figure, limit, message }) => element("li", status,
    element("b", "status", WORDS[status]),
    element("div", "", element("b", "", name), element("p", "", message),
      ...figure === null && limit === null ? [] : [element("p", "", [
        ...figure === null ? [] : [`figure ${small(figure)}`], ...limit === null ? [] : [`limit ${small(limit)}`]].join(", "))]));

  views["doctor"] = ({ data: record }, place) => {
    const checks = /** @type {Check[]} */ (record.checks);
    place.append(element("h2", "", "Checks"), element("ul", "checks",
      ...STATUSES.flatMap((status) => checks.filter((check) => check.status === status)).map(item)));
    if (record.notes.length) {
      place.append(element("h2", "", "Notes"), element("ul", "",
        ...record.notes.map((/** @type {string} */ note) => element("li", "", spelled(note)))));
    }
  };
}
