// @ts-check
// Line charts as inline SVG: several series laid over each other, a reading where the pointer or the arrow keys are.
import {h, number, svg} from './dom.js';

/** @typedef {{name: string, color: number, points: [number, number][], kind?: 'line' | 'faint' | 'dots' | 'bars'}} Series */

/**
 * About `count` round values from `low` to `high`.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 */
function ticksOf(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((one) => one * power >= raw) ?? 10);
  const ticks = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) ticks.push(value);
  return ticks;
}

/**
 * Few digits: 12,500 as 12.5k, 0.00012 as 1.2e-4.
 * @param {number} value
 */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return number(value / 1e6, 1) + 'M';
  if (size >= 1e4) return number(value / 1e3, size < 1e5 ? 1 : 0) + 'k';
  if (size >= 100 || value === 0) return number(value, 0);
  if (size >= 1) return String(+value.toFixed(2));
  return size >= 0.001 ? String(+value.toPrecision(3)) : value.toExponential(1);
}

/**
 * At most two points a pixel, the least and the greatest of each.
 * @param {[number, number][]} points
 * @param {number} width
 */
function thin(points, width) {
  if (points.length <= 2 * width) return points;
  /** @type {[number, number][]} */
  const out = [];
  const size = points.length / width;
  for (let i = 0; i < width; ++i) {
    const bucket = points.slice(Math.floor(i * size), Math.floor((i + 1) * size));
    const low = bucket.reduce((a, b) => b[1] < a[1] ? b : a), high = bucket.reduce((a, b) => b[1] > a[1] ? b : a);
    out.push(...(low[0] < high[0] ? [low, high] : [high, low]));
  }
  return out;
}

/**
 * A moving mean whose weight falls by half in a fiftieth of the points; of few points themselves.
 * @param {[number, number][]} points
 * @returns {[number, number][]}
 */
export function smooth(points) {
  if (points.length < 50) return points;
  const keep = 0.5 ** (1 / Math.max(1, points.length / 50));
  let sum = 0, weight = 0;
  return points.map(([x, y]) => {
    sum = keep * sum + y;
    weight = keep * weight + 1;
    return [x, sum / weight];
  });
}

export class Chart {
  /**
   * @param {string} title
   * @param {{x: string, height?: number, zero?: boolean, unit?: string, top?: number}} options
   */
  constructor(title, options) {
    this.title = title;
    this.options = options;
    /** @type {Series[]} */
    this.series = [];
    this.at = -1;
    this.reading = h('span', {class: 'reading'});
    this.place = h('div', {class: 'plot', tabindex: '0', role: 'img', 'aria-label': title, on: {
      pointermove: (event) => this.point(event.clientX),
      pointerleave: () => this.read(-1),
      blur: () => this.read(-1),
      keydown: (event) => {
        const by = {ArrowLeft: -1, ArrowRight: 1}[/** @type {string} */ (event.key)];
        if (!by || !this.xs.length) return;
        event.preventDefault();
        this.read(Math.max(0, Math.min(this.xs.length - 1, (this.at < 0 ? this.xs.length : this.at) + by)));
      },
    }});
    this.root = h('figure', {class: 'chart'}, h('figcaption', {}, h('span', {}, title), this.reading), this.place);
    /** @type {number[]} */
    this.xs = [];
    this.mark = svg('line', {class: 'mark'});
    this.left = 46;
    this.width = 0;
    this.low = 0;
    this.high = 1;
    new ResizeObserver(() => {
      if (this.place.clientWidth !== this.width) this.draw();
    }).observe(this.place);
  }

  /** @param {Series[]} series */
  set(series) {
    this.series = series;
    this.draw();
  }

  draw() {
    const width = this.width = this.place.clientWidth, height = this.options.height ?? 180;
    const shown = this.series.filter(({points}) => points.length);
    const all = shown.flatMap(({points}) => points).filter(([, y]) => Number.isFinite(y));
    if (!width || !all.length) {
      this.place.replaceChildren(h('p', {class: 'hint empty'}, 'Nothing yet'));
      this.xs = [];
      return;
    }
    const top = 8, bottom = 24, right = 8;
    let [x0, x1] = [Math.min(...all.map(([x]) => x)), Math.max(...all.map(([x]) => x))];
    let [y0, y1] = [Math.min(...all.map(([, y]) => y)), Math.max(...all.map(([, y]) => y), this.options.top ?? -Infinity)];
    if (this.options.zero) y0 = Math.min(0, y0);
    if (x0 === x1 || shown.some(({kind}) => kind === 'bars')) [x0, x1] = [x0 - 0.5, x1 + 0.5];
    if (y0 === y1) [y0, y1] = [y0 - (Math.abs(y0) || 1) * 0.1, y1 + (Math.abs(y1) || 1) * 0.1];
    [this.low, this.high] = [x0, x1];
    const x = (/** @type {number} */ v) => this.left + (v - x0) / (x1 - x0) * (width - this.left - right);
    const y = (/** @type {number} */ v) => top + (y1 - v) / (y1 - y0) * (height - top - bottom);
    const image = svg('svg', {width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true'});
    for (const tick of ticksOf(y0, y1, 4)) {
      image.append(svg('line', {class: 'grid', x1: this.left, x2: width - right, y1: y(tick), y2: y(tick)}),
        svg('text', {x: this.left - 7, y: y(tick) + 4, 'text-anchor': 'end'}, short(tick)));
    }
    for (const tick of ticksOf(x0, x1, Math.max(2, width / 110))) {
      image.append(svg('text', {x: x(tick), y: height - 6, 'text-anchor': x(tick) > width - 24 ? 'end' : 'middle'}, short(tick)));
    }
    for (const {points, color, kind} of shown) {
      if (kind === 'dots') {
        for (const [px, py] of points) image.append(svg('circle', {class: 'dots s' + color, cx: x(px), cy: y(py), r: 3.5}));
      } else if (kind === 'bars') {
        const w = Math.max(1, Math.min(24, (width - this.left - right) / points.length - 1));
        for (const [px, py] of points) {
          image.append(svg('rect', {class: 'bars s' + color, x: x(px) - w / 2, y: y(py), width: w, height: Math.max(0, y(Math.max(0, y0)) - y(py))}));
        }
      } else {
        const path = thin(points, width).map(([px, py], i) => `${i ? 'L' : 'M'}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join('');
        image.append(svg('path', {class: `${kind ?? 'line'} s${color}`, d: path}));
      }
    }
    this.mark = svg('line', {class: 'mark', y1: top, y2: height - bottom, visibility: 'hidden'});
    image.append(this.mark);
    this.place.replaceChildren(image);
    this.xs = [...new Set(shown.flatMap(({points}) => points.map(([px]) => px)))].sort((a, b) => a - b);
    const main = shown.filter(({kind}) => kind !== 'faint');
    this.place.setAttribute('aria-label', `${this.title}: ` + main.map(({name, points}) => `${name} ${short(points[points.length - 1][1])}`).join(', '));
    this.read(-1);
  }

  /** @param {number} clientX */
  point(clientX) {
    if (!this.xs.length) return;
    const box = this.place.getBoundingClientRect();
    const value = this.low + (clientX - box.left - this.left) / (this.width - this.left - 8) * (this.high - this.low);
    let best = 0;
    for (let i = 1; i < this.xs.length; ++i) if (Math.abs(this.xs[i] - value) < Math.abs(this.xs[best] - value)) best = i;
    this.read(best);
  }

  /**
   * Reads off the values at the x of this number; -1: the last ones.
   * @param {number} index
   */
  read(index) {
    this.at = index;
    const at = index < 0 ? Infinity : this.xs[index];
    this.mark.setAttribute('visibility', index < 0 ? 'hidden' : 'visible');
    if (index >= 0) {
      const px = this.left + (at - this.low) / (this.high - this.low) * (this.width - this.left - 8);
      this.mark.setAttribute('x1', String(px));
      this.mark.setAttribute('x2', String(px));
    }
    const parts = [];
    for (const {name, color, points, kind} of this.series) {
      if (kind === 'faint') continue;
      const found = points.filter(([x]) => x <= at).pop();
      if (found) parts.push(h('span', {class: 's' + color}, h('i', {}), `${name} ${short(found[1])}${this.options.unit ?? ''}`));
    }
    this.reading.replaceChildren(...parts, index < 0 || !parts.length ? '' : `${this.options.x} ${short(at)}`);
  }
}
