// @ts-check
// Elements without markup: nothing here, or anywhere in the page, turns text into HTML.

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {{class?: string, on?: Object<string, (event: any) => void>, [name: string]: any}} Props */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Props} [props] attributes; `on` holds listeners; true is an empty attribute, false and null are none
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  apply(element, props);
  element.append(...kids(children));
  return element;
}

/**
 * @param {string} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {SVGElement}
 */
export function svg(tag, props = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  apply(element, props);
  element.append(...kids(children));
  return element;
}

/** @param {Element} element @param {Props} props */
function apply(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === 'value' || name === 'checked' || name === 'disabled' || name === 'selected') {
      /** @type {any} */ (element)[name] = value;
    } else {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
}

/** @param {(Child | Child[])[]} children @returns {(Node | string)[]} */
function kids(children) {
  /** @type {(Node | string)[]} */
  const list = [];
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    list.push(child instanceof Node ? child : String(child));
  }
  return list;
}

// Strokes of 24 x 24 icons.
const kIcons = {
  send: 'M5 12h13M12 5l7 7-7 7',
  stop: 'M7 7h10v10H7z',
  plus: 'M12 5v14M5 12h14',
  copy: 'M9 9h10v10H9zM5 15V5h10',
  again: 'M4 12a8 8 0 1 1 2.5 5.8M4 19v-5h5',
  edit: 'M4 20l1-4L16 5l3 3L8 19zM14 7l3 3',
  left: 'M14 6l-6 6 6 6',
  right: 'M10 6l6 6-6 6',
  trash: 'M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12',
  tune: 'M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4',
  attach: 'M19 11l-7 7a4 4 0 0 1-6-6l8-8a3 3 0 0 1 4 4l-8 8a1 1 0 0 1-2-2l7-7',
  key: 'M8 11a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM11 12l9-9M17 6l3 3M14 9l2 2',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1 1M18 18l1 1M19 5l-1 1M6 18l-1 1',
  moon: 'M19 14a8 8 0 1 1-9-9 6 6 0 0 0 9 9z',
  menu: 'M4 7h16M4 12h16M4 17h16',
  close: 'M6 6l12 12M18 6L6 18',
  drafts: 'M5 18h14M6 14L10 5l4 9M7.5 11h5M17 8v6',
  down: 'M12 5v13M6 12l6 6 6-6',
  up: 'M12 19V6M6 12l6-6 6 6',
};

/** @param {keyof typeof kIcons} name @returns {SVGElement} */
export function icon(name) {
  return svg('svg', {viewBox: '0 0 24 24', class: 'icon', 'aria-hidden': 'true', focusable: 'false'},
    svg('path', {d: kIcons[name]}));
}

/**
 * A button with an icon; `label` is read aloud and shown as a tip.
 * @param {keyof typeof kIcons} name @param {string} label @param {(event: any) => void} click @param {Props} [props]
 */
export function iconButton(name, label, click, props = {}) {
  return h('button', {type: 'button', 'aria-label': label, title: label, ...props,
    class: 'icon-button ' + (props.class ?? ''), on: {click}}, icon(name));
}

/**
 * Says something to screen readers.
 * @param {string} text
 */
export function announce(text) {
  const status = document.getElementById('status');
  if (status) status.textContent = text;
}

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return value.toLocaleString('en', {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

/** @param {number} bytes */
export function bytes(bytes) {
  if (bytes < 1 << 20) return number(bytes / 1024) + ' KiB';
  return bytes < 1 << 30 ? number(bytes / (1 << 20)) + ' MiB' : number(bytes / (1 << 30), 2) + ' GiB';
}

/** @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return s + ' s';
  return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}

/**
 * Copies and says so on the button.
 * @param {HTMLElement} button @param {string} text
 */
export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h('textarea', {class: 'sr', value: text});
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  button.classList.add('done');
  announce('Copied');
  setTimeout(() => button.classList.remove('done'), 1200);
}

/**
 * A labelled field.
 * @param {string} label @param {HTMLElement} input @param {string} [hint]
 */
export function field(label, input, hint) {
  return h('label', {class: 'field'}, h('span', {class: 'field-label'}, label), input,
    hint ? h('span', {class: 'hint'}, hint) : null);
}

/**
 * A message that goes away; errors stay until closed.
 * @param {string} text @param {boolean} [error]
 */
export function toast(text, error = true) {
  /** @type {HTMLElement} */
  const note = h('div', {class: 'toast' + (error ? ' bad' : ''), role: error ? 'alert' : 'status'}, h('span', {}, text),
    iconButton('close', 'Close', () => note.remove()));
  document.body.append(note);
  setTimeout(() => note.remove(), error ? 12000 : 4000);
}

/**
 * A dialog with a heading and a way to close it.
 * @param {string} title @param {Props} props @param {...(Child | Child[])} children
 */
export function dialog(title, props, ...children) {
  /** @type {HTMLDialogElement} */
  const box = h('dialog', {'aria-label': title, ...props},
    h('div', {class: 'dialog-head'}, h('h2', {}, title), iconButton('close', 'Close', () => box.close())), ...children);
  box.addEventListener('close', () => box.remove());
  box.addEventListener('click', (/** @type {Event} */ event) => {
    if (event.target === box) box.close();
  });
  document.body.append(box);
  box.showModal();
  return box;
}
