// @ts-check
// What the page asks of the server. Keys are kept in this browser and go into the requests alone.

/** @typedef {{name: string, scale: number}} GraftUse */
/** @typedef {{id: string, parent: string | null, kinds?: string[], root: string}} ModelEntry */

/** What is known of the server; filled by `meet`. */
export const server = {
  model: '', context: 0, places: 0, version: '', ready: false, runs: false, admin: false, allowLoad: false,
  /** @type {ModelEntry[]} */ grafts: [],
};

/** @param {'key' | 'admin'} kind */
export const keyOf = (kind) => localStorage.getItem('cambium.' + kind) ?? '';
/** @param {'key' | 'admin'} kind @param {string} value */
export function setKey(kind, value) {
  if (value) localStorage.setItem('cambium.' + kind, value);
  else localStorage.removeItem('cambium.' + kind);
}

export class ApiError extends Error {
  /** @param {number} status @param {string} message */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {{method?: string, body?: any, admin?: boolean, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
async function ask(path, options = {}) {
  /** @type {Object<string, string>} */
  const headers = {};
  const key = (options.admin && keyOf('admin')) || keyOf('key') || keyOf('admin');
  if (key) headers['Authorization'] = 'Bearer ' + key;
  if (options.body !== undefined) headers['Content-Type'] = 'application/json';
  const response = await fetch(path, {
    method: options.method ?? (options.body === undefined ? 'GET' : 'POST'), headers, signal: options.signal,
    body: options.body === undefined ? undefined : JSON.stringify(options.body), cache: 'no-store',
  });
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* no JSON: the status says it */ }
  if (response.status === 401) dispatchEvent(new CustomEvent('key-needed'));
  throw new ApiError(response.status, message);
}

/** @param {string} path @param {Parameters<typeof ask>[1]} [options] @returns {Promise<any>} */
export async function call(path, options) {
  return (await ask(path, options)).json();
}

/**
 * The events of a streamed answer.
 * @param {string} path @param {any} body @param {AbortSignal} signal @returns {AsyncGenerator<any>}
 */
export async function* stream(path, body, signal) {
  const response = await ask(path, {body, signal});
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (rest + decoder.decode(value, {stream: true})).split('\n\n');
    rest = parts.pop() ?? '';
    for (const part of parts) {
      if (!part.startsWith('data: ') || part === 'data: [DONE]') continue;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new ApiError(500, event.error.message);
      yield event;
    }
  }
}

/**
 * Learns who answers; false while the model loads.
 * @returns {Promise<boolean>}
 */
export async function meet() {
  const [props, models] = await Promise.all([call('/props'), call('/v1/models')]);
  Object.assign(server, {
    model: props.model_alias, context: props.n_ctx, places: props.total_slots, version: props.build_info, ready: true,
    runs: props.runs, admin: props.admin, allowLoad: props.allow_load,
    grafts: models.data.filter((/** @type {ModelEntry} */ entry) => entry.parent),
  });
  dispatchEvent(new CustomEvent('met'));
  return true;
}

/** @param {GraftUse[]} grafts */
export const graftsField = (grafts) => grafts.map(({name, scale}) => ({name, scale}));
