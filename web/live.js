// @ts-check
// A view that is read again and again while it is shown. An error stands in it until a reading succeeds.
import {h} from './dom.js';

export class LiveView {
  /** @param {string} title @param {number} interval milliseconds between two readings */
  constructor(title, interval) {
    this.title = title;
    this.interval = interval;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.note = h('p', {class: 'error', role: 'alert', hidden: true});
    /** @type {HTMLElement} */
    this.root = h('div', {class: 'page'});
  }

  /** @returns {Promise<void>} */
  async read() {
    throw new Error('a view reads');
  }

  enter() {
    this.look();
  }
  leave() {
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  async look() {
    clearTimeout(this.timer);
    try {
      await this.read();
      this.note.hidden = true;
    } catch (error) {
      this.note.textContent = /** @type {Error} */ (error).message;
      this.note.hidden = false;
    }
    if (this.root.isConnected) this.timer = setTimeout(() => this.look(), this.interval);
  }
}
