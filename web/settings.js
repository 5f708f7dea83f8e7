// @ts-check
// The fields that say how to answer, and the picker of grafts; chat and compare share them.
import {h, number} from './dom.js';
import {server} from './api.js';

/** @typedef {import('./api.js').GraftUse} GraftUse */

/**
 * A slider beside its number.
 * @param {string} label @param {number} value @param {{min: number, max: number, step: number}} range
 * @param {(value: number) => void} changed
 */
export function slider(label, value, range, changed) {
  const digits = range.step < 0.1 ? 2 : range.step < 1 ? 1 : 0;
  const shown = h('span', {class: 'value'}, number(value, digits));
  const input = h('input', {type: 'range', ...range, value: String(value), on: {input: () => {
    shown.textContent = number(Number(input.value), digits);
    changed(Number(input.value));
  }}});
  return h('label', {class: 'field slider'}, h('span', {class: 'field-label'}, label, shown), input);
}

/**
 * @param {string} label @param {number | null} value @param {{min?: number, max?: number, step?: any, placeholder?: string}} range
 * @param {(value: number | null) => void} changed
 */
export function numberField(label, value, range, changed) {
  const input = h('input', {type: 'number', inputmode: 'decimal', ...range, value: value === null ? '' : String(value), on: {change: () => {
    if (input.reportValidity()) changed(input.value === '' ? null : Number(input.value));
  }}});
  return h('label', {class: 'field'}, h('span', {class: 'field-label'}, label), input);
}

/**
 * Every graft that is served, with a tick and a scale; several may be ticked.
 * @param {GraftUse[]} chosen @param {(grafts: GraftUse[]) => void} changed
 */
export function graftPicker(chosen, changed) {
  const uses = new Map(chosen.map(({name, scale}) => [name, scale]));
  const tell = () => changed([...uses].map(([name, scale]) => ({name, scale})));
  const rows = server.grafts.map((graft) => {
    const scale = h('input', {type: 'number', step: '0.1', min: '-4', max: '4', class: 'scale', value: String(uses.get(graft.id) ?? 1),
      'aria-label': `Scale of ${graft.id}`, disabled: !uses.has(graft.id), on: {change: () => {
        if (!scale.reportValidity()) return;
        uses.set(graft.id, Number(scale.value));
        tell();
      }}});
    const tick = h('input', {type: 'checkbox', checked: uses.has(graft.id), on: {change: () => {
      if (tick.checked) uses.set(graft.id, Number(scale.value));
      else uses.delete(graft.id);
      scale.disabled = !tick.checked;
      tell();
    }}});
    return h('div', {class: 'graft'}, h('label', {class: 'tick'}, tick, h('span', {}, graft.id),
      h('span', {class: 'kind'}, (graft.kinds ?? []).join(', '))), scale);
  });
  return h('fieldset', {class: 'grafts'}, h('legend', {}, 'Grafts'),
    rows.length ? rows : h('p', {class: 'hint'}, 'None is served. Start with --graft NAME=PATH, or train one.'));
}

/**
 * @param {{sampling: import('./tree.js').Sampling}} owner @param {() => void} changed
 */
export function samplingFields(owner, changed) {
  const {sampling} = owner;
  const set = (/** @type {'temperature' | 'top_p' | 'top_k' | 'min_p'} */ name) => (/** @type {number} */ value) => {
    sampling[name] = value;
    changed();
  };
  const draft = h('select', {on: {change: () => {
    sampling.draft = draft.value;
    changed();
  }}}, ...[['auto', 'Automatic'], ['none', 'None'], ['ngram', 'n-gram'], ['recycle', 'Recycling']].map(([value, name]) =>
    h('option', {value, selected: sampling.draft === value}, name)));
  return [
    slider('Temperature', sampling.temperature, {min: 0, max: 2, step: 0.05}, set('temperature')),
    slider('Top-p', sampling.top_p, {min: 0.05, max: 1, step: 0.01}, set('top_p')),
    slider('Top-k (0: all)', sampling.top_k, {min: 0, max: 200, step: 1}, set('top_k')),
    slider('Min-p', sampling.min_p, {min: 0, max: 0.5, step: 0.01}, set('min_p')),
    h('div', {class: 'pair'},
      numberField('Most tokens', sampling.max_tokens, {min: 1, max: 1000000, step: 1, placeholder: 'context'}, (value) => {
        sampling.max_tokens = value ?? 0;
        changed();
      }),
      numberField('Seed', sampling.seed, {min: 0, max: 9007199254740991, step: 1, placeholder: 'a new one'}, (value) => {
        sampling.seed = value;
        changed();
      })),
    h('label', {class: 'field'}, h('span', {class: 'field-label'}, 'Drafts'), draft),
  ];
}
