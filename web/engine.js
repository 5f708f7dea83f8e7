// @ts-check
// What the engine does, twice a second: streams, passes, the cache, what a pass costs, and what drafters bring.
import {duration, h, number} from './dom.js';
import {call} from './api.js';
import {LiveView} from './live.js';
import {Chart, short} from './plot.js';

const kPassesShown = 120, kInterval = 500;

/**
 * @param {string} label
 * @param {string} value
 * @param {string} [note]
 */
export function tile(label, value, note) {
  return h('div', {class: 'tile'}, h('dt', {}, label), h('dd', {}, value, note ? h('small', {}, ' ' + note) : null));
}

class EngineView extends LiveView {
  constructor() {
    super('Engine', kInterval);
    /** @type {{number: number, rows: number, prompt_rows: number, running: number, ms: number}[]} */
    this.passes = [];
    this.last = {time: 0, rows: 0, prompt_rows: 0};
    this.tiles = h('dl', {class: 'tiles'});
    this.streams = h('div', {class: 'table', tabindex: '0', role: 'region', 'aria-label': 'Streams under way'});
    this.cache = h('div', {class: 'cache'});
    this.drafters = h('div', {class: 'drafters'});
    this.rows = new Chart('Rows of each pass', {x: 'pass', zero: true, height: 150});
    this.ms = new Chart('Time of each pass', {x: 'pass', zero: true, height: 150, unit: ' ms'});
    this.costs = new Chart('What a verifying pass costs', {x: 'rows', zero: true, height: 190, unit: ' ms'});
    this.root = h('div', {class: 'page'}, h('div', {class: 'page-inner'},
      h('div', {class: 'page-head'}, h('h1', {}, 'Engine')), this.note, this.tiles,
      h('div', {class: 'two'}, h('section', {class: 'card'}, this.rows.root), h('section', {class: 'card'}, this.ms.root)),
      h('section', {class: 'card'}, h('h2', {}, 'Streams under way'), this.streams),
      h('div', {class: 'two'}, h('section', {class: 'card'}, h('h2', {}, 'Cache'), this.cache), h('section', {class: 'card'}, h('h2', {}, 'Drafters'), this.drafters)),
      h('section', {class: 'card'}, this.costs.root, h('p', {class: 'hint'}, 'Learned from the passes that ran; a draft is made as long as its rows bring more than they cost.'))));
  }

  async read() {
    this.draw(await call('/v1/engine?after=' + (this.passes[this.passes.length - 1]?.number ?? 0)));
  }

  /** @param {any} state */
  draw(state) {
    this.passes = [...this.passes, ...state.passes].slice(-kPassesShown);
    const now = performance.now();
    const seconds = (now - this.last.time) / 1000;
    const rate = this.last.time ? (state.rows - this.last.rows) / seconds : 0;
    this.last = {time: now, rows: state.rows, prompt_rows: state.prompt_rows};
    const {cache, prefix} = state;
    this.tiles.replaceChildren(
      tile('Streams', number(state.running), `of ${state.places}`), tile('Waiting', number(state.waiting)),
      tile('Rows/s', number(rate)), tile('Passes', short(state.steps)),
      tile('Cache', `${cache.pages ? Math.round(100 * (cache.used + cache.remembered) / cache.pages) : 0} %`, `of ${short(cache.pages * 16)}`),
      tile('Prompt hits', prefix.queries ? `${Math.round(100 * prefix.hits / prefix.queries)} %` : '–'),
      tile('Drafts', state.drafts.speedup ? `${number(state.drafts.speedup, 2)} ×` : '–', state.drafts.speedup ? 'plain' : ''));
    this.rows.set([{name: 'all', color: 1, kind: 'bars', points: this.passes.map((pass) => [pass.number, pass.rows])},
      {name: 'of prompts', color: 2, kind: 'bars', points: this.passes.map((pass) => [pass.number, pass.prompt_rows])}]);
    this.ms.set([{name: 'pass', color: 3, points: this.passes.map((pass) => [pass.number, pass.ms])}]);
    this.costs.set([{name: 'pass', color: 1, points: state.drafts.pass_costs.map((/** @type {any} */ cost) => [cost.rows, cost.ms])}],
    );
    this.drawStreams(state.streams);
    this.drawCache(cache);
    this.drawDrafters(state.drafts);
  }

  /** @param {any[]} streams */
  drawStreams(streams) {
    if (!streams.length) {
      this.streams.replaceChildren(h('p', {class: 'hint'}, 'None.'));
      return;
    }
    const head = ['Request', 'Model', 'Prompt', 'Tokens', 'Drafted', 'Rate', 'Since'];
    this.streams.replaceChildren(h('table', {class: 'wide'},
      h('thead', {}, h('tr', {}, ...head.map((text, i) => h('th', {scope: 'col', class: i > 1 ? 'right' : undefined}, text)))),
      h('tbody', {}, ...streams.map((one) => h('tr', {}, h('td', {class: 'mono'}, one.id.slice(0, 18)), h('td', {}, one.model),
        h('td', {class: 'right'}, number(one.prompt_tokens)), h('td', {class: 'right'}, number(one.tokens)),
        h('td', {class: 'right'}, one.tokens ? `${Math.round(100 * one.drafted_tokens / one.tokens)} %` : '–'),
        h('td', {class: 'right'}, `${number(one.tokens / Math.max(one.seconds, 0.01))}/s`), h('td', {class: 'right'}, duration(one.seconds)))))));
  }

  /** @param {{pages: number, used: number, shared: number, remembered: number, evicted: number}} cache */
  drawCache(cache) {
    const parts = [{name: 'under way', color: 1, pages: cache.used}, {name: 'remembered', color: 2, pages: cache.remembered},
      {name: 'free', color: 0, pages: Math.max(0, cache.pages - cache.used - cache.remembered)}];
    this.cache.replaceChildren(
      h('div', {class: 'stack-bar', role: 'img', 'aria-label': parts.map(({name, pages}) => `${name} ${pages} pages`).join(', ')},
        ...parts.map(({color, pages}) => {
          const part = h('span', {class: 's' + color});
          part.style.setProperty('flex-grow', String(pages));
          return part;
        })),
      h('ul', {class: 'key'}, ...parts.map(({name, color, pages}) => h('li', {class: 's' + color}, h('i', {}), `${name} `, h('b', {}, number(pages))))),
      h('p', {class: 'hint'}, `Pages of 16 tokens. ${number(cache.shared)} are shared by several streams; ${number(cache.evicted)} were given up so far.`));
  }

  /** @param {any} drafts */
  drawDrafters(drafts) {
    if (!drafts.drafters.length) {
      this.drafters.replaceChildren(h('p', {class: 'hint'}, 'No drafter has worked yet.'));
      return;
    }
    this.drafters.replaceChildren(h('table', {class: 'wide'},
      h('thead', {}, h('tr', {}, ...['Drafter', 'Drafted', 'Kept', ''].map((text, i) => h('th', {scope: text ? 'col' : undefined, class: i === 1 || i === 2 ? 'right' : undefined}, text)))),
      h('tbody', {}, ...drafts.drafters.map((/** @type {any} */ one) => {
        const share = one.drafted ? one.accepted / one.drafted : 0;
        const fill = h('span', {class: 'meter-fill'});
        fill.style.setProperty('width', 100 * share + '%');
        return h('tr', {}, h('th', {scope: 'row'}, one.name), h('td', {class: 'right'}, number(one.drafted)), h('td', {class: 'right'}, number(one.accepted)),
          h('td', {}, h('span', {class: 'share'}, h('span', {class: 'meter-bar'}, fill), `${Math.round(100 * share)} %`)));
      }))), h('p', {class: 'hint'}, `${number(drafts.tokens)} tokens in ${number(drafts.passes)} passes behind the prompts.`));
  }
}

/** @type {EngineView | null} */
let only = null;
export function engineView() {
  only ??= new EngineView();
  return only;
}
