"use strict";
// Rows as `decoding/rows/packed.py` packs them, and what temperature, top_k, top_p and min_p make of
// them. Depths are x = max z - z; a prefix of the order of tokens is all that such a setting keeps.

/**
 * @typedef {{vocab: number, named: number, places: number[], bytes: number,
 *   at: Record<string, number>}} Format  what stands where in a row, `at` in bytes
 * @typedef {{temperature: number, top_k: number, top_p: number, min_p: number}} Setting
 * @typedef {{entropy: number, keptMass: number, surprisal: number, bound: number, kept: number,
 *   logMass: number, meanDepth: number, variance: number, end: number, sumsBound: number, least: number,
 *   most: number}} Figures
 *   of one row under one setting, nats; surprisal is infinite where the token that came is cut off;
 *   `logMass` is ln Σ e^{-βx} over what is kept, `variance` that of -ln q; `end` is where what is
 *   kept ends, in tokens that are known by themselves and segments, for certain not before `least`
 *   and not behind `most`; `bound` is how far entropy, kept mass and surprisal may be off,
 *   `sumsBound` how far entropy and `logMass` may be
 */

const STEPS = 254; // of a mean's place within its segment
const LN_HOTTEST = Math.log(4); // the polynomial of a row is made for 1/4 <= β <= 4
const ROUNDING = 2 ** -11; // of a number in float16, relative
const FLOAT32 = 1e-6; // of what the bound is held against, relative to a row's weight

/** The numbers that 16 bits stand for. */
const HALF = (() => {
  const values = new Float32Array(1 << 16);
  for (let bits = 0; bits < values.length; bits++) {
    const exponent = (bits >> 10) & 31;
    const part = (bits & 1023) / 1024;
    const size = exponent === 0 ? part * 2 ** -14
      : exponent === 31 ? (part ? NaN : Infinity)
      : (1 + part) * 2 ** (exponent - 15);
    values[bits] = bits >> 15 ? -size : size;
  }
  return values;
})();

/** ln ∫₀¹ e^{ty} dy. @param {number} t */
function logMeanExp(t) {
  const size = Math.abs(t);
  const rest = size < 1e-3 ? t * t / 24 - size / 2 : Math.log(-Math.expm1(-size) / size);
  return rest + (t > 0 ? t : 0);
}

/** The mean of y on [0, 1] where it lies as thickly as e^{ty}. @param {number} t */
function meanOf(t) {
  const size = Math.abs(t);
  const below = size < 1e-2 ? 0.5 - size / 12 + size ** 3 / 720
    : 1 / size - 1 / Math.expm1(Math.min(size, 700));
  return t > 0 ? 1 - below : below;
}

/** The variance of the same y. @param {number} t */
function varianceOf(t) {
  const size = Math.abs(t);
  if (size < 0.1) return 1 / 12 - size * size / 240;
  return 1 / (size * size) - (size > 700 ? 0 : 1 / (4 * Math.sinh(size / 2) ** 2));
}

/** How thickly tokens lie in a segment, for each place of its mean. */
const LEANS = (() => {
  const leans = new Float64Array(STEPS + 1);
  for (let step = 0; step <= STEPS; step++) {
    let [low, high] = [-1e6, 1e6];
    for (let i = 0; i < 80; i++) {
      const middle = (low + high) / 2;
      if (meanOf(middle) < step / STEPS) low = middle;
      else high = middle;
    }
    leans[step] = (low + high) / 2;
  }
  return leans;
})();
const LOG_LEANS = LEANS.map(logMeanExp);
const MEAN_EXP_LEANS = LOG_LEANS.map(Math.exp);
const NOTHING = 1e-10; // what is left of a row weighs less: no more is looked at

/** The y at which ∫₀^y e^{ts} ds is a share of that up to 1. @param {number} share @param {number} t */
function inverseShare(share, t) {
  if (share <= 0) return 0;
  if (share >= 1) return 1;
  if (Math.abs(t) < 1e-5) return share;
  const y = t > 0
    ? 1 + Math.log(share + (1 - share) * Math.exp(-t)) / t
    : Math.log1p(share * Math.expm1(t)) / t;
  return Math.min(1, Math.max(0, y));
}

/** ∫₀^y e^{ts} ds as a share of that up to 1. @param {number} y @param {number} t */
function shareUpTo(y, t) {
  if (y <= 0) return 0;
  if (y >= 1) return 1;
  return Math.exp(Math.log(y) + logMeanExp(t * y) - logMeanExp(t));
}

/**
 * Read a setting's text form.
 * @param {string} text such as `temperature=0.7,top_p=0.9`, `raw` or `greedy`
 * @returns {Setting}
 */
function parseSetting(text) {
  const setting = { temperature: 1, top_k: 0, top_p: 1, min_p: 0 };
  const given = new Set();
  for (const part of String(text).split(",").map((one) => one.trim())) {
    if (part === "raw" && String(text).trim() === "raw") continue;
    const [name, value] = part === "greedy" ? ["temperature", "0"] : part.split("=", 2);
    if (!Object.hasOwn(setting, name)) {
      throw new RangeError(`a setting here has temperature, top_k, top_p and min_p, got ${part || "nothing"}`);
    }
    if (given.has(name)) throw new RangeError(`${name} is given twice`);
    given.add(name);
    const number = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value ?? "") ? Number(value) : NaN;
    const [low, high] = name === "temperature" || name === "top_k" ? [0, 1e30] : [0, 1];
    const whole = name !== "top_k" || Number.isInteger(number);
    if (!(number >= low && number <= high && whole) || (name === "top_p" && number === 0)) {
      const range = { temperature: "a number >= 0", top_k: "a whole number >= 0",
        top_p: "in (0, 1]", min_p: "in [0, 1]" }[name];
      throw new RangeError(`${name} must be ${range}, got ${value ?? "nothing"}`);
    }
    setting[/** @type {keyof Setting} */ (name)] = number;
  }
  return setting;
}

/** A setting's text form. @param {Setting} setting */
function settingText(setting) {
  const parts = setting.temperature === 0 ? ["greedy"]
    : setting.temperature === 1 ? [] : [`temperature=${setting.temperature}`];
  if (setting.top_k > 0) parts.push(`top_k=${setting.top_k}`);
  if (setting.top_p < 1) parts.push(`top_p=${setting.top_p}`);
  if (setting.min_p > 0) parts.push(`min_p=${setting.min_p}`);
  return parts.join(",") || "raw";
}

/** The rows of one text, and the row that is looked at. */
class Rows {
  /** @param {ArrayBuffer} buffer @param {Format} format */
  constructor(buffer, format) {
    this.format = format;
    this.length = buffer.byteLength / format.bytes;
    const whole = buffer.byteLength - buffer.byteLength % 4;
    this.floats = new Float32Array(buffer, 0, whole / 4);
    this.numbers = new Uint32Array(buffer, 0, whole / 4);
    this.halves = new Uint16Array(buffer, 0, whole / 2);
    this.signed = new Int16Array(buffer, 0, whole / 2);
    this.bytes = new Uint8Array(buffer);
    this.known = format.places[0];
    this.segments = format.places.length - 1;
    const items = this.known + this.segments;
    this.row = -1;
    this.count = this.place = this.ownDepth = 0;
    this.depth = new Float64Array(items + 1); // of a token, or at which a segment begins; its end
    this.slack = new Float64Array(items); // by which a token's depth may be rounded
    this.size = new Float64Array(this.segments);
    this.lean = new Uint8Array(this.segments);
    this.edge = new Float64Array(this.segments + 1); // by which a segment's beginning may be rounded
    this.beta = NaN;
    this.total = this.totalMoment = this.residual = 0; // of the whole row, mended, and what is left
    this.mends = false;
    // Sums over all that stands before an item: of weights, of x times them, of the first over
    // what rounding may change of a weight, and of the same times x.
    this.mass = new Float64Array(items + 1);
    this.moment = new Float64Array(items + 1);
    this.error = new Float64Array(items + 1);
    this.momentError = new Float64Array(items + 1);
  }

  /** Where a field of the row begins. @param {string} field @param {number} size of a number */
  _at(field, size) {
    return (this.row * this.format.bytes + this.format.at[field]) / size;
  }

  /** Look at a row. @param {number} row */
  look(row) {
    if (row === this.row) return;
    this.row = row;
    this.beta = NaN;
    const { named, places } = this.format;
    this.place = this.numbers[this._at("place", 4)];
    this.count = this.numbers[this._at("count", 4)];
    this.ownDepth = this.floats[this._at("depth", 4)];
    let first = this._at("named_depth", 4);
    for (let i = 0; i < named; i++) {
      this.depth[i] = this.floats[first + i];
      this.slack[i] = this.depth[i] * 1e-7;
    }
    first = this._at("gap", 2) - named;
    for (let i = named; i < this.known; i++) {
      const gap = HALF[this.halves[first + i]];
      this.depth[i] = this.depth[i - 1] + gap;
      this.slack[i] = Math.abs(gap) * ROUNDING + 1e-7 * this.depth[i];
    }
    first = this._at("width", 2);
    const means = this._at("mean", 1);
    let low = this.depth[this.known - 1];
    this.edge[0] = this.slack[this.known - 1];
    for (let i = 0; i < this.segments; i++) {
      const width = HALF[this.halves[first + i]];
      this.depth[this.known + i] = low;
      this.edge[i + 1] = 2 * width * ROUNDING;
      low += width;
      this.size[i] = Math.max(0, Math.min(places[i + 1], this.count) - places[i]);
      this.lean[i] = this.bytes[means + i];
    }
    this.depth[this.known + this.segments] = low;
  }

  /** The ids of the first tokens, in their order. @returns {number[]} */
  namedIds() {
    const first = this._at("named_id", 4);
    const size = Math.min(this.format.named, this.count);
    return Array.from(this.numbers.subarray(first, first + size));
  }

  /** Weigh the row's tokens by e^{-βx}. @param {number} beta */
  weigh(beta) {
    if (beta === this.beta) return;
    this.beta = beta;
    const { mass, moment, error, momentError, depth, slack, known } = this;
    let m = 0, xm = 0, e = 0, xe = 0;
    const tokens = Math.min(known, this.count);
    for (let i = 0; i < known; i++) {
      mass[i] = m; moment[i] = xm; error[i] = e; momentError[i] = xe;
      if (i >= tokens) continue;
      const weight = Math.exp(-beta * depth[i]);
      const loss = weight * beta * slack[i];
      m += weight; xm += weight * depth[i]; e += loss; xe += loss * depth[i];
    }
    let left = this.count - tokens;
    for (let i = 0; i < this.segments; i++) {
      const at = known + i;
      mass[at] = m; moment[at] = xm; error[at] = e; momentError[at] = xe;
      const size = this.size[i], low = depth[at], width = depth[at + 1] - low;
      const most = Math.exp(-beta * low);
      if (left * most <= NOTHING * m) continue;
      left -= size;
      const [weight, mean] = this._segment(i, beta * width);
      // Two ways to lie in a segment that have the same mean: their sums of a convex function
      // differ by half its largest curvature times what the variance can be, at most.
      const place = this.lean[i] / STEPS, wide = beta * width;
      const curved = wide * wide * place * (1 - place) / 2 + wide / (2 * STEPS)
        + beta * (this.edge[i] + this.edge[i + 1]);
      const loss = size * most * Math.min(1, curved);
      m += weight * most; xm += weight * most * (low + width * mean);
      e += loss; xe += loss * (depth[at + 1] + 2 / beta);
    }
    const end = known + this.segments;
    mass[end] = m; moment[end] = xm; error[end] = e; momentError[end] = xe;
    this._mend(beta);
  }

  /**
   * What a segment weighs, its first token weighing 1, and where the mean of that stands in it.
   * @param {number} i @param {number} wide β times its width
   */
  _segment(i, wide) {
    const lean = LEANS[this.lean[i]], tilt = lean - wide;
    if (Math.abs(lean) > 30 || Math.abs(tilt) < 1e-2) {
      return [this.size[i] * Math.exp(logMeanExp(tilt) - LOG_LEANS[this.lean[i]]), meanOf(tilt)];
    }
    const grown = Math.expm1(tilt);
    return [this.size[i] * grown / (tilt * MEAN_EXP_LEANS[this.lean[i]]), 1 + 1 / grown - 1 / tilt];
  }

  /** The sums over the whole row at β, as the polynomial mends them. @param {number} beta */
  _mend(beta) {
    const end = this.known + this.segments;
    let tail = this.mass[end] - this.mass[this.known];
    let moment = this.moment[end] - this.moment[this.known];
    this.mends = tail > 0 && this._inside();
    if (this.mends) {
      const [value, slope] = this._polynomial("ratio", 16);
      const ratio = Math.exp(value);
      moment = (moment - tail * slope / (LN_HOTTEST * beta)) * ratio;
      tail *= ratio;
      // Measured at 33 temperatures, between which it may be larger.
      this.residual = 2 * HALF[this.halves[this._at("residual", 2)]];
    }
    this.total = this.mass[this.known] + tail;
    this.totalMoment = this.moment[this.known] + moment;
  }

  /** Whether β is one that polynomials are made for. */
  _inside() {
    return Math.abs(Math.log(this.beta)) <= LN_HOTTEST * (1 + 1e-12);
  }

  /**
   * Σ c_k T_k over ln β / ln 4 and its derivative Σ k c_k U_{k-1}.
   * @param {string} field of the terms @param {number} terms
   */
  _polynomial(field, terms) {
    const node = Math.min(1, Math.max(-1, Math.log(this.beta) / LN_HOTTEST));
    const first = this._at(field, 2), unit = this.floats[this._at(`${field}_unit`, 4)];
    let value = this.signed[first], slope = 0;
    let [t0, t1, u0, u1] = [1, node, 0, 1];
    for (let k = 1; k < terms; k++) {
      const term = this.signed[first + k];
      value += term * t1; slope += k * term * u1;
      [t0, t1] = [t1, 2 * node * t1 - t0];
      [u0, u1] = [u1, 2 * node * u1 - u0];
    }
    return [value * unit, slope * unit];
  }

  /** The mass before the token that came, and by how much it may be off. @returns {[number, number]} */
  beforeOwn() {
    const { known, place, mass, error } = this;
    if (place <= known) return [mass[place], error[place]];
    const segment = lastAtMost(this.format.places, place - 1, 0, this.segments - 1);
    const item = known + segment, count = place - this.format.places[segment];
    const part = mass[item] - mass[known] + (mass[item + 1] - mass[item]) * count / this.size[segment];
    if (this._inside()) {
      const tail = part * Math.exp(this._polynomial("before", 8)[0]);
      return [mass[known] + tail, error[known] + 2 * HALF[this.halves[this._at("before_residual", 2)]] * tail];
    }
    const wide = this.beta * (this.depth[item + 1] - this.depth[item]);
    return [mass[known] + part, error[item + 1] + count * Math.exp(-this.beta * this.depth[item]) * Math.min(1, wide)];
  }

  /** How the sums over what stands before `end` come out. @param {number} end */
  upTo(end) {
    const item = Math.floor(end), last = this.known + this.segments;
    if (end >= last) return [this.total, this.totalMoment];
    let m = this.mass[item], xm = this.moment[item];
    const y = end - item;
    if (item >= this.known && y > 0) {
      const low = this.depth[item], width = this.depth[item + 1] - low;
      const tilt = LEANS[this.lean[item - this.known]] - this.beta * width;
      const weight = (this.mass[item + 1] - m) * shareUpTo(y, tilt);
      m += weight; xm += weight * (low + width * y * meanOf(tilt * y));
    }
    return [m, xm];
  }

  /** How many tokens stand before `end`. @param {number} end */
  tokensBefore(end) {
    const item = Math.floor(end);
    if (item < this.known) return Math.min(item, this.count);
    const segment = item - this.known;
    if (segment >= this.segments) return this.count;
    const part = this.size[segment] * shareUpTo(end - item, LEANS[this.lean[segment]]);
    return Math.min(this.format.places[segment] + part, this.count);
  }

  /** Where the first `count` tokens end. @param {number} count */
  endOfFirst(count) {
    if (count >= this.count) return this.known + this.segments;
    if (count <= this.known) return count;
    const places = this.format.places;
    const segment = lastAtMost(places, count, 0, this.segments);
    const share = (count - places[segment]) / this.size[segment];
    return this.known + segment + inverseShare(share, LEANS[this.lean[segment]]);
  }

  /** Where the shortest prefix of at least this mass ends. @param {number} mass */
  endOfMass(mass) {
    const last = this.known + this.segments;
    if (!(mass <= this.mass[last])) return last;
    // The first item at whose end the mass is reached.
    let low = 0, high = last - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.mass[middle + 1] >= mass) high = middle;
      else low = middle + 1;
    }
    if (low < this.known) return low + 1;
    const width = this.depth[low + 1] - this.depth[low];
    const tilt = LEANS[this.lean[low - this.known]] - this.beta * width;
    const share = (mass - this.mass[low]) / (this.mass[low + 1] - this.mass[low]);
    return low + inverseShare(share, tilt);
  }

  /** Where the tokens of at most this depth end. @param {number} depth */
  endOfDepth(depth) {
    const last = this.known + this.segments, tokens = Math.min(this.known, this.count);
    if (depth >= this.depth[last] && this.count > this.known) return last;
    const item = lastAtMost(this.depth, depth, 0, tokens - 1);
    if (item < tokens - 1 || this.count <= this.known) return item + 1 >= this.count ? last : item + 1;
    const segment = lastAtMost(this.depth, depth, this.known, last - 1);
    if (segment < this.known) return this.known;
    const width = this.depth[segment + 1] - this.depth[segment];
    return segment + (width > 0 ? Math.min(1, (depth - this.depth[segment]) / width) : 1);
  }
}

/**
 * The last index in [low, high] whose value is at most `value`, or `low`.
 * @param {ArrayLike<number>} values ascending @param {number} value
 * @param {number} low @param {number} high
 */
function lastAtMost(values, value, low, high) {
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}

/**
 * What a setting makes of a row: the figures of what it keeps, and how far they may be off.
 * @param {Rows} rows @param {number} row @param {Setting} setting
 * @returns {Figures}
 */
function figuresOf(rows, row, setting) {
  rows.look(row);
  if (setting.temperature === 0) {
    rows.weigh(1);
    const off = errorOfTotal(rows) / rows.total + FLOAT32;
    return { entropy: 0, keptMass: 1 / rows.total, surprisal: rows.place === 0 ? 0 : Infinity, bound: off,
      kept: 1, logMass: 0, meanDepth: 0, variance: 0, end: 1, sumsBound: 0, least: 1, most: 1 };
  }
  const beta = 1 / setting.temperature;
  rows.weigh(beta);
  const cuts = cutsOf(rows, setting);
  // An end behind which there are no tokens is that of the row.
  const [least, end, most] = [0, 1, 2].map((sure) => Math.min(cuts.first, cuts.mass[sure], cuts.depth[sure]))
    .map((one) => rows.tokensBefore(one) >= rows.count ? rows.known + rows.segments : one);
  const [mass, moment] = rows.upTo(end);
  const logMass = Math.log(mass), mean = moment / mass;
  const entropy = Math.max(0, logMass + beta * mean);
  const bound = boundOf(rows, [least, most], end, end === cuts.first, mass, mean, entropy);
  const figures = { entropy, keptMass: Math.min(1, mass / rows.total), surprisal: Infinity, bound, sumsBound: bound, least, most,
    kept: Math.max(1, Math.round(rows.tokensBefore(end))), logMass, meanDepth: mean, variance: NaN, end };
  const [kept, open] = keptOwn(rows, setting, cuts);
  const surprisal = Math.max(0, beta * rows.ownDepth + logMass);
  if (kept) figures.surprisal = surprisal;
  if (kept || open) figures.bound += 1e-7 * beta * rows.ownDepth;
  // Where it is open whether the token is cut off, all that is known is the one or the other.
  if (open) figures.bound += surprisal;
  return figures;
}

/**
 * Where each cut ends the row: for certain not before, most likely, and for certain not behind.
 * @typedef {{first: number, mass: number[], depth: number[], goal: number, off: number, limit: number}} Cuts
 *   `goal` is the mass that top_p asks for, `off` by how much that may be off, `limit` the depth that
 *   min_p allows
 * @param {Rows} rows weighed @param {Setting} setting @returns {Cuts}
 */
function cutsOf(rows, setting) {
  const { known, segments, beta } = rows, last = known + segments;
  const first = setting.top_k > 0 ? rows.endOfFirst(setting.top_k) : last;
  let mass = [last, last, last], goal = Infinity, off = 0;
  if (setting.top_p < 1) {
    const whole = rows.upTo(first)[0];
    goal = setting.top_p * whole;
    off = setting.top_p * (first >= last ? errorOfTotal(rows) : errorBefore(rows, first, true)) + FLOAT32 * whole;
    const end = rows.endOfMass(goal);
    const all = off + rows.error[Math.min(last, Math.ceil(end))];
    // A token at the edge counts as a whole, which within a segment is not seen.
    const edge = Math.min(Math.max(Math.floor(end), known), last);
    const token = rows.endOfMass(goal + all) > known ? Math.exp(-beta * rows.depth[edge]) : 0;
    mass = [rows.endOfMass(goal - all), rows.endOfMass(goal + (end > known ? token / 2 : 0)),
      rows.endOfMass(goal + all + token)];
  }
  let depth = [last, last, last];
  let limit = Infinity;
  if (setting.min_p > 0) {
    limit = Math.max(0, -Math.log(setting.min_p) / beta);
    const likely = Math.max(1, rows.endOfDepth(limit)), off = 1e-6 * (1 + limit);
    depth = [surelyWithin(rows, limit - off), likely, perhapsWithin(rows, limit + off)];
  }
  return { first, mass, depth, goal, off, limit };
}

/** An end before which no token is deeper, whatever rounding did. @param {Rows} rows @param {number} depth */
function surelyWithin(rows, depth) {
  const { known, count, segments } = rows;
  let end = rows.endOfDepth(depth);
  if (count <= known) end = Math.min(end, count);
  // Where within a segment its tokens end is not known.
  else if (end > known) end = Math.floor(end);
  while (end > known && rows.depth[end] + rows.edge[end - known] > depth) end--;
  while (end > 1 && end <= known && rows.depth[end - 1] + rows.slack[end - 1] > depth) end--;
  return end === count && count <= known ? known + segments : Math.max(1, end);
}

/** An end behind which every token is deeper. @param {Rows} rows @param {number} depth */
function perhapsWithin(rows, depth) {
  const { known, count, segments } = rows, tokens = Math.min(known, count);
  let end = Math.max(1, rows.endOfDepth(depth));
  while (end < tokens && rows.depth[end] - rows.slack[end] <= depth) end++;
  if (count <= known) return end >= count ? known + segments : end;
  if (end === known && rows.depth[known] - rows.edge[0] <= depth) return known + 1;
  return end > known ? Math.min(Math.floor(end) + 1, known + segments) : end;
}

/** By how much the row's whole mass may be off. @param {Rows} rows weighed */
function errorOfTotal(rows) {
  const all = rows.error[rows.known + rows.segments];
  return rows.mends
    ? Math.min(all, rows.error[rows.known] + rows.residual * rows.total) : all;
}

/**
 * By how much the mass before `end` may be off.
 * @param {Rows} rows weighed @param {number} end @param {boolean} counted whether so many tokens
 */
function errorBefore(rows, end, counted) {
  const item = Math.floor(end);
  let error = rows.error[Math.min(Math.ceil(end), rows.known + rows.segments)];
  if (counted && item >= rows.known && end > item) {
    error += partOf(rows, end) * rows.beta * (rows.depth[item + 1] - rows.depth[item]);
  }
  return error;
}

/** The most that the kept part of the segment at `end` can weigh. @param {Rows} rows @param {number} end */
function partOf(rows, end) {
  const item = Math.floor(end);
  const part = rows.tokensBefore(end) - rows.format.places[item - rows.known];
  return part * Math.exp(-rows.beta * rows.depth[item]);
}

/**
 * How far entropy, kept mass and the logarithm of what is kept may be off.
 * @param {Rows} rows @param {number[]} sure the ends before which and behind which it lies
 * @param {number} end @param {boolean} counted whether the end is that of so many tokens
 * @param {number} mass @param {number} mean @param {number} entropy
 */
function boundOf(rows, [low, high], end, counted, mass, mean, entropy) {
  const { beta, known, segments } = rows, last = known + segments;
  let bound = 0;
  // The longer what is kept, the larger its entropy and its mass.
  for (const other of low < high ? [low, high] : []) {
    const [m, xm] = rows.upTo(other);
    const change = Math.abs(Math.log(m / mass));
    bound = Math.max(bound, change, Math.abs(Math.log(m) + beta * xm / m - entropy));
  }
  bound += 2 * FLOAT32 + FLOAT32 * entropy;
  const total = errorOfTotal(rows) / rows.total;
  let item = Math.ceil(high);
  if (high >= last && rows.mends) {
    bound += rows.residual;
    item = known;
  }
  const error = rows.error[item], errorOfMean = rows.momentError[item] + mean * error;
  bound += (error + beta * errorOfMean) / mass + total;
  const inside = Math.floor(end);
  if (inside >= known && end > inside && end < last) {
    const width = rows.depth[inside + 1] - rows.depth[inside];
    const reach = counted ? beta * Math.max(1, beta * Math.abs(rows.depth[inside + 1] - mean)) : beta;
    bound += partOf(rows, end) * width * reach / mass;
  }
  return bound;
}

/**
 * Whether the token that came is kept, and whether that is open.
 * @param {Rows} rows @param {Setting} setting @param {Cuts} cuts @returns {[boolean, boolean]}
 */
function keptOwn(rows, setting, cuts) {
  const { place, ownDepth } = rows;
  if (ownDepth === Infinity || (setting.top_k > 0 && place >= setting.top_k)) return [false, false];
  /** @type {boolean[][]} */
  const [likely, certain, possible] = [[], [], []];
  /** @param {boolean} most @param {boolean} surely @param {boolean} perhaps */
  const add = (most, surely, perhaps) => { likely.push(most); certain.push(surely); possible.push(perhaps); };
  if (setting.min_p > 0 && place > 0) {
    const slack = 1e-6 * (1 + cuts.limit);
    add(ownDepth <= cuts.limit, ownDepth <= cuts.limit - slack, ownDepth <= cuts.limit + slack);
  }
  if (setting.top_p < 1 && place > 0) {
    const [before, error] = rows.beforeOwn(), off = cuts.off + error;
    add(before < cuts.goal, before < cuts.goal - off, before < cuts.goal + off);
  }
  return [likely.every(Boolean), possible.every(Boolean) && !certain.every(Boolean)];
}

/**
 * Var of -ln q over what is kept, nats².
 * @param {Rows} rows @param {number} row @param {Setting} setting @param {Figures} figures of it
 */
function varianceUnder(rows, row, setting, figures) {
  if (setting.temperature === 0) return 0;
  const beta = 1 / setting.temperature;
  rows.look(row);
  rows.weigh(beta);
  const mean = figures.meanDepth, end = figures.end;
  let sum = 0;
  for (let i = 0; i < Math.min(end, rows.known + rows.segments); i++) {
    const weight = rows.mass[i + 1] - rows.mass[i];
    if (weight <= 0) continue;
    if (i < rows.known) {
      sum += weight * (rows.depth[i] - mean) ** 2;
      continue;
    }
    const y = Math.min(1, end - i), width = rows.depth[i + 1] - rows.depth[i];
    const tilt = LEANS[rows.lean[i - rows.known]] - beta * width;
    const at = rows.depth[i] + width * y * meanOf(tilt * y) - mean;
    sum += weight * shareUpTo(y, tilt) * (at * at + (width * y) ** 2 * varianceOf(tilt * y));
  }
  return beta * beta * sum / Math.exp(figures.logMass);
}

/**
 * KL(a‖b) of two settings on one row, nats; infinite where b cuts off what a keeps.
 * @param {Figures} a @param {Setting} ofA @param {Figures} b @param {Setting} ofB
 */
function klBetween(a, ofA, b, ofB) {
  if (a.end > b.end + 1e-9) return Infinity;
  const betaA = ofA.temperature === 0 ? 0 : 1 / ofA.temperature;
  const betaB = ofB.temperature === 0 ? 0 : 1 / ofB.temperature;
  return Math.max(0, (betaB - betaA) * a.meanDepth + b.logMass - a.logMass);
}

/**
 * How far `klBetween` may be off; infinite where it is open whether the divergence is.
 *
 * KL is made of ln Σ and E[x] over what is kept, and H = ln Σ + βE[x]: where H and ln Σ are known
 * within e, βE[x] is known within 2e.
 * @param {Figures} a @param {Setting} ofA @param {Figures} b @param {Setting} ofB
 */
function klBound(a, ofA, b, ofB) {
  if (settingText(ofA) === settingText(ofB)) return 0;
  const certain = a.most <= b.least + 1e-9 || a.least > b.most + 1e-9;
  if (!certain) return Infinity;
  const ratio = ofA.temperature === 0 || ofB.temperature === 0 ? 1 : ofA.temperature / ofB.temperature;
  return a.sumsBound + b.sumsBound + 2 * Math.abs(ratio - 1) * a.sumsBound;
}

/**
 * What a setting makes of every row of some texts, a list of figures for each key.
 * @param {Rows[]} texts @param {string} text form of the setting
 */
function evaluateTexts(texts, text) {
  const setting = parseSetting(text);
  /** @type {{entropy_nats: number[], kept_mass: number[], surprisal_nats: (number | null)[], bound_nats: number[]}} */
  const lists = { entropy_nats: [], kept_mass: [], surprisal_nats: [], bound_nats: [] };
  for (const rows of texts) {
    for (let row = 0; row < rows.length; row++) {
      const { entropy, keptMass, surprisal, bound } = figuresOf(rows, row, setting);
      lists.entropy_nats.push(entropy);
      lists.kept_mass.push(keptMass);
      lists.surprisal_nats.push(Number.isFinite(surprisal) ? surprisal : null);
      lists.bound_nats.push(bound);
    }
  }
  return lists;
}
