// Pictures with axes: what those of several views share. A unit of theirs is a pixel of the screen,
// so that text has its size at any width.

/**
 * @typedef {[value: number, text: string]} Tick
 * @typedef {{label: string, from: number, to: number, log?: boolean, ticks?: Tick[]}} Axis
 *   what it is of, and from where to where; ticks where they are not the usual ones
 * @typedef {(value: number) => number} Scale  where a value stands
 * @typedef {{x: Scale, y: Scale, left: number, right: number, top: number, bottom: number}} Plot
 */

const TEXT_PX = 12;
/** How wide a letter is, at most on average. */
const LETTER_PX = 6.8;

/** Round values from one to another. @param {number} from @param {number} to @param {number} most @returns {Tick[]} */
function roundTicks(from, to, most) {
  const rough = (to - from) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((times) => times * power >= rough * (1 - 1e-9)) ?? 10);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(from / step - 1e-9);
  const count = Math.floor(to / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => {
    const value = (first + i) * step;
    return [value, value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })];
  });
}

/** Powers of ten from one value to another. @param {number} from @param {number} to @param {number} most @returns {Tick[]} */
function powerTicks(from, to, most) {
  const [first, last] = [Math.ceil(Math.log10(from) - 1e-9), Math.floor(Math.log10(to) + 1e-9)];
  const every = Math.ceil((last - first + 1) / most);
  return Array.from({ length: last - first + 1 }, (_, i) => first + i).filter((power) => (power - last) % every === 0)
    .map((power) => [10 ** power, power < -3 || power > 5 ? `1e${power}` : (10 ** power).toLocaleString("en", { maximumFractionDigits: 3 })]);
}

/** The ticks of an axis. @param {Axis} axis @param {number} most @returns {Tick[]} */
function ticksOf({ from, to, log, ticks }, most) {
  return ticks ?? (log ? powerTicks : roundTicks)(from, to, most);
}

/** Where the values of an axis stand. @param {Axis} axis @param {number} start @param {number} end @returns {Scale} */
function scaleOf({ from, to, log }, start, end) {
  /** @param {number} value */
  const along = (value) => log ? Math.log(value / from) / Math.log(to / from) : (value - from) / (to - from);
  return (value) => start + (end - start) * along(value);
}

/**
 * From where to where an axis goes that shows some values, with room at its ends; on a logarithmic
 * axis whole powers of ten, and values above 0 alone.
 * @param {number[]} values @param {boolean} log @returns {{from: number, to: number, log: boolean}}
 */
function around(values, log = false) {
  const kept = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let [low, high] = kept.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  if (!kept.length) [low, high] = log ? [0.1, 1] : [0, 1];
  if (log) {
    const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
    return { from: 10 ** first, to: 10 ** Math.max(last, first + 1), log };
  }
  const room = 0.06 * (high - low) || Math.max(Math.abs(low) / 2, 0.5);
  return { from: low - room, to: high + room, log };
}

/**
 * A picture as wide as there is room, drawn anew when that changes.
 * @param {string} name what it shows, in a sentence
 * @param {(svg: SVGElement, width: number) => number} draw into the empty element; gives the height
 * @param {number} most how wide at most
 */
function picture(name, draw, most = 640) {
  const svg = drawn("svg", { role: "img", "aria-label": name });
  const ruler = element("div");
  let width = 0;
  const again = () => {
    if (width < 1) return;
    svg.replaceChildren();
    const height = draw(svg, width);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", String(width));
  };
  new ResizeObserver(([{ contentRect }]) => {
    const next = Math.min(most, Math.floor(contentRect.width));
    if (next === width) return;
    width = next;
    again();
  }).observe(ruler);
  return { place: element("div", "picture", ruler, svg), svg, again };
}

/** Where the figures stand of what is looked at; before that, how to look. @param {string} what is looked at */
function panel(what) {
  const made = element("div", "panel", element("p", "", `No ${what} yet: point at one, tap it, or go with the arrow keys.`));
  made.tabIndex = 0;
  made.setAttribute("role", "region");
  made.setAttribute("aria-label", `Figures of the ${what}`);
  return made;
}

/** A text in a picture. @param {number} x @param {number} y @param {string} text @param {string} anchor @param {string} name its class */
function label(x, y, text, anchor = "start", name = "") {
  return drawn("text", { x, y, "text-anchor": anchor, class: name }, text);
}

/**
 * Draw two axes, from the left edge, with a line for each tick; the label of y stands above.
 * @param {SVGElement} svg @param {number} width @param {number} height @param {Axis} x @param {Axis} y @returns {Plot}
 */
function axes(svg, width, height, x, y) {
  const across = ticksOf(x, Math.max(2, Math.floor(width / 80)));
  const up = ticksOf(y, Math.max(2, Math.floor(height / 60)));
  const left = 8 + LETTER_PX * Math.max(...up.map(([, text]) => text.length));
  const box = { left, right: width - 14, top: 26, bottom: height - 40 };
  const plot = { ...box, x: scaleOf(x, left, box.right), y: scaleOf(y, box.bottom, box.top) };
  const group = drawn("g", { class: "axes", "aria-hidden": "true" });
  for (const [value, text] of across) {
    const at = plot.x(value);
    group.append(drawn("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }), label(at, box.bottom + 16, text, "middle", "x"));
  }
  for (const [value, text] of up) {
    const at = plot.y(value);
    group.append(drawn("line", { x1: left, x2: box.right, y1: at, y2: at }), label(left - 6, at + 4, text, "end", "y"));
  }
  group.append(label(0, TEXT_PX, y.label, "start", "name"), label(box.right, height - 6, x.label, "end", "name"));
  svg.append(group);
  return plot;
}

/** A line through points. @param {[number, number][]} points @param {string} name its class */
function curve(points, name) {
  return drawn("polyline", { points: points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" "), class: `curve ${name}` });
}

const WALKED = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"]);

/**
 * Let parts of a picture be looked at: with the mouse, by a tap, and by keys once it has the focus.
 * A click keeps what is shown until the next one.
 * @param {SVGElement} svg
 * @param {(x: number, y: number) => number} nearest the number of the part at a point, or -1
 * @param {(key: string) => number} step the part that a key leads to from what is shown, or -1
 * @param {(part: number, byKey: boolean) => void} show
 */
function walk(svg, nearest, step, show) {
  let kept = -1;
  let mouse = [NaN, NaN];
  svg.setAttribute("role", "application");
  svg.setAttribute("tabindex", "0");
  /** @param {MouseEvent} event */
  const under = (event) => {
    const box = svg.getBoundingClientRect();
    const shrunk = Number(svg.getAttribute("width")) / box.width;
    return nearest((event.clientX - box.left) * shrunk, (event.clientY - box.top) * shrunk);
  };
  svg.addEventListener("pointermove", (event) => {
    // What comes to lie under a mouse that rests is not pointed at.
    const moved = event.clientX !== mouse[0] || event.clientY !== mouse[1];
    mouse = [event.clientX, event.clientY];
    const part = kept < 0 && moved && event.pointerType === "mouse" ? under(event) : -1;
    if (part >= 0) show(part, false);
  });
  svg.addEventListener("click", (event) => {
    const part = under(event);
    kept = part === kept ? -1 : part;
    if (part >= 0) show(part, false);
  });
  svg.addEventListener("keydown", (event) => {
    if (!WALKED.has(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const part = step(event.key);
    if (part < 0) return;
    kept = -1;
    show(part, true);
  });
}

/**
 * The steps of keys through parts that stand in a row.
 * @param {number} from -1 where none is shown @param {number} count @param {string} key
 */
function stepAlong(from, count, key) {
  /** @type {Record<string, number>} */
  const goal = { Home: 0, End: count - 1, ArrowRight: from + 1, ArrowUp: from + 1, ArrowLeft: from - 1, ArrowDown: from - 1,
    PageDown: from + 10, PageUp: from - 10 };
  return Math.min(count - 1, Math.max(0, goal[key]));
}

/**
 * Values and their intervals on one axis, a line for each; a bound that is null lies beyond it.
 * @param {string} name what is shown, in a sentence
 * @param {{name: string, value: number | null, low: number | null, high: number | null, said: string}[]} lines
 *   `said` are the figures as text
 * @param {Axis} axis @param {number | null} mark a value to hold them against
 */
function intervals(name, lines, axis, mark = null) {
  return picture(`${name}: ${lines.map((line) => `${line.name} ${line.said}`).join("; ")}.`, (svg, width) => {
    const [left, right] = [10, width - 10];
    // Figures stand behind the name where there is room, else below it.
    const below = lines.some((line) => LETTER_PX * (line.name.length + line.said.length + 3) > right - left);
    const step = below ? 58 : 42;
    const bottom = step * lines.length + 4;
    const x = scaleOf(axis, left, right);
    /** @param {number} value */
    const inside = (value) => Math.min(right, Math.max(left, x(value)));
    const group = drawn("g", { class: "axes" });
    for (const [value, text] of ticksOf(axis, Math.max(2, Math.floor(width / 90)))) {
      group.append(drawn("line", { x1: x(value), x2: x(value), y1: 0, y2: bottom }), label(x(value), bottom + 16, text, "middle", "x"));
    }
    group.append(label(right, bottom + 34, axis.label, "end", "name"));
    svg.append(group);
    if (mark !== null) svg.append(drawn("line", { x1: x(mark), x2: x(mark), y1: 0, y2: bottom, class: "reference" }));
    lines.forEach(({ name: title, value, low, high, said }, i) => {
      const y = step * (i + 1) - 12;
      svg.append(label(left, y - (below ? 29 : 13), title), below ? label(left, y - 13, said) : label(right, y - 13, said, "end"));
      if (value === null) return;
      if (low !== null || high !== null) {
        svg.append(drawn("line", { x1: low === null ? left : inside(low), x2: high === null ? right : inside(high), y1: y, y2: y, class: "interval" }));
      }
      svg.append(drawn("circle", { cx: inside(value), cy: y, r: 4.5, class: "mark a" }));
    });
    return bottom + 42;
  }).place;
}
