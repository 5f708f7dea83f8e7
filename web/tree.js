// @ts-check
// A chat is a tree of messages: an edited question or an answer made again stands beside the former one.

/** @typedef {{name: string, text: string}} File */
/**
 * @typedef {{id: string, parent: string, role: 'user' | 'assistant', content: string, reasoning?: string,
 *   files?: File[], trace?: import('./trace.js').Trace, end?: string, error?: string, grafts?: import('./api.js').GraftUse[],
 *   prompt?: number}} Message
 */
/**
 * @typedef {{temperature: number, top_p: number, top_k: number, min_p: number, max_tokens: number, seed: number | null,
 *   draft: string}} Sampling
 */
/**
 * @typedef {{id: string, title: string, created: number, updated: number, system: string, sampling: Sampling,
 *   grafts: import('./api.js').GraftUse[], messages: Object<string, Message>, chosen: Object<string, string>}} Chat
 */

export const kRoot = 'root';
/** @type {Sampling} */
export const kDefaults = {temperature: 0.8, top_p: 0.95, top_k: 40, min_p: 0.05, max_tokens: 512, seed: null, draft: 'auto'};

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, '0')).join('');

/** @returns {Chat} */
export function newChat() {
  const now = Date.now();
  return {id: newId(), title: '', created: now, updated: now, system: '', sampling: {...kDefaults}, grafts: [],
    messages: {}, chosen: {}};
}

/**
 * The messages behind one, in the order in which they came.
 * @param {Chat} chat @param {string} parent
 */
export const childrenOf = (chat, parent) => Object.values(chat.messages).filter((message) => message.parent === parent);

/**
 * From the first message to the last of the branch that is shown.
 * @param {Chat} chat @returns {Message[]}
 */
export function pathOf(chat) {
  const path = [];
  for (let at = chat.chosen[kRoot]; at && chat.messages[at]; at = chat.chosen[at]) path.push(chat.messages[at]);
  return path;
}

/** @param {Chat} chat @param {Omit<Message, 'id'>} message @returns {Message} */
export function add(chat, message) {
  const made = {id: newId(), ...message};
  chat.messages[made.id] = made;
  chat.chosen[made.parent] = made.id;
  chat.updated = Date.now();
  if (!chat.title && made.role === 'user') chat.title = made.content.trim().slice(0, 80) || made.files?.[0]?.name || 'Chat';
  return made;
}

/**
 * Shows the sibling so many places further.
 * @param {Chat} chat @param {Message} message @param {number} by
 */
export function walk(chat, message, by) {
  const siblings = childrenOf(chat, message.parent);
  const to = siblings[siblings.findIndex(({id}) => id === message.id) + by];
  if (to) chat.chosen[message.parent] = to.id;
}

/**
 * As the model reads it: attached files stand behind the text.
 * @param {Message} message
 */
export function asText(message) {
  const files = (message.files ?? []).map(({name, text}) => `\n\nFile ${name}:\n\`\`\`\n${text}\n\`\`\``);
  return message.content + files.join('');
}

/**
 * What is asked, of the branch as it is shown.
 * @param {Chat} chat @param {Message[]} path
 */
export function messagesOf(chat, path) {
  const messages = path.map((message) => ({role: /** @type {string} */ (message.role), content: asText(message)}));
  if (chat.system.trim()) messages.unshift({role: 'system', content: chat.system});
  return messages;
}

/**
 * Whether a chat holds the words.
 * @param {Chat} chat @param {string} words
 */
export function matches(chat, words) {
  const wanted = words.trim().toLowerCase();
  if (!wanted || chat.title.toLowerCase().includes(wanted)) return true;
  return Object.values(chat.messages).some(({content}) => content.toLowerCase().includes(wanted));
}

/**
 * Chats out of a file of `export`, or an error.
 * @param {string} text @returns {Chat[]}
 */
export function readExport(text) {
  const given = JSON.parse(text);
  if (given?.format !== 'cambium-chats' || !Array.isArray(given.chats)) throw new Error('this is no export of chats');
  return given.chats.map((/** @type {any} */ chat) => {
    if (typeof chat?.title !== 'string' || typeof chat.messages !== 'object' || typeof chat.chosen !== 'object') {
      throw new Error('a chat of the file has no title or messages');
    }
    for (const message of Object.values(chat.messages)) {
      if (typeof message?.content !== 'string' || !['user', 'assistant'].includes(message.role)) {
        throw new Error(`a message of "${chat.title}" has no content`);
      }
    }
    return {...newChat(), ...chat, id: newId()};
  });
}
