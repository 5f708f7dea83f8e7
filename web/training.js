// @ts-check
// Runs of training: laid over each other, one in detail, and a form that starts another.
import {announce, bytes, duration, h, icon, number, toast} from './dom.js';
import {call, keyOf, meet, server} from './api.js';
import {LiveView} from './live.js';
import {Chart, short, smooth} from './plot.js';
import {tile} from './engine.js';
import {TrainingForm} from './training_form.js';

/** @typedef {{step: number, loss?: number, valid_loss?: number, lr?: number, tokens?: number, tokens_per_s?: number, loss_scale?: number, grad_norm?: number, heads_loss?: number}} Line */
/** @typedef {{name: string, state: string, kind: string | null, started: number | null, changed: number, steps: number | null, last: Line | null}} Summary */
/** @typedef {{detail: any, lines: Line[], next: number, color: number}} Loaded */

const kMostOver = 6, kInterval = 1000;

class TrainingView extends LiveView {
  constructor() {
    super('Training', kInterval);
    /** @type {Summary[]} */
    this.runs = [];
    /** @type {Map<string, Loaded>} */
    this.loaded = new Map();
    this.focus = '';
    this.list = h('ul', {class: 'runs'});
    this.detail = h('div', {class: 'run-detail'});
    this.head = h('div', {class: 'run-head'});
    this.tiles = h('dl', {class: 'tiles'});
    this.charts = {
      loss: new Chart('Loss', {x: 'step', height: 240}), speed: new Chart('Tokens/s', {x: 'step', zero: true, height: 140}),
      lr: new Chart('Learning rate', {x: 'step', zero: true, height: 140}), norm: new Chart('Gradient norm', {x: 'step', zero: true, height: 140}),
      scale: new Chart('Loss scale', {x: 'step', zero: true, height: 140}),
    };
    this.scaleCard = h('section', {class: 'card'}, this.charts.scale.root);
    this.preview = h('section', {class: 'card', hidden: true});
    this.log = h('pre', {class: 'log', tabindex: '0', role: 'region', 'aria-label': 'Output'});
    this.logCard = h('details', {class: 'card more'}, h('summary', {}, 'Output'), this.log);
    this.detail.append(this.head, this.tiles, h('section', {class: 'card'}, this.charts.loss.root),
      h('div', {class: 'two'}, h('section', {class: 'card'}, this.charts.speed.root), h('section', {class: 'card'}, this.charts.lr.root),
        h('section', {class: 'card'}, this.charts.norm.root), this.scaleCard), this.preview, this.logCard);
    this.newButton = h('button', {type: 'button', class: 'primary', on: {click: () => this.start()}}, icon('plus'), 'New run');
    this.empty = h('section', {class: 'card empty-runs', hidden: true});
    this.body = h('div', {class: 'training'}, h('aside', {class: 'card', 'aria-label': 'Runs'}, h('h2', {}, 'Runs'), this.list), this.detail);
    this.root = h('div', {class: 'page'}, h('div', {class: 'page-inner wide'},
      h('div', {class: 'page-head'}, h('h1', {}, 'Training'), this.newButton), this.note, this.empty, this.body));
    addEventListener('met', () => this.root.isConnected && this.look());
  }

  async read() {
    if (!server.ready) return;
    this.newButton.hidden = !server.runs || !server.admin;
    if (!server.runs) {
      this.show('Start the server with --runs DIR to see the runs below a directory. With --admin-key-file FILE they are started here too.');
      return;
    }
    this.runs = (await call('/v1/training/runs')).runs;
    if (!this.runs.length) {
      this.show('No run yet. A run is a directory that `cambium train -o` writes, or one that is started here.');
      return;
    }
    this.show('');
    if (!this.loaded.has(this.focus)) this.choose(this.runs[0].name);
    for (const [name, run] of this.loaded) {
      if (!this.runs.some((one) => one.name === name)) this.loaded.delete(name);
      else if (run.detail === null || this.moves(name)) await this.readRun(name, run);
    }
    this.draw();
  }

  /**
   * Whether a run may have more than what is loaded of it.
   * @param {string} name
   */
  moves(name) {
    const run = this.runs.find((one) => one.name === name), loaded = this.loaded.get(name);
    return run && loaded && (run.state !== loaded.detail.state || run.changed !== loaded.detail.changed || ['running', 'stopping'].includes(run.state));
  }

  /**
   * @param {string} name
   * @param {Loaded} run
   */
  async readRun(name, run) {
    const was = run.detail?.state;
    for (;;) {
      const detail = await call(`/v1/training/runs/${name}?after=${run.next}`);
      if (detail.from !== run.next) run.lines = [];
      run.lines.push(...detail.metrics);
      run.next = detail.next;
      run.detail = detail;
      if (!detail.more) break;
    }
    if (was === 'running' && run.detail.state !== 'running') announce(`The run ${name} is ${run.detail.state}`);
  }

  /** @param {string} text */
  show(text) {
    this.empty.hidden = !text;
    this.empty.replaceChildren(h('p', {}, text));
    this.body.hidden = !!text;
  }

  /** @param {string} name */
  choose(name) {
    this.focus = name;
    if (!this.loaded.has(name)) this.lay(name);
  }

  /**
   * Lays a run over the others, in a colour that is free.
   * @param {string} name
   */
  lay(name) {
    if (this.loaded.size >= kMostOver) return;
    const taken = new Set([...this.loaded.values()].map(({color}) => color));
    const color = [1, 2, 3, 4, 5, 7].find((one) => !taken.has(one)) ?? 6;
    this.loaded.set(name, {detail: null, lines: [], next: 0, color});
  }

  // -- drawing

  draw() {
    this.drawList();
    this.drawCharts();
    const run = this.loaded.get(this.focus);
    if (run?.detail) this.drawDetail(run);
  }

  drawList() {
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    const had = this.list.contains(before) ? before?.dataset.for : undefined;
    this.list.replaceChildren(...this.runs.map((run) => {
      const loaded = this.loaded.get(run.name);
      const tick = h('input', {type: 'checkbox', checked: !!loaded, 'data-for': 'tick ' + run.name, 'aria-label': `Lay ${run.name} over the others`, on: {change: () => {
        if (tick.checked) this.lay(run.name);
        else this.loaded.delete(run.name);
        if (!this.loaded.has(this.focus)) this.focus = [...this.loaded.keys()][0] ?? '';
        this.look();
      }}});
      const part = run.steps && run.last ? Math.min(1, run.last.step / run.steps) : null;
      return h('li', {class: run.name === this.focus ? 'open' : ''}, h('label', {class: 'run-tick'}, tick),
        h('button', {type: 'button', 'data-for': run.name, 'aria-current': run.name === this.focus ? 'true' : undefined, on: {click: () => {
          this.choose(run.name);
          this.look();
        }}}, h('span', {class: 'run-name' + (loaded ? ' s' + loaded.color : '')}, loaded ? h('i', {}) : null, run.name),
        h('span', {class: 'run-note'}, [run.kind, run.state, run.state === 'running' && part !== null ? `${Math.round(100 * part)} %` : null,
          run.last?.loss !== undefined ? `loss ${short(run.last.loss)}` : null].filter((one) => one).join(' · '))));
    }));
    if (had) /** @type {HTMLElement | null} */ (this.list.querySelector(`[data-for="${CSS.escape(had)}"]`))?.focus();
  }

  drawCharts() {
    const runs = [...this.loaded].filter(([, run]) => run.detail);
    const of = (/** @type {keyof Line} */ key) => runs.map(([name, {lines, color}]) => ({name, color,
      points: /** @type {[number, number][]} */ (lines.filter((line) => Number.isFinite(line[key])).map((line) => [line.step, line[key]]))}));
    const loss = of('loss'), valid = of('valid_loss').filter(({points}) => points.length);
    this.charts.loss.set([...loss.map((one) => ({...one, kind: /** @type {'faint'} */ ('faint')})),
      ...loss.map((one) => ({...one, points: smooth(one.points)})),
      ...valid.map((one) => ({...one, name: one.name + ', validation', kind: /** @type {'dots'} */ ('dots')}))]);
    this.charts.speed.set(of('tokens_per_s').map((one) => ({...one, points: smooth(one.points)})));
    this.charts.lr.set(of('lr'));
    this.charts.norm.set(of('grad_norm').map((one) => ({...one, points: smooth(one.points)})));
    const scale = of('loss_scale');
    this.scaleCard.hidden = !scale.some(({points}) => points.some(([, value]) => value !== 1));
    if (!this.scaleCard.hidden) this.charts.scale.set(scale);
  }

  /** @param {Loaded} run */
  drawDetail(run) {
    const {detail, lines} = run;
    const last = detail.last ?? {}, steps = detail.plan?.steps ?? detail.steps;
    const live = detail.state === 'running' || detail.state === 'stopping';
    const best = lines.reduce((low, line) => Math.min(low, line.valid_loss ?? Infinity), Infinity);
    this.drawHead(detail, live);
    const recent = lines.filter((line) => line.tokens_per_s && line.tokens).slice(-20);
    const perStep = recent.reduce((sum, line) => sum + (line.tokens ?? 0) / (line.tokens_per_s ?? 1), 0) / Math.max(1, recent.length);
    const tiles = [tile('Step', last.step ? number(last.step) : '–', steps ? `of ${number(steps)}` : ''),
      tile('Loss', last.loss !== undefined ? number(last.loss, 4) : '–'), tile('Validation', Number.isFinite(best) ? number(best, 4) : '–', Number.isFinite(best) ? 'best' : ''),
      tile('Tokens/s', last.tokens_per_s ? number(last.tokens_per_s) : '–'),
      live ? tile('Left', steps && last.step && perStep ? duration((steps - last.step) * perStep) : '–') : tile('State', detail.state),
      tile('Learning rate', last.lr !== undefined ? short(last.lr) : '–')];
    if (last.loss_scale !== undefined && last.loss_scale !== 1) tiles.push(tile('Loss scale', short(last.loss_scale)));
    const memory = detail.memory?.now ? bytes(detail.memory.now) : detail.plan ? bytes(detail.plan.peak_bytes) : '–';
    tiles.push(tile('Memory', memory, detail.memory?.now ? `peak ${bytes(detail.memory.peak)}` : detail.plan ? 'forecast' : ''));
    this.tiles.replaceChildren(...tiles);
    this.preview.hidden = !detail.plan?.preview;
    if (detail.plan?.preview && this.preview.dataset.of !== detail.name) {
      this.preview.dataset.of = detail.name;
      this.preview.replaceChildren(h('h2', {}, 'What is trained'), previewOf(detail.plan.preview));
    }
    this.logCard.hidden = !detail.log;
    if (this.log.textContent !== detail.log) this.log.textContent = detail.log;
  }

  /**
   * @param {any} detail
   * @param {boolean} live
   */
  drawHead(detail, live) {
    const mark = [detail.name, detail.state, detail.load_path, server.allowLoad].join();
    if (this.head.dataset.of === mark) return;
    this.head.dataset.of = mark;
    this.head.replaceChildren(h('h2', {}, detail.name), h('span', {class: 'state ' + detail.state}, detail.state));
    if (live && server.admin) {
      this.head.append(h('button', {type: 'button', class: 'danger', disabled: detail.state === 'stopping', on: {click: () => this.stop(detail.name)}}, icon('stop'), 'Stop'));
    }
    if (!live && detail.load_path && detail.state !== 'failed') {
      this.head.append(h('button', {type: 'button', class: 'primary', on: {click: (event) => this.tryOut(event.currentTarget, detail)}}, 'Try it in the chat'));
    }
    if (detail.state === 'failed') this.head.append(h('p', {class: 'error'}, detail.log.trim().split('\n').pop()));
  }

  // -- doing

  /** @param {string} name */
  async stop(name) {
    try {
      await call('/v1/training/runs/' + name, {method: 'DELETE', admin: true});
      this.look();
    } catch (error) {
      toast(/** @type {Error} */ (error).message);
    }
  }

  /**
   * Loads what was trained, in place of an older one of its name, and opens a chat with it.
   * @param {HTMLButtonElement} button
   * @param {any} detail
   */
  async tryOut(button, detail) {
    button.disabled = true;
    try {
      await call('/v1/load_lora_adapter', {admin: true, body: {lora_name: detail.name, lora_path: detail.load_path, load_inplace: true}});
      await meet();
      const {chatView} = await import('./chat.js');
      chatView().tryOut([{name: detail.name, scale: 1}]);
      location.hash = 'chat';
    } catch (error) {
      toast(/** @type {Error} */ (error).message);
    }
    button.disabled = false;
  }

  start() {
    if (!keyOf('admin')) {
      toast('Training asks for an admin key: give it under Keys.', false);
      dispatchEvent(new CustomEvent('key-needed'));
      return;
    }
    new TrainingForm(this.runs.map(({name}) => name), (name) => {
      this.choose(name);
      this.look();
    });
  }
}

/**
 * The first example, with what is trained on marked.
 * @param {{text: string, trained: boolean}[]} parts
 */
export function previewOf(parts) {
  return h('div', {}, h('div', {class: 'preview', tabindex: '0', role: 'region', 'aria-label': 'The first example'}, ...parts.map(({text, trained}) => trained ? h('mark', {}, text) : text)),
    h('p', {class: 'hint'}, 'The first example. What is marked is learned; the rest is only read.'));
}

/** @type {TrainingView | null} */
let only = null;
export function trainingView() {
  only ??= new TrainingView();
  return only;
}
