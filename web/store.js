// @ts-check
// Chats, kept in this browser (IndexedDB).

/** @typedef {import('./tree.js').Chat} Chat */

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open('cambium', 1);
    request.onupgradeneeded = () => request.result.createObjectStore('chats', {keyPath: 'id'});
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

/**
 * @template T
 * @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest<T>} use @returns {Promise<T>}
 */
async function withStore(mode, use) {
  const base = await open();
  return new Promise((resolve, reject) => {
    const request = use(base.transaction('chats', mode).objectStore('chats'));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * The latest first.
 * @returns {Promise<Chat[]>}
 */
export async function allChats() {
  const chats = /** @type {Chat[]} */ (await withStore('readonly', (store) => store.getAll()));
  return chats.sort((a, b) => b.updated - a.updated);
}
/** @param {Chat} chat */
export const saveChat = (chat) => withStore('readwrite', (store) => store.put(chat));
/** @param {string} id */
export const removeChat = (id) => withStore('readwrite', (store) => store.delete(id));

/**
 * A small setting.
 * @param {string} name @param {any} other what it is where nothing was kept
 */
export function setting(name, other) {
  try {
    return JSON.parse(localStorage.getItem('cambium.' + name) ?? '') ?? other;
  } catch {
    return other;
  }
}
/** @param {string} name @param {any} value */
export const keepSetting = (name, value) => localStorage.setItem('cambium.' + name, JSON.stringify(value));

/**
 * Lets the user save `text`.
 * @param {string} name @param {string} text
 */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
