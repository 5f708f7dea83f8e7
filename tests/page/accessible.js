// What axe would say first, as rules of our own: a list of lines, empty where all is well. Run in the page.
const found = [];
const shown = (e) => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0;
const say = (e, what) => found.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
const nameOf = (e) => (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || e.title || e.alt || '').trim();

for (const e of document.querySelectorAll('button, a, input, select, textarea, summary, [role=img], [role=region], [role=meter]')) {
  if (shown(e) && !nameOf(e)) say(e, 'no name');
}
for (const e of document.querySelectorAll('img')) if (!e.hasAttribute('alt')) say(e, 'no alt');
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
if (new Set(ids).size !== ids.length) found.push('an id stands twice');
if (!document.documentElement.lang) found.push('no language');
if (document.querySelectorAll('main').length !== 1) found.push('not one main');
if ([...document.querySelectorAll('h1')].filter(shown).length !== 1) found.push('not one h1');
let level = 0;
for (const e of [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].filter(shown)) {
  if (e.closest('.md')) continue;  // an answer's own
  if (Number(e.tagName[1]) > level + 1) say(e, 'a level of headings is left out');
  level = Number(e.tagName[1]);
}
for (const e of document.querySelectorAll('[aria-hidden=true]')) {
  if (e.querySelector('button, a, input, [tabindex]')) say(e, 'hidden, yet focused');
}
for (const e of document.querySelectorAll('*')) {  // what scrolls is reached by keys
  const style = getComputedStyle(e);
  const scrolls = /auto|scroll/.test(style.overflowY + style.overflowX) && (e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1);
  if (scrolls && shown(e) && e !== document.documentElement && !e.matches('[tabindex], textarea, select, input') &&
      !e.querySelector('a, button, input, select, textarea, [tabindex]')) say(e, 'scrolls, and has nothing to focus');
}
for (const e of document.querySelectorAll('button, [role=button], input[type=checkbox], select')) {  // WCAG 2.2: 24 px
  const box = (e.closest('label') ?? e).getBoundingClientRect();
  if (shown(e) && (box.width < 24 || box.height < 24)) say(e, `only ${Math.round(box.width)} x ${Math.round(box.height)} px`);
}

// Contrast of text with what lies below it: 4.5, large text 3.
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const seen = new Map();
const below = (e) => {
  if (!e) return [255, 255, 255, 1];
  if (!seen.has(e)) seen.set(e, over(rgba(getComputedStyle(e).backgroundColor), below(e.parentElement)));
  return seen.get(e);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const done = new Set();
for (let node; (node = walker.nextNode());) {
  const e = node.parentElement;
  if (!node.textContent.trim() || done.has(e) || e.closest('.sr, :disabled, svg, [inert]') || !shown(e)) continue;
  done.add(e);
  const style = getComputedStyle(e);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  let opacity = 1;
  for (let up = e; up; up = up.parentElement) opacity *= Number(getComputedStyle(up).opacity);
  if (opacity < 0.1) continue;  // shown when pointed at
  const back = below(e), front = over(rgba(style.color), back);
  const [a, b] = [light(front.slice(0, 3)), light(back.slice(0, 3))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < (large ? 3 : 4.5)) say(e, `contrast ${ratio.toFixed(2)}`);
}
if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the window: ${document.documentElement.scrollWidth} > ${innerWidth}`);
return found;
