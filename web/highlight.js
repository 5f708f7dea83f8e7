// @ts-check
// Colours code a little: comments, strings, numbers and the words that many languages keep for themselves.
import {h} from './dom.js';

const kWords = new Set(('abstract and as async await auto bool boolean break case catch char class const constexpr continue def ' +
  'default del delete do double elif else end enum esac except export extends extern false final finally float fn for from ' +
  'func function global go goto if impl import in include inline int interface is lambda let local long loop match mod module ' +
  'mut namespace new nil none not null or package pass private protected pub public raise ref return select self short ' +
  'signed sizeof static string struct super switch template then this throw trait true try type typedef typename typeof ' +
  'union unsigned use using var virtual void where while with yield begin create insert update values table join on group ' +
  'order by echo fi done').split(' '));

const kString = /"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?/y;
const kNumber = /\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*/y;
const kWord = /[A-Za-z_$][\w$]*/y;
const kOther = /\s+|[^\sA-Za-z_$\d"'`/#<-]+|[^]/y;

/** @param {string} language */
function commentOf(language) {
  if (/^(py|python|sh|bash|zsh|shell|rb|ruby|yaml|yml|toml|r|make|makefile|cmake|dockerfile|perl|pl)$/.test(language)) return /#[^\n]*/y;
  if (/^(sql|lua|haskell|hs|elm)$/.test(language)) return /--[^\n]*/y;
  if (/^(html|xml|svg)$/.test(language)) return /<!--[^]*?(?:-->|$)/y;
  return /\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)/y;
}

/** @param {string} code @param {string} language @returns {DocumentFragment} */
export function highlight(code, language) {
  const out = document.createDocumentFragment();
  const name = language.toLowerCase();
  if (/^(text|txt|plain|markdown|md)?$/.test(name) || code.length > 100000) {
    out.append(code);
    return out;
  }
  /** @type {[RegExp, string][]} */
  const rules = [[commentOf(name), 'c'], [kString, 's'], [kNumber, 'n'], [kWord, 'k'], [kOther, '']];
  let plain = '';
  for (let at = 0; at < code.length;) {
    for (const [rule, kind] of rules) {
      rule.lastIndex = at;
      const match = rule.exec(code);
      if (!match) continue;
      const text = match[0];
      at += text.length;
      const shown = kind === 'k' && !kWords.has(name === 'sql' ? text.toLowerCase() : text) ? '' : kind;
      if (!shown) {
        plain += text;
      } else {
        out.append(plain, h('span', {class: 'hl-' + shown}, text));
        plain = '';
      }
      break;
    }
  }
  out.append(plain);
  return out;
}
