// @ts-check
// Starts a run: data and options, the forecast first.
import {bytes, dialog, duration, field, h, number} from './dom.js';
import {call} from './api.js';
import {numberField} from './settings.js';
import {previewOf} from './training.js';
import {tile} from './engine.js';

const kMostData = 24 << 20;
const kKinds = [['lora', 'LoRA'], ['prefix', 'Prefix'], ['medusa', 'Draft heads (Medusa)'], ['mtp', 'Draft heads (MTP)'], ['exit', 'Early exit']];

/** @typedef {{[name: string]: string | number | boolean}} Body */

export class TrainingForm {
  /**
   * @param {string[]} taken names of runs
   * @param {(name: string) => void} started
   */
  constructor(taken, started) {
    this.started = started;
    this.text = '';
    /** @type {Body} */
    this.values = {epochs: 3, batch_size: 4, seq_len: 256, seed: 0};
    let n = 1;
    while (taken.includes('run-' + n)) ++n;
    this.name = h('input', {required: true, pattern: '[A-Za-z0-9_][A-Za-z0-9._\\-]{0,63}', value: 'run-' + n, autocomplete: 'off', spellcheck: 'false',
      title: 'Letters, digits, dots, dashes and underscores'});
    this.kind = h('select', {on: {change: () => this.changed(true)}}, ...kKinds.map(([value, text]) => h('option', {value}, text)));
    this.file = h('input', {type: 'file', accept: '.jsonl,.json,.txt', on: {change: () => this.readFile()}});
    this.counted = h('span', {class: 'hint'}, 'JSON lines, a JSON array, or a text; as for `cambium train`');
    this.schedule = h('select', {on: {change: () => this.changed()}}, ...['cosine', 'linear', 'constant'].map((value) => h('option', {value}, value)));
    this.precision = h('select', {on: {change: () => this.changed()}}, ...['bf16', 'fp16', 'fp32'].map((value) => h('option', {value}, value)));
    this.options = h('div', {class: 'fields'});
    this.yes = h('input', {type: 'checkbox', on: {change: () => this.changed()}});
    this.result = h('div', {class: 'forecast', role: 'status'});
    this.plan = h('button', {type: 'button', disabled: true, on: {click: () => this.forecast()}}, 'Forecast');
    this.go = h('button', {class: 'primary', disabled: true}, 'Start');
    this.form = h('form', {class: 'stack', on: {submit: (event) => {
      event.preventDefault();
      this.start();
    }}},
    h('div', {class: 'fields'}, field('Name', this.name), field('What is trained', this.kind)),
    h('label', {class: 'field'}, h('span', {class: 'field-label'}, 'Examples'), this.file, this.counted), this.options,
    h('label', {class: 'tick'}, this.yes, h('span', {}, 'Train even if the stop token is not trained')), this.result,
    h('div', {class: 'row end'}, this.plan, this.go));
    this.changed(true);
    this.box = dialog('New run', {}, this.form);
    this.box.addEventListener('close', () => this.asking?.abort());
    /** @type {AbortController | undefined} */
    this.asking = undefined;
  }

  /**
   * A forecast speaks for the options that it was made with alone.
   * @param {boolean} [kind] another kind has other options
   */
  changed(kind = false) {
    this.go.disabled = true;
    this.result.replaceChildren();
    this.plan.disabled = !this.text;
    if (!kind) return;
    const of = this.kind.value, heads = ['medusa', 'mtp', 'exit'].includes(of);
    const one = (/** @type {string} */ label, /** @type {string} */ name, /** @type {any} */ range) => numberField(label,
      /** @type {number} */ (this.values[name] ?? null), range, (value) => {
        if (value === null) delete this.values[name];
        else this.values[name] = value;
        this.changed();
      });
    for (const name of ['rank', 'alpha', 'length', 'heads', 'lr']) delete this.values[name];
    this.options.replaceChildren(
      ...(of === 'lora' ? [one('Rank', 'rank', {min: 1, max: 4096, step: 1, placeholder: '8'}), one('Alpha', 'alpha', {min: 0, step: 'any', placeholder: '16'})] : []),
      ...(of === 'prefix' ? [one('Length, tokens', 'length', {min: 1, max: 4096, step: 1, placeholder: '16'})] : []),
      ...(heads && of !== 'exit' ? [one('Tokens ahead', 'heads', {min: 1, max: 16, step: 1, placeholder: '4'})] : []),
      one('Epochs', 'epochs', {min: 0.01, step: 'any'}), one('Steps (none: epochs)', 'steps', {min: 0, step: 1, placeholder: '0'}),
      one('Learning rate', 'lr', {min: 0, max: 100, step: 'any', placeholder: 'its default'}), one('Batch size', 'batch_size', {min: 1, step: 1}),
      one('Tokens of an example', 'seq_len', {min: 2, step: 1}), one('Share for validation', 'valid_split', {min: 0, max: 0.9, step: 'any', placeholder: '0'}),
      one('Seed', 'seed', {min: 0, step: 1}), field('Schedule', this.schedule), field('Precision', this.precision));
  }

  async readFile() {
    const file = this.file.files?.[0];
    this.text = '';
    if (file && file.size > kMostData) this.counted.textContent = `The file has ${bytes(file.size)}, at most ${bytes(kMostData)} may be sent`;
    else if (file) {
      this.text = await file.text();
      this.counted.textContent = `${file.name}: ${number(this.text.split('\n').filter((line) => line.trim()).length)} lines, ${bytes(file.size)}`;
    }
    this.changed();
  }

  /** @returns {Body} */
  body() {
    return {...this.values, graft: this.kind.value, schedule: this.schedule.value, precision: this.precision.value, yes: this.yes.checked, data: this.text};
  }

  /** @param {string} text */
  fail(text) {
    this.result.replaceChildren(h('p', {class: 'error'}, text));
  }

  async forecast() {
    if (!this.form.reportValidity()) return;
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    this.plan.disabled = true;
    this.result.replaceChildren(h('p', {class: 'hint waiting'}, 'The model is loaded a second time, and two small steps are run …'));
    try {
      const plan = await call('/v1/training/plan', {body: this.body(), admin: true, signal: asking.signal});
      this.result.replaceChildren(h('dl', {class: 'tiles'}, tile('Trained', number(plan.parameters), 'numbers'), tile('Examples', number(plan.examples)),
        tile('Steps', number(plan.steps)), tile('Time', duration(plan.seconds)), tile('Memory', bytes(plan.peak_bytes)),
        tile('Learned tokens', number(plan.trained_tokens), `of ${number(plan.tokens)}`)),
      plan.truncated_examples ? h('p', {class: 'hint'}, `${plan.truncated_examples} examples are cut to ${this.values.seq_len} tokens`) : '',
      plan.stop_token_trained ? '' : h('p', {class: 'error'}, 'The stop token is not trained: answers would not end.'), previewOf(plan.preview));
      this.go.disabled = false;
    } catch (error) {
      if (!asking.signal.aborted) this.fail(/** @type {Error} */ (error).message);
    }
    this.plan.disabled = false;
  }

  async start() {
    if (this.go.disabled) return;
    this.go.disabled = true;
    try {
      const {name} = await call('/v1/training/runs', {body: {...this.body(), name: this.name.value.trim()}, admin: true});
      this.box.close();
      this.started(name);
    } catch (error) {
      this.fail(/** @type {Error} */ (error).message);
      this.go.disabled = false;
    }
  }
}
