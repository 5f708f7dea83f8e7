// @ts-check
// Who proposed each token, pass by pass: coloured and underlined, with the draft of a pass on demand.
import {h, number} from './dom.js';

/** @typedef {{text: string, parent: number, drafter: number, probability: number, kept: boolean}} Leaf */
/** @typedef {{drafted: number, kept: number, tree: Leaf[], drawn?: string}} Pass */
/** @typedef {{text: string, origin: number, pass: number}} Token */
/**
 * @typedef {{tokens: Token[], passes: Pass[], drafters: string[], left: number, report?: {passes: number, drafted: number,
 *   accepted: number, tokens: number, cached_tokens: number, prompt_ms: number, decode_ms: number, decode_tokens: number, draft_ms: number,
 *   verify_ms: number, plain_ms: number, speedup?: number}}} Trace
 */

/** @returns {Trace} */
export const newTrace = () => ({tokens: [], passes: [], drafters: [], left: 0});

/**
 * Takes the field "cambium" of a chunk.
 * @param {Trace} trace @param {any} field
 */
export function feed(trace, field) {
  for (const note of field?.trace ?? []) {
    if ('drafted' in note) {
      trace.passes.push({drafted: note.drafted, kept: note.kept, tree: note.tree ?? [], drawn: note.drawn?.text});
      trace.left = note.kept + 1;
    } else if (note.id === undefined) {  // text that was held back
      const last = trace.tokens[trace.tokens.length - 1];
      if (last) last.text += note.text;
    } else {
      if (trace.left > 0) --trace.left;
      else trace.passes.push({drafted: 0, kept: 0, tree: []});
      trace.tokens.push({text: note.text ?? '', origin: note.origin, pass: trace.passes.length - 1});
    }
  }
  if (field?.drafters) trace.drafters = field.drafters;
  if (field?.report) trace.report = field.report;
}

/**
 * "61 tokens in 24 passes, 2.5 a pass, 78 % kept, 1.9 × plain".
 * @param {Trace} trace
 */
export function summary(trace) {
  const tokens = trace.tokens.length, passes = trace.passes.length;
  if (tokens === 0) return '';
  const drafted = trace.passes.reduce((sum, pass) => sum + pass.drafted, 0);
  const kept = trace.passes.reduce((sum, pass) => sum + pass.kept, 0);
  const parts = [`${number(tokens)} ${tokens === 1 ? 'token' : 'tokens'} in ${number(passes)} ${passes === 1 ? 'pass' : 'passes'}`,
    `${number(tokens / passes, 1)} a pass`];
  const report = trace.report;
  if (drafted > 0) parts.push(`${Math.round(100 * kept / drafted)} % kept`);
  if (report && trace.drafters.length === 0) parts.push('no drafter');
  else if (report && drafted === 0) parts.push('nothing was drafted');
  if (drafted > 0 && report?.speedup) parts.push(`${number(report.speedup, 1)} × plain`);
  return parts.join(', ');
}

/**
 * "92 tokens/s" of the decoding.
 * @param {Trace} trace
 */
export function rate(trace) {
  const report = trace.report;
  if (!report || report.decode_tokens < 1 || !(report.decode_ms > 0)) return '';
  return `${number(1000 * report.decode_tokens / report.decode_ms, report.decode_ms > 100 * report.decode_tokens ? 1 : 0)} tokens/s`;
}

const kKinds = ['grammar', 'ngram', 'recycle', 'corpus', 'model', 'exit', 'medusa', 'mtp', 'heads'];
/**
 * A drafter's colour and underline, by its name.
 * @param {string | undefined} name
 */
function kindOf(name = '') {
  const kind = kKinds.findIndex((one) => name.startsWith(one));
  return 'by-' + (kind < 0 ? 'other' : kKinds[kind]);
}

/**
 * A space or a line end as something to see.
 * @param {string} text
 */
const visible = (text) => text.replace(/\n/g, '↵').replace(/\t/g, '⇥').replace(/ /g, '·') || '∅';

/** Spans of an answer that grows. */
export class TraceView {
  constructor() {
    this.body = h('div', {class: 'tokens', tabindex: '0', role: 'group', 'aria-label': 'Tokens by who proposed them; arrow keys walk through the passes'});
    this.legend = h('ul', {class: 'legend', 'aria-label': 'Who proposed'});
    this.card = h('div', {class: 'pass-card', hidden: true, role: 'status'});
    this.root = h('div', {class: 'trace'}, this.legend, this.body, this.card);
    /** @type {Trace | null} */
    this.trace = null;
    this.shown = 0;
    /** @type {Map<number, number>} */
    this.counts = new Map();  // tokens by origin
    this.line = h('div');
    this.named = -1;
    this.pass = -1;
    this.body.addEventListener('pointerover', (event) => this.over(event));
    this.body.addEventListener('click', (event) => this.over(event));
    this.body.addEventListener('keydown', (event) => this.key(event));
    this.body.addEventListener('blur', () => this.open(-1));
    this.root.addEventListener('pointerleave', () => this.open(-1));
  }

  /** @param {Trace} trace */
  show(trace) {
    if (this.trace !== trace) {
      this.trace = trace;
      this.shown = 0;
      this.counts.clear();
      this.line = h('div');
      this.body.replaceChildren(this.line);
    }
    for (; this.shown < trace.tokens.length; ++this.shown) {
      const token = trace.tokens[this.shown];
      // A block for each line: what is whole is not laid out again.
      if (this.line.lastElementChild?.textContent?.endsWith('\n')) this.body.append(this.line = h('div'));
      this.line.append(this.span(token));
      this.counts.set(token.origin, (this.counts.get(token.origin) ?? 0) + 1);
    }
    if (trace.report && this.named !== trace.drafters.length) {  // names come at the end
      this.named = trace.drafters.length;
      const spans = /** @type {NodeListOf<HTMLElement>} */ (this.body.querySelectorAll('[data-origin]'));
      for (const span of spans) span.className = this.classOf(Number(span.dataset.origin));
    }
    const last = this.line.lastElementChild;
    const text = trace.tokens[trace.tokens.length - 1]?.text;
    if (last && last.textContent !== text) last.textContent = text;
    this.showLegend();
  }

  /** @param {number} origin */
  classOf(origin) {
    if (origin === -1) return 'tok';
    if (origin === -2) return 'tok by-against';
    return 'tok ' + kindOf(/** @type {Trace} */ (this.trace).drafters[origin] ?? this.guess(origin));
  }
  /**
   * Before names are known each drafter has a look of its own.
   * @param {number} origin
   */
  guess(origin) {
    return kKinds[1 + origin % 7];
  }

  /** @param {Token} token */
  span(token) {
    return h('span', {class: this.classOf(token.origin), 'data-pass': token.pass, 'data-origin': token.origin}, token.text);
  }

  showLegend() {
    const trace = /** @type {Trace} */ (this.trace);
    const entries = [...this.counts].sort((a, b) => b[0] - a[0]).map(([origin, count]) => {
      const name = origin === -1 ? 'drawn' : origin === -2 ? 'drawn against a draft' : trace.drafters[origin] ?? 'drafter ' + (origin + 1);
      return h('li', {}, h('span', {class: this.classOf(origin)}, name), ' ', h('span', {class: 'count'}, number(count)));
    });
    if (trace.report && trace.drafters.length === 0) entries.push(h('li', {class: 'none'}, 'No drafter: every token is a pass of its own'));
    this.legend.replaceChildren(...entries);
  }

  /** @param {any} event */
  over(event) {
    const pass = event.target.dataset?.pass;
    if (pass !== undefined) this.open(Number(pass));
  }
  /** @param {KeyboardEvent} event */
  key(event) {
    const passes = this.trace?.passes.length ?? 0;
    const to = {ArrowRight: this.pass + 1, ArrowLeft: this.pass - 1, Home: 0, End: passes - 1}[event.key];
    if (event.key === 'Escape') this.open(-1);
    if (to === undefined || passes === 0) return;
    event.preventDefault();
    this.open(Math.max(0, Math.min(passes - 1, to)));
  }

  /**
   * Shows what became of a pass's draft; -1: nothing.
   * @param {number} index
   */
  open(index) {
    if (index === this.pass) return;
    for (const span of this.body.querySelectorAll('.on')) span.classList.remove('on');
    this.pass = index;
    this.card.hidden = index < 0;
    const trace = this.trace;
    if (index < 0 || !trace) return;
    for (const span of this.body.querySelectorAll(`[data-pass="${index}"]`)) span.classList.add('on');
    const pass = trace.passes[index];
    const tokens = trace.tokens.filter((token) => token.pass === index);
    this.card.replaceChildren(
      h('p', {class: 'pass-head'}, h('strong', {}, `Pass ${index + 1} of ${trace.passes.length}`), ' ',
        pass.drafted ? `${pass.drafted} drafted, ${pass.kept} kept, ${tokens.length} ${tokens.length === 1 ? 'token' : 'tokens'}`
          : 'one token, nothing was drafted'),
      pass.tree.length ? treeOf(trace, pass, -1) : '');
    if (!pass.tree.length) {
      this.card.append(h('p', {class: 'leafs'}, ...tokens.map((token) => h('span', {class: this.classOf(token.origin)}, visible(token.text))),
        pass.drafted ? ' what was refused is no longer kept' : ''));
    }
    const at = /** @type {HTMLElement | null} */ (this.body.querySelector(`[data-pass="${index}"]`));
    if (!at) return;
    // Below the token, or above it where there is no room.
    const token = at.getBoundingClientRect(), card = this.card.getBoundingClientRect();
    const below = token.bottom + 6, above = token.top - card.height - 6;
    const top = below + card.height > innerHeight - 8 && above > 8 ? above : below;
    this.card.style.setProperty('top', top + 'px');
    this.card.style.setProperty('left', Math.max(8, Math.min(token.left, innerWidth - card.width - 8)) + 'px');
  }
}

/**
 * The draft below a node, as a list in a list.
 * @param {Trace} trace @param {Pass} pass @param {number} parent @returns {HTMLElement}
 */
function treeOf(trace, pass, parent) {
  const below = pass.tree.map((leaf, index) => ({leaf, index})).filter(({leaf}) => leaf.parent === parent);
  below.sort((a, b) => Number(b.leaf.kept) - Number(a.leaf.kept) || b.leaf.probability - a.leaf.probability);
  const items = below.map(({leaf, index}) => chainOf(trace, pass, leaf, index));
  if (pass.drawn !== undefined && endsAt(pass) === parent) {
    items.unshift(h('li', {}, h('span', {class: 'leaf drawn'}, visible(pass.drawn)), h('span', {class: 'leaf-note'}, ' drawn')));
  }
  return h('ul', {class: 'draft-tree'}, ...items);
}

/**
 * The node that the kept path ends at.
 * @param {Pass} pass
 */
function endsAt(pass) {
  return pass.tree.reduce((last, leaf, index) => leaf.kept ? index : last, -1);
}

/**
 * A node and those that follow it alone, on one line.
 * @param {Trace} trace @param {Pass} pass @param {Leaf} leaf @param {number} index
 */
function chainOf(trace, pass, leaf, index) {
  /** @type {(Node | string)[]} */
  const line = [];
  for (let at = leaf, i = index; ;) {
    const name = trace.drafters[at.drafter] ?? 'drafter ' + (at.drafter + 1);
    line.push(h('span', {class: `leaf ${at.kept ? 'kept ' + kindOf(name) : 'refused'}`,
      title: `${name}, ${Math.round(100 * at.probability)} % believed, ${at.kept ? 'kept' : 'refused'}`}, visible(at.text)));
    if (!at.kept && i === index) line.push(h('span', {class: 'sr'}, ' refused '));
    const next = pass.tree.map((one, k) => ({one, k})).filter(({one}) => one.parent === i);
    if (next.length !== 1 || endsAt(pass) === i || next[0].one.kept !== at.kept) {
      return h('li', {}, ...line, next.length || endsAt(pass) === i ? treeOf(trace, pass, i) : null);
    }
    at = next[0].one;
    i = next[0].k;
  }
}
