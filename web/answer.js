// @ts-check
// One answer as it comes: text or drafts, with what was counted.
import {announce, h, number} from './dom.js';
import {MarkdownView} from './markdown.js';
import {feed, newTrace, rate, summary, TraceView} from './trace.js';
import {graftsField, server, stream} from './api.js';

/** @typedef {import('./tree.js').Message} Message */

/**
 * Splits a text's own <think> part off, where the server has not.
 * @param {string} text @returns {[string, string]}
 */
function withoutThinking(text) {
  const match = /^\s*<think>([^]*?)(?:<\/think>\s*|$)/.exec(text);
  return match ? [match[1], text.slice(match[0].length)] : ['', text];
}

/** Shows a message of the assistant; `draw` again whenever it has grown. */
export class AnswerView {
  /** @param {Message} message @param {boolean} drafts */
  constructor(message, drafts) {
    this.message = message;
    this.markdown = new MarkdownView();
    this.thinking = new MarkdownView();
    this.reasoning = h('details', {class: 'reasoning', hidden: true}, h('summary', {}, 'Reasoning'), this.thinking.root);
    this.traceView = /** @type {TraceView | null} */ (null);
    this.place = h('div', {class: 'answer-text'});
    this.footer = h('p', {class: 'stats'});
    this.error = h('p', {class: 'error', role: 'alert', hidden: true});
    this.root = h('div', {class: 'answer'}, this.reasoning, this.place, this.error, this.footer);
    this.live = false;
    this.queued = false;
    this.setDrafts(drafts);
  }

  /** @param {boolean} drafts */
  setDrafts(drafts) {
    this.drafts = drafts && !!this.message.trace;
    if (this.drafts) this.traceView ??= new TraceView();
    this.place.replaceChildren(this.drafts && this.traceView ? this.traceView.root : this.markdown.root);
    this.draw();
  }

  /** Draws in the next frame. */
  later() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.draw();
      this.drawn?.();
    });
  }
  /** @type {(() => void) | undefined} */
  drawn;

  draw() {
    const {message} = this;
    const [own, text] = withoutThinking(message.content);
    const reasoning = (message.reasoning ?? '') + own;
    this.reasoning.hidden = !reasoning;
    if (reasoning) this.thinking.show(reasoning);
    if (this.drafts && message.trace && this.traceView) this.traceView.show(message.trace);
    else this.markdown.show(text);
    this.root.classList.toggle('waiting', this.live && !message.content && !reasoning);
    this.root.setAttribute('aria-busy', String(this.live));
    this.error.hidden = !message.error;
    this.error.textContent = message.error ?? '';
    this.drawStats();
  }

  drawStats() {
    const {message} = this;
    const parts = message.trace ? [rate(message.trace), summary(message.trace)] : [];
    if (message.end === 'stopped') parts.push('stopped');
    if (message.end === 'length') parts.push('ended by its length');
    this.footer.textContent = parts.filter((part) => part).join(' · ');
  }
}

/**
 * Asks, and lets `message` grow. Errors become the message's; stopping keeps what is there.
 * @param {Message} message
 * @param {{role: string, content: string}[]} messages
 * @param {{sampling: import('./tree.js').Sampling, grafts: import('./api.js').GraftUse[]}} how
 * @param {AbortSignal} signal
 * @param {() => void} grown
 */
export async function generate(message, messages, how, signal, grown) {
  const {sampling} = how;
  const trace = newTrace();
  message.trace = trace;
  const body = {
    model: server.model, messages, stream: true, stream_options: {include_usage: true}, grafts: graftsField(how.grafts),
    temperature: sampling.temperature, top_p: sampling.top_p, top_k: sampling.top_k, min_p: sampling.min_p,
    max_tokens: sampling.max_tokens || null, seed: sampling.seed, draft: sampling.draft, cambium: {trace: true},
  };
  try {
    for await (const event of stream('/v1/chat/completions', body, signal)) {
      const choice = event.choices[0];
      feed(trace, event.cambium);
      message.content += choice?.delta?.content ?? '';
      if (choice?.delta?.reasoning_content) message.reasoning = (message.reasoning ?? '') + choice.delta.reasoning_content;
      if (choice?.finish_reason) message.end = choice.finish_reason;
      if (event.usage) message.prompt = event.usage.prompt_tokens;
      grown();
    }
    announce(`Answered with ${trace.tokens.length} tokens`);
  } catch (error) {
    if (signal.aborted) {
      message.end = 'stopped';
      announce('Stopped');
    } else {
      message.error = /** @type {Error} */ (error).message;
    }
  }
  grown();
}

/** How full the context is. */
export class ContextMeter {
  constructor() {
    this.fill = h('span', {class: 'meter-fill'});
    this.text = h('span', {class: 'meter-text'});
    this.root = h('div', {class: 'meter', role: 'meter', 'aria-label': 'Context used', 'aria-valuemin': '0'},
      h('span', {class: 'meter-bar'}, this.fill), this.text);
  }
  /** @param {number} tokens */
  show(tokens) {
    const share = server.context ? Math.min(1, tokens / server.context) : 0;
    this.fill.style.setProperty('width', 100 * share + '%');
    this.root.classList.toggle('full', share > 0.9);
    this.root.setAttribute('aria-valuemax', String(server.context));
    this.root.setAttribute('aria-valuenow', String(tokens));
    this.text.textContent = server.context ? `${number(tokens)} of ${number(server.context)} tokens of context` : '';
  }
}

/**
 * Names the grafts that an answer was made with.
 * @param {import('./api.js').GraftUse[]} grafts
 */
export function graftNames(grafts) {
  if (!grafts.length) return 'base';
  return grafts.map(({name, scale}) => scale === 1 ? name : `${name} × ${scale}`).join(' + ');
}
