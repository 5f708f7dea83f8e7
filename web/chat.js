// @ts-check
// The chats: a list at the side, the messages, and what is typed.
import {copy, dialog, h, icon, iconButton, toast} from './dom.js';
import {allChats, download, keepSetting, removeChat, saveChat, setting} from './store.js';
import {add, childrenOf, kRoot, matches, messagesOf, newChat, pathOf, readExport, walk} from './tree.js';
import {AnswerView, ContextMeter, generate, graftNames} from './answer.js';
import {graftPicker, samplingFields} from './settings.js';

/** @typedef {import('./tree.js').Chat} Chat */
/** @typedef {import('./tree.js').Message} Message */

const kMostFile = 1 << 20;

class ChatView {
  constructor() {
    this.title = 'Chat';
    /** @type {Chat[]} */
    this.chats = [];
    this.chat = newChat();
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {import('./tree.js').File[]} */
    this.files = [];
    this.drafts = setting('drafts', false);
    /** @type {Map<string, AnswerView>} */
    this.answers = new Map();
    this.search = h('input', {type: 'search', placeholder: 'Search', 'aria-label': 'Search the chats', on: {input: () => this.drawList()}});
    this.list = h('ul', {class: 'chats'});
    this.importer = h('input', {type: 'file', accept: '.json,application/json', class: 'sr', tabindex: '-1', 'aria-label': 'A file of chats',
      on: {change: () => this.importFile()}});
    this.side = h('aside', {class: 'side', 'aria-label': 'Chats'},
      h('button', {type: 'button', class: 'new', on: {click: () => this.open(newChat())}}, icon('plus'), 'New chat'), this.search,
      h('nav', {class: 'chats-nav', 'aria-label': 'Chats'}, this.list),
      h('div', {class: 'side-end'}, h('button', {type: 'button', class: 'text', on: {click: () => this.exportAll()}}, icon('down'), 'Export'),
        h('button', {type: 'button', class: 'text', on: {click: () => this.importer.click()}}, icon('up'), 'Import'), this.importer));
    this.heading = h('h1', {class: 'chat-title'});
    this.chips = h('button', {type: 'button', class: 'chip', title: 'Grafts and settings', on: {click: () => this.toggle('settings')}});
    this.draftsButton = h('button', {type: 'button', class: 'toggle', 'aria-pressed': String(this.drafts), title: 'Colour each token by who proposed it',
      on: {click: () => this.setDrafts(!this.drafts)}}, icon('drafts'), h('span', {}, 'Drafts'));
    this.messages = h('div', {class: 'messages'});
    this.scroller = h('div', {class: 'scroller', tabindex: '0', role: 'region', 'aria-label': 'Messages'}, this.messages);
    this.panel = h('aside', {class: 'panel', 'aria-label': 'Settings of this chat', hidden: true});
    this.input = h('textarea', {rows: '1', placeholder: 'Ask something', 'aria-label': 'Message', on: {
      input: () => this.fit(),
      keydown: (event) => {
        if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        this.send();
      },
    }});
    this.picker = h('input', {type: 'file', multiple: true, class: 'sr', tabindex: '-1', 'aria-label': 'A text file', on: {change: () => this.attach()}});
    this.attached = h('div', {class: 'attached'});
    this.sendButton = h('button', {class: 'send', 'aria-label': 'Send', title: 'Send'}, icon('send'));
    this.meter = new ContextMeter();
    const composer = h('form', {class: 'composer', on: {submit: (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.send();
    }}}, this.attached, h('div', {class: 'composer-row'}, iconButton('attach', 'Attach a text file', () => this.picker.click()), this.picker, this.input,
      this.sendButton), this.meter.root);
    this.root = h('div', {class: 'chat'}, this.side, h('section', {class: 'chat-main', 'aria-label': 'Chat'},
      h('div', {class: 'chat-head'}, iconButton('menu', 'The list of chats', () => this.toggle('side'), {class: 'only-small'}), this.heading, this.chips,
        this.draftsButton, iconButton('tune', 'Settings of this chat', () => this.toggle('settings'))),
      this.scroller, composer), this.panel);
    this.root.addEventListener('click', (event) => {
      if (event.target === this.root) this.root.classList.remove('side-open');
    });
    this.load();
    addEventListener('met', () => this.drawSettings());
  }

  async load() {
    try {
      this.chats = await allChats();
    } catch {
      toast('This browser keeps no chats: they will be gone with the page.');
    }
    const last = setting('chat', '');
    this.open(this.chats.find(({id}) => id === last) ?? this.chats[0] ?? this.chat);
  }

  enter() {
    this.input.focus({preventScroll: true});
    this.drawSettings();
  }

  /** @param {string} name */
  shortcut(name) {
    if (name === 'new') this.open(newChat());
    else if (name === 'search') {
      if (getComputedStyle(this.side).visibility === 'hidden' || this.root.classList.contains('side-closed')) this.toggle('side');
      this.search.focus();
    } else if (name === 'sidebar') this.toggle('side');
    else if (name === 'settings') this.toggle('settings');
    else if (name === 'stop') {
      if (!this.running) return false;
      this.stop();
    }
    return true;
  }

  // -- the chat that is open

  /** @param {Chat} chat */
  open(chat) {
    this.stop();
    this.chat = chat;
    this.answers.clear();
    keepSetting('chat', chat.id);
    this.root.classList.remove('side-open');
    this.draw();
    this.drawList();
    this.drawSettings();
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.input.focus({preventScroll: true});
  }

  save() {
    const chat = this.chat;
    if (!this.chats.includes(chat)) this.chats.unshift(chat);
    this.chats.sort((a, b) => b.updated - a.updated);
    saveChat(chat).catch((error) => toast('The chat could not be kept: ' + error.message));
    this.drawList();
  }

  draw() {
    const path = pathOf(this.chat);
    this.heading.textContent = this.chat.title || 'New chat';
    this.messages.replaceChildren(...(path.length ? path.map((message) => this.drawMessage(message)) : [this.drawWelcome()]));
    this.drawMeter();
    this.drawChips();
  }

  drawWelcome() {
    const ideas = ['Explain what the cambium of a tree does.', 'Write a limerick about a compiler.', 'List five trees with one fact each, as a table.'];
    return h('div', {class: 'welcome'}, h('h2', {}, 'What shall it be?'),
      h('p', {}, 'Answers come from this machine. Turn on Drafts to see who proposed each token.'),
      h('div', {class: 'ideas'}, ...ideas.map((idea) => h('button', {type: 'button', on: {click: () => {
        this.input.value = idea;
        this.send();
      }}}, idea))));
  }

  drawMeter() {
    const last = pathOf(this.chat).reverse().find(({role, prompt}) => role === 'assistant' && prompt);
    this.meter.show(last ? (last.prompt ?? 0) + (last.trace?.tokens.length ?? 0) : 0);
  }

  drawChips() {
    const grafts = this.chat.grafts;
    this.chips.textContent = graftNames(grafts);
    this.chips.classList.toggle('set', grafts.length > 0);
    this.chips.setAttribute('aria-label', `Grafts: ${graftNames(grafts)}`);
  }

  /** @param {Message} message */
  drawMessage(message) {
    const siblings = childrenOf(this.chat, message.parent);
    const at = siblings.indexOf(message);
    const tools = h('div', {class: 'tools'});
    if (siblings.length > 1) {
      tools.append(h('span', {class: 'branches', role: 'group', 'aria-label': 'Branches'},
        iconButton('left', 'Branch before', () => this.branch(message, -1), {disabled: at === 0}), h('span', {}, `${at + 1}/${siblings.length}`),
        iconButton('right', 'Branch behind', () => this.branch(message, 1), {disabled: at === siblings.length - 1})));
    }
    const copyButton = iconButton('copy', 'Copy', () => copy(copyButton, message.content));
    tools.append(copyButton);
    if (message.role === 'user') {
      tools.append(iconButton('edit', 'Edit, as a branch', () => this.edit(message, block)));
      const block = h('article', {class: 'message user', 'aria-label': 'You', 'data-id': message.id},
        h('div', {class: 'bubble'}, ...(message.files ?? []).map(({name}) => h('span', {class: 'file'}, icon('attach'), name)),
          h('div', {class: 'said'}, message.content)), tools);
      return block;
    }
    let view = this.answers.get(message.id);
    if (!view) {
      view = new AnswerView(message, this.drafts);
      this.answers.set(message.id, view);
    }
    tools.append(iconButton('again', 'Answer again, as a branch', () => this.answer(message.parent)));
    const grafts = message.grafts ?? [];
    return h('article', {class: 'message assistant', 'aria-label': 'Answer', 'data-id': message.id},
      grafts.length ? h('p', {class: 'with'}, graftNames(grafts)) : null, view.root, tools);
  }

  /** @param {Message} message @param {number} by */
  branch(message, by) {
    if (this.running) return;
    walk(this.chat, message, by);
    this.draw();
    this.save();
  }

  /** @param {Message} message @param {HTMLElement} block */
  edit(message, block) {
    if (this.running) return;
    const area = h('textarea', {'aria-label': 'The message', rows: String(Math.min(12, message.content.split('\n').length + 1)), value: message.content,
      on: {keydown: (event) => {
        if (event.key === 'Escape') this.draw();
        if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) send();
      }}});
    const send = () => {
      const made = add(this.chat, {parent: message.parent, role: 'user', content: area.value, files: message.files});
      this.answer(made.id);
    };
    block.replaceChildren(h('form', {class: 'editing', on: {submit: (event) => {
      event.preventDefault();
      send();
    }}}, area, h('div', {class: 'row end'}, h('button', {type: 'button', on: {click: () => this.draw()}}, 'Leave'), h('button', {class: 'primary'}, 'Send'))));
    area.focus();
  }

  // -- asking

  send() {
    const content = this.input.value.trim();
    if (this.running || (!content && !this.files.length)) return;
    const path = pathOf(this.chat);
    const parent = path.length ? path[path.length - 1].id : kRoot;
    const message = add(this.chat, {parent, role: 'user', content, files: this.files.length ? this.files : undefined});
    this.files = [];
    this.drawFiles();
    this.input.value = '';
    this.fit();
    this.answer(message.id);
  }

  /**
   * Answers the question `parent`, beside earlier answers.
   * @param {string} parent
   */
  async answer(parent) {
    if (this.running) return;
    const chat = this.chat;
    const before = [];
    for (let at = parent; at !== kRoot; at = chat.messages[at].parent) before.unshift(chat.messages[at]);
    const message = add(chat, {parent, role: 'assistant', content: '', grafts: chat.grafts});
    const controller = this.running = new AbortController();
    this.draw();
    this.setRunning(true);
    const view = /** @type {AnswerView} */ (this.answers.get(message.id));
    view.live = true;
    if (this.drafts) view.message.trace ??= {tokens: [], passes: [], drafters: [], left: 0};
    view.setDrafts(this.drafts);
    view.drawn = () => this.follow();
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.pinned = true;
    await generate(message, messagesOf(chat, before), chat, controller.signal, () => view.later());
    view.live = false;
    view.drawn = undefined;
    view.setDrafts(this.drafts);
    this.running = null;
    chat.updated = Date.now();
    this.setRunning(false);
    if (this.chat === chat) {
      this.heading.textContent = chat.title;
      this.drawMeter();
      this.follow();
    }
    if (!this.chats.includes(chat)) this.chats.unshift(chat);
    saveChat(chat).catch((error) => toast('The chat could not be kept: ' + error.message));
    this.drawList();
  }

  /** Stays at the end, unless the reader has gone up. */
  follow() {
    const box = this.scroller;
    const end = box.scrollHeight - box.clientHeight;
    if (end - box.scrollTop < 160) box.scrollTop = end;
  }

  stop() {
    this.running?.abort();
  }

  /** @param {boolean} running */
  setRunning(running) {
    this.sendButton.replaceChildren(icon(running ? 'stop' : 'send'));
    this.sendButton.setAttribute('aria-label', running ? 'Stop' : 'Send');
    this.sendButton.title = running ? 'Stop (Escape)' : 'Send';
    this.sendButton.classList.toggle('stop', running);
    this.root.classList.toggle('running', running);
  }

  fit() {
    this.input.style.setProperty('height', 'auto');
    this.input.style.setProperty('height', Math.min(this.input.scrollHeight, 220) + 'px');
  }

  async attach() {
    for (const file of this.picker.files ?? []) {
      if (file.size > kMostFile) {
        toast(`${file.name} has ${file.size} bytes, at most ${kMostFile} may be attached`);
        continue;
      }
      const text = await file.text();
      if (text.includes('\u0000') || text.includes('\ufffd')) toast(`${file.name} is no text`);
      else this.files.push({name: file.name, text});
    }
    this.picker.value = '';
    this.drawFiles();
  }

  drawFiles() {
    this.attached.replaceChildren(...this.files.map((file) => h('span', {class: 'file'}, icon('attach'), file.name,
      iconButton('close', `Leave ${file.name} out`, () => {
        this.files = this.files.filter((one) => one !== file);
        this.drawFiles();
      }))));
  }

  // -- the list

  drawList() {
    const shown = this.chats.filter((chat) => matches(chat, this.search.value));
    this.list.replaceChildren(...shown.map((chat) => h('li', {class: chat === this.chat ? 'open' : ''},
      h('button', {type: 'button', class: 'chat-name', 'aria-current': chat === this.chat ? 'true' : null, title: chat.title, on: {click: () => this.open(chat)}}, chat.title),
      iconButton('trash', `Remove ${chat.title}`, () => this.remove(chat)))));
    if (!shown.length) this.list.append(h('li', {class: 'hint'}, this.chats.length ? 'None holds that.' : 'No chats yet.'));
  }

  /** @param {Chat} chat */
  remove(chat) {
    const box = dialog('Remove this chat?', {class: 'narrow'}, h('p', {}, chat.title), h('div', {class: 'row end'},
      h('button', {type: 'button', on: {click: () => box.close()}}, 'Keep'),
      h('button', {type: 'button', class: 'danger', on: {click: () => {
        box.close();
        this.chats = this.chats.filter((one) => one !== chat);
        removeChat(chat.id);
        if (chat === this.chat) this.open(this.chats[0] ?? newChat());
        else this.drawList();
      }}}, 'Remove')));
  }

  exportAll() {
    download('cambium-chats.json', JSON.stringify({format: 'cambium-chats', version: 1, chats: this.chats}, null, 1));
  }

  async importFile() {
    const file = this.importer.files?.[0];
    this.importer.value = '';
    if (!file) return;
    try {
      const chats = readExport(await file.text());
      for (const chat of chats) await saveChat(chat);
      this.chats = await allChats();
      this.open(this.chats[0]);
      toast(`${chats.length} ${chats.length === 1 ? 'chat' : 'chats'} imported`, false);
    } catch (error) {
      toast(`${file.name}: ${/** @type {Error} */ (error).message}`);
    }
  }

  // -- settings

  /** @param {'side' | 'settings'} what */
  toggle(what) {
    if (what === 'settings') {
      this.panel.hidden = !this.panel.hidden;
      if (!this.panel.hidden) {
        this.drawSettings();
        this.panel.querySelector('textarea')?.focus();
      }
    } else if (matchMedia('(max-width: 800px)').matches) {
      this.root.classList.toggle('side-open');
    } else {
      this.root.classList.toggle('side-closed');
    }
  }

  drawSettings() {
    this.drawChips();
    this.drawMeter();
    if (this.panel.hidden) return;
    const chat = this.chat;
    const changed = () => {
      this.drawChips();
      if (this.chats.includes(chat)) saveChat(chat).catch(() => {});
    };
    const system = h('textarea', {rows: '4', placeholder: 'You are …', value: chat.system, on: {input: () => {
      chat.system = system.value;
      changed();
    }}});
    this.panel.replaceChildren(h('div', {class: 'panel-head'}, h('h2', {}, 'This chat'), iconButton('close', 'Close the settings', () => this.toggle('settings'))),
      h('label', {class: 'field'}, h('span', {class: 'field-label'}, 'System prompt'), system),
      graftPicker(chat.grafts, (grafts) => {
        chat.grafts = grafts;
        changed();
      }), ...samplingFields(chat, changed));
  }

  /** @param {boolean} drafts */
  setDrafts(drafts) {
    this.drafts = drafts;
    keepSetting('drafts', drafts);
    this.draftsButton.setAttribute('aria-pressed', String(drafts));
    for (const view of this.answers.values()) view.setDrafts(drafts);
  }

  /**
   * A new chat with these grafts.
   * @param {import('./api.js').GraftUse[]} grafts
   */
  tryOut(grafts) {
    const chat = newChat();
    chat.grafts = grafts;
    this.open(chat);
  }
}

/** @type {ChatView | null} */
let only = null;
export function chatView() {
  only ??= new ChatView();
  return only;
}
