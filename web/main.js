// @ts-check
// The frame: views by the address's #, theme, keys, and who answers.
import {dialog, field, h, icon, iconButton} from './dom.js';
import {keyOf, meet, server, setKey} from './api.js';

/** @typedef {{root: HTMLElement, title: string, enter?: () => void, leave?: () => void, shortcut?: (key: string) => boolean}} View */

/** @type {Object<string, () => Promise<View>>} */
const kViews = {
  chat: async () => (await import('./chat.js')).chatView(),
  compare: async () => (await import('./compare.js')).compareView(),
  training: async () => (await import('./training.js')).trainingView(),
  engine: async () => (await import('./engine.js')).engineView(),
};

/** @type {Object<string, View>} */
const made = {};
/** @type {View | null} */
let shown = null;
const main = /** @type {HTMLElement} */ (document.getElementById('main'));

async function show() {
  const name = location.hash.slice(1).split('/')[0];
  const wanted = kViews[name] ? name : 'chat';
  const view = made[wanted] ??= await kViews[wanted]();
  if (view === shown) return;
  shown?.leave?.();
  shown = view;
  main.replaceChildren(view.root);
  document.body.dataset.view = wanted;
  document.title = `${view.title} · Cambium`;
  for (const tab of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('.tabs a'))) {
    if (tab.dataset.view === wanted) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  view.enter?.();
}

// -- theme

function theme() {
  return document.documentElement.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
}
/** @param {string | null} name */
function setTheme(name) {
  if (name === 'dark' || name === 'light') document.documentElement.dataset.theme = name;
}
setTheme(localStorage.getItem('cambium.theme'));

const themeButton = iconButton('moon', 'Dark or light', () => {
  const next = theme() === 'dark' ? 'light' : 'dark';
  localStorage.setItem('cambium.theme', next);
  setTheme(next);
  drawTheme();
});
function drawTheme() {
  themeButton.replaceChildren(icon(theme() === 'dark' ? 'sun' : 'moon'));
}

// -- keys and the server

const model = h('span', {class: 'model', title: 'The model'});
const dot = h('span', {class: 'dot', 'aria-hidden': 'true'});

let asking = false;
function askKeys(needed = false) {
  if (asking) return;
  asking = true;
  const key = h('input', {type: 'password', autocomplete: 'off', spellcheck: 'false', value: keyOf('key')});
  const admin = h('input', {type: 'password', autocomplete: 'off', spellcheck: 'false', value: keyOf('admin')});
  const form = h('form', {method: 'dialog', class: 'stack', on: {submit: () => {
    setKey('key', key.value.trim());
    setKey('admin', admin.value.trim());
    greet();
  }}},
  h('p', {class: 'hint'}, needed ? 'The server asks for a key. ' : '', 'Keys stay in this browser and are sent to this server alone.'),
  field('Key', key, 'One of --api-key'), field('Admin key', admin, 'One of --admin-key-file: trains, loads grafts'),
  h('div', {class: 'row end'}, h('button', {class: 'primary'}, 'Keep')));
  dialog('Keys', {class: 'narrow'}, form).addEventListener('close', () => asking = false);
}
addEventListener('key-needed', () => askKeys(true));

async function greet() {
  try {
    const response = await fetch('/ready', {cache: 'no-store'});
    if (!response.ok) throw new Error('loading');
    await meet();
    model.textContent = server.model;
    dot.className = 'dot ok';
  } catch (error) {
    const loading = /** @type {Error} */ (error).message === 'loading';
    model.textContent = loading ? 'The model is being loaded' : 'No answer';
    dot.className = 'dot';
    if (!asking) setTimeout(greet, loading ? 300 : 3000);
  }
}

// -- keyboard

const kHelp = [['Ctrl + Shift + O', 'A new chat'], ['Ctrl + K', 'Search the chats'], ['Ctrl + B', 'The list of chats'], ['Ctrl + .', 'Settings of the chat'],
  ['Enter', 'Send'], ['Shift + Enter', 'A new line'], ['Escape', 'Stop the answer'], ['Alt + 1 … 4', 'Chat, Compare, Training, Engine'],
  ['?', 'These keys']];

function help() {
  dialog('Keyboard', {class: 'narrow'}, h('dl', {class: 'keys'}, ...kHelp.flatMap(([keys, what]) => [h('dt', {}, h('kbd', {}, keys)), h('dd', {}, what)])));
}

addEventListener('keydown', (event) => {
  const typing = /** @type {HTMLElement} */ (event.target).matches?.('input, textarea, select');
  let name = '';
  if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === 'o') name = 'new';
  else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k') name = 'search';
  else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'b') name = 'sidebar';
  else if ((event.ctrlKey || event.metaKey) && event.key === '.') name = 'settings';
  else if (event.key === 'Escape') name = 'stop';
  else if (event.altKey && /^[1-4]$/.test(event.key)) {
    location.hash = Object.keys(kViews)[Number(event.key) - 1];
    event.preventDefault();
    return;
  } else if (event.key === '?' && !typing && !document.querySelector('dialog[open]')) {
    help();
    return;
  }
  if (name && shown?.shortcut?.(name)) event.preventDefault();
});

const end = /** @type {HTMLElement} */ (document.getElementById('bar-end'));
end.append(h('span', {class: 'who'}, dot, model), iconButton('key', 'Keys', () => askKeys()), themeButton);
drawTheme();
addEventListener('hashchange', show);
show();
greet();
