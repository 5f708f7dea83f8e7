// @ts-check
// One prompt to the base and to grafts, side by side, streamed together.
import {h, icon, iconButton} from './dom.js';
import {server} from './api.js';
import {keepSetting, setting} from './store.js';
import {kDefaults} from './tree.js';
import {AnswerView, generate, graftNames} from './answer.js';
import {graftPicker, samplingFields} from './settings.js';

/** @typedef {{grafts: import('./api.js').GraftUse[], head: HTMLElement, place: HTMLElement, root: HTMLElement, view: AnswerView | null}} Column */

const kMostColumns = 8;

class CompareView {
  constructor() {
    this.title = 'Compare';
    /** @type {Column[]} */
    this.columns = [];
    this.made = 0;  // columns ever
    /** @type {AbortController | null} */
    this.running = null;
    this.sampling = {...kDefaults, max_tokens: 256, seed: 1};
    this.drafts = setting('drafts', false);
    this.touched = false;
    this.prompt = h('textarea', {rows: '3', placeholder: 'One prompt for all of them', 'aria-label': 'Prompt', on: {keydown: (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.run();
      }
    }}});
    this.system = h('input', {placeholder: 'System prompt (none)', 'aria-label': 'System prompt'});
    this.go = h('button', {class: 'primary'}, icon('send'), h('span', {}, 'Ask all'));
    this.toggle = h('button', {type: 'button', class: 'toggle', 'aria-pressed': String(this.drafts), on: {click: () => this.setDrafts()}}, icon('drafts'), 'Drafts');
    this.grid = h('div', {class: 'columns'});
    this.addButton = h('button', {type: 'button', on: {click: () => this.add([])}}, icon('plus'), 'Column');
    this.root = h('div', {class: 'page'}, h('div', {class: 'page-inner wide'},
      h('div', {class: 'page-head'}, h('h1', {}, 'Compare'), h('div', {class: 'row'}, this.toggle, this.addButton)),
      h('form', {class: 'card ask', on: {submit: (event) => {
        event.preventDefault();
        if (this.running) this.running.abort();
        else this.run();
      }}}, this.system, this.prompt, h('div', {class: 'row'}, h('details', {class: 'more'}, h('summary', {}, 'Sampling'),
        h('div', {class: 'fields'}, ...samplingFields(this, () => {}))), this.go)), this.grid));
    addEventListener('met', () => this.refresh());
    this.refresh();
  }

  /** Until something is chosen: the base, and each graft alone. */
  refresh() {
    if (this.touched || this.running || !server.ready) return;
    this.columns = [];
    this.grid.replaceChildren();
    this.add([]);
    for (const graft of server.grafts.slice(0, 3)) this.add([{name: graft.id, scale: 1}]);
    if (this.columns.length === 1 && server.grafts.length === 0) this.grid.append(h('p', {class: 'hint none'},
      'No graft is served. Start with --graft NAME=PATH, or train one and load it.'));
  }

  /** @param {import('./api.js').GraftUse[]} grafts */
  add(grafts) {
    if (this.columns.length >= kMostColumns) return;
    this.grid.querySelector('.none')?.remove();
    const number = ++this.made;
    /** @type {Column} */
    const column = {grafts, head: h('h2'), place: h('div', {class: 'column-text', tabindex: '0', role: 'region', 'aria-label': `Answer of column ${number}`}), root: h('section'), view: null};
    column.root = h('section', {class: 'card column', 'aria-label': `Column ${number}`}, h('div', {class: 'card-head'}, column.head,
      iconButton('close', 'Remove the column', () => {
        this.touched = true;
        this.columns = this.columns.filter((one) => one !== column);
        column.root.remove();
      })), h('details', {class: 'more'}, h('summary', {}, 'Grafts'), graftPicker(grafts, (chosen) => {
      this.touched = true;
      column.grafts = chosen;
      this.name(column);
    })), column.place);
    this.name(column);
    this.columns.push(column);
    this.grid.append(column.root);
  }

  /** @param {Column} column */
  name(column) {
    column.head.textContent = graftNames(column.grafts);
  }

  setDrafts() {
    this.drafts = !this.drafts;
    keepSetting('drafts', this.drafts);
    this.toggle.setAttribute('aria-pressed', String(this.drafts));
    for (const {view} of this.columns) view?.setDrafts(this.drafts);
  }

  async run() {
    const content = this.prompt.value.trim();
    if (this.running || !content || !this.columns.length) return;
    this.touched = true;
    const controller = this.running = new AbortController();
    const messages = [{role: 'user', content}];
    if (this.system.value.trim()) messages.unshift({role: 'system', content: this.system.value.trim()});
    this.setGo('stop', 'Stop');
    await Promise.all(this.columns.map((column) => this.ask(column, messages, controller.signal)));
    this.running = null;
    this.setGo('send', 'Ask all');
  }

  /** @param {'send' | 'stop'} name @param {string} text */
  setGo(name, text) {
    this.go.replaceChildren(icon(name), h('span', {}, text));
  }

  /** @param {Column} column @param {{role: string, content: string}[]} messages @param {AbortSignal} signal */
  async ask(column, messages, signal) {
    /** @type {import('./tree.js').Message} */
    const message = {id: '', parent: '', role: 'assistant', content: '', trace: {tokens: [], passes: [], drafters: [], left: 0}};
    const view = column.view = new AnswerView(message, this.drafts);
    view.live = true;
    column.place.replaceChildren(view.root);
    view.draw();
    await generate(message, messages, {sampling: this.sampling, grafts: column.grafts}, signal, () => view.later());
    view.live = false;
    view.setDrafts(this.drafts);
  }

  /** @param {string} name */
  shortcut(name) {
    if (name !== 'stop' || !this.running) return false;
    this.running.abort();
    return true;
  }
}

/** @type {CompareView | null} */
let only = null;
export function compareView() {
  only ??= new CompareView();
  return only;
}
