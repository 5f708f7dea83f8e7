// @ts-check
// The common part of Markdown to elements. A block depends on the text from its first line on, so while an answer grows
// only its last block is made again.
import {copy, h, icon} from './dom.js';
import {highlight} from './highlight.js';

/** @typedef {{start: number, node: HTMLElement}} Block */

const kFence = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*$/;
const kHeading = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$/;
const kRule = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const kItem = /^( *)([-*+]|\d{1,9}[.)])(?:[ \t]+|$)(.*)$/;
const kQuote = /^ {0,3}> ?(.*)$/;
const kTableRule = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/**
 * The blocks of `text`, whose lines begin at `base`.
 * @param {string} text @param {number} [base] @returns {Block[]}
 */
function blocksOf(text, base = 0) {
  const lines = text.split('\n');
  /** @type {Block[]} */
  const blocks = [];
  for (let i = 0, offset = base; i < lines.length;) {
    const [taken, node] = blockAt(lines, i);
    if (node) blocks.push({start: offset, node});
    for (let j = 0; j < taken; ++j) offset += lines[i + j].length + 1;
    i += taken;
  }
  return blocks;
}

/**
 * How many lines the block at `i` takes, and its element.
 * @param {string[]} lines @param {number} i @returns {[number, HTMLElement?]}
 */
function blockAt(lines, i) {
  const line = lines[i];
  if (!line.trim()) return [1];
  const fence = kFence.exec(line);
  if (fence) return codeAt(lines, i, fence[1], fence[2]);
  const heading = kHeading.exec(line);
  if (heading) {
    const tag = /** @type {'h3'} */ ('h' + Math.min(6, heading[1].length + 2));
    return [1, h(tag, {}, ...inlines(heading[2]))];
  }
  if (kRule.test(line)) return [1, h('hr')];
  if (kQuote.test(line)) {
    let end = i;
    while (end < lines.length && kQuote.test(lines[end])) ++end;
    const inner = lines.slice(i, end).map((one) => /** @type {RegExpExecArray} */ (kQuote.exec(one))[1]).join('\n');
    return [end - i, h('blockquote', {}, ...blocksOf(inner).map(({node}) => node))];
  }
  if (kItem.test(line)) return listAt(lines, i);
  if (line.includes('|') && kTableRule.test(lines[i + 1] ?? '') && lines[i + 1].includes('-')) return tableAt(lines, i);
  let end = i + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines[end])) ++end;
  return [end - i, h('p', {}, ...inlines(lines.slice(i, end).join('\n').trim()))];
}

/** @param {string} line */
function interrupts(line) {
  return kFence.test(line) || kHeading.test(line) || kRule.test(line) || kQuote.test(line) || /^ {0,3}(?:[-*+]|1[.)])[ \t]+\S/.test(line);
}

/** @param {string[]} lines @param {number} i @param {string} mark @param {string} language @returns {[number, HTMLElement]} */
function codeAt(lines, i, mark, language) {
  let end = i + 1;
  const closing = new RegExp('^ {0,3}' + (mark[0] === '`' ? '`' : '~') + `{${mark.length},}[ \\t]*$`);
  while (end < lines.length && !closing.test(lines[end])) ++end;
  const code = lines.slice(i + 1, end).join('\n');
  return [Math.min(end, lines.length - 1) - i + 1, codeBlock(code, language)];
}

/** @param {string} code @param {string} language */
export function codeBlock(code, language) {
  /** @type {HTMLButtonElement} */
  const button = h('button', {type: 'button', class: 'copy', 'aria-label': 'Copy the code',
    on: {click: () => copy(button, code)}}, icon('copy'), h('span', {}, 'Copy'));
  return h('div', {class: 'code'}, h('div', {class: 'code-head'}, h('span', {}, language || 'text'), button),
    h('pre', {tabindex: '0'}, h('code', {}, highlight(code, language))));
}

/** @param {string[]} lines @param {number} i @returns {[number, HTMLElement]} */
function listAt(lines, i) {
  const first = /** @type {RegExpExecArray} */ (kItem.exec(lines[i]));
  const ordered = /\d/.test(first[2]);
  /** @type {string[][]} */
  const items = [];
  let end = i, indent = 0;
  for (; end < lines.length; ++end) {
    const line = lines[end];
    const item = kItem.exec(line);
    if (item && item[1].length <= first[1].length + 1 && /\d/.test(item[2]) === ordered && !kRule.test(line)) {
      indent = item[1].length + item[2].length + 1;
      items.push([item[3]]);
    } else if (!line.trim()) {
      const next = lines.slice(end + 1).find((one) => one.trim());
      if (next === undefined || !(next.startsWith(' '.repeat(Math.min(indent, 2))) || kItem.test(next))) break;
      items[items.length - 1].push('');
    } else if (line.startsWith('  ') || (lines[end - 1].trim() && !interrupts(line))) {
      items[items.length - 1].push(line.replace(new RegExp(`^ {0,${indent}}`), ''));
    } else {
      break;
    }
  }
  const made = items.map((item) => {
    const blocks = blocksOf(item.join('\n')).map(({node}) => node);
    const tight = blocks.length > 0 && blocks[0].tagName === 'P' ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks;
    return h('li', {}, ...tight);
  });
  const start = parseInt(first[2], 10);
  return [Math.max(1, end - i), ordered ? h('ol', {start: start === 1 ? null : start}, ...made) : h('ul', {}, ...made)];
}

/** @param {string} line */
const cellsOf = (line) => line.trim().replace(/^\||\|$/g, '').split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, '|'));

/** @param {string[]} lines @param {number} i @returns {[number, HTMLElement]} */
function tableAt(lines, i) {
  let end = i + 2;
  while (end < lines.length && lines[end].includes('|') && lines[end].trim()) ++end;
  const head = cellsOf(lines[i]);
  const right = cellsOf(lines[i + 1]).map((cell) => /^-+:$/.test(cell));
  const row = (/** @type {'th' | 'td'} */ tag, /** @type {string[]} */ cells) => h('tr', {},
    ...head.map((_, k) => h(tag, {class: right[k] ? 'right' : undefined, scope: tag === 'th' ? 'col' : null}, ...inlines(cells[k] ?? ''))));
  return [end - i, h('div', {class: 'table', tabindex: '0', role: 'group', 'aria-label': 'Table'}, h('table', {}, h('thead', {}, row('th', head)),
    h('tbody', {}, ...lines.slice(i + 2, end).map((line) => row('td', cellsOf(line))))))];
}

/** @type {[string, keyof HTMLElementTagNameMap][]} */
const kMarks = [['**', 'strong'], ['__', 'strong'], ['~~', 'del'], ['*', 'em'], ['_', 'em']];

/** @param {string} text @param {number} [depth] @returns {(Node | string)[]} */
export function inlines(text, depth = 0) {
  /** @type {(Node | string)[]} */
  const out = [];
  /** @type {Set<string>} */
  const unclosed = new Set();  // marks that nothing closes from here on
  let plain = '';
  const put = (/** @type {Node} */ node) => {
    if (plain) out.push(plain);
    plain = '';
    out.push(node);
  };
  for (let i = 0; i < text.length;) {
    const taken = depth < 12 ? inlineAt(text, i, depth, unclosed, put) : 0;
    if (taken > 0) {
      i += taken;
    } else if (text[i] === '\\' && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? '')) {
      plain += text[i + 1];
      i += 2;
    } else {
      plain += text[i++];
    }
  }
  if (plain) out.push(plain);
  return out;
}

/**
 * How much of the text at `i` is something of its own, which `put` gets; 0: nothing is.
 * @param {string} text @param {number} i @param {number} depth @param {Set<string>} unclosed @param {(node: Node) => void} put
 */
function inlineAt(text, i, depth, unclosed, put) {
  const c = text[i];
  if (c === '\n') {
    put(h('br'));
    return 1;
  }
  if (c === '`') {
    const ticks = /** @type {RegExpExecArray} */ (/^`+/.exec(text.slice(i, i + 16)))[0];
    const end = unclosed.has(ticks) ? -1 : text.indexOf(ticks, i + ticks.length);
    if (end < 0) {
      unclosed.add(ticks);
      return 0;
    }
    put(h('code', {}, text.slice(i + ticks.length, end).replace(/^ (.*) $/, '$1')));
    return end + ticks.length - i;
  }
  if (c === '[' || (c === '!' && text[i + 1] === '[')) {
    const link = /^!?\[([^\]\n]{0,1000})\]\((\S{1,2000}?)(?:[ \t]+"[^"\n]*")?\)/.exec(text.slice(i, i + 3200));
    if (!link || !/^(https?:|mailto:)/i.test(link[2])) return 0;
    put(h('a', {href: link[2], target: '_blank', rel: 'noopener noreferrer'}, ...inlines(link[1], depth + 1)));
    return link[0].length;
  }
  if (c === 'h' && !/\w/.test(text[i - 1] ?? '')) {
    const url = /^https?:\/\/[^\s<>"')\]]*[^\s<>"')\].,;:!?]/.exec(text.slice(i, i + 2000));
    if (!url) return 0;
    put(h('a', {href: url[0], target: '_blank', rel: 'noopener noreferrer'}, url[0]));
    return url[0].length;
  }
  for (const [mark, tag] of kMarks) {
    if (!text.startsWith(mark, i) || unclosed.has(mark) || !/\S/.test(text[i + mark.length] ?? '')) continue;
    if (mark[0] === '_' && /\w/.test(text[i - 1] ?? '')) continue;
    const end = closingOf(text, i + mark.length, mark);
    if (end < 0) {
      unclosed.add(mark);
      continue;
    }
    put(h(tag, {}, ...inlines(text.slice(i + mark.length, end), depth + 1)));
    return end + mark.length - i;
  }
  return 0;
}

/** @param {string} text @param {number} from @param {string} mark */
function closingOf(text, from, mark) {
  for (let at = from; (at = text.indexOf(mark, at)) >= 0; ++at) {
    const before = text[at - 1], behind = text[at + mark.length] ?? '';
    if (!/\S/.test(before) || before === '\\' || at === from) continue;
    if (mark.length === 1 && (behind === mark || before === mark)) continue;
    if (mark[0] === '_' && /\w/.test(behind)) continue;
    return at;
  }
  return -1;
}

/** Shows a text that may grow. */
export class MarkdownView {
  constructor() {
    this.root = h('div', {class: 'md'});
    this.text = '';
    /** @type {Block[]} */
    this.blocks = [];
  }
  /** @param {string} text */
  show(text) {
    if (text === this.text) return;
    const grows = text.startsWith(this.text);
    this.text = text;
    // The block before the last may still take lines in: an item of a list behind an empty line.
    const last = grows ? this.blocks.pop() : undefined;
    const from = last ? last.start : 0;
    if (last) last.node.remove();
    if (!grows) this.blocks = [];
    const made = blocksOf(text.slice(from), from);
    this.blocks.push(...made);
    if (last) this.root.append(...made.map(({node}) => node));
    else this.root.replaceChildren(...made.map(({node}) => node));
  }
}
