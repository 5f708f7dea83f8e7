// What axe finds in the page, and what it does not look for, as a list of lines that is empty where all is well. Run in
// the page, behind axe itself.
const done = arguments[arguments.length - 1];
const line = (what, html) => `${what}: ${html.slice(0, 160)}`;

const rest = [];
for (const e of document.querySelectorAll('button, [role=button], input[type=checkbox], select')) {  // WCAG 2.2: 24 px
  const box = (e.closest('label') ?? e).getBoundingClientRect();
  const shown = e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0;
  if (shown && (box.width < 24 || box.height < 24)) {
    rest.push(line(`only ${Math.round(box.width)} x ${Math.round(box.height)} px`, e.outerHTML));
  }
}
if (document.documentElement.scrollWidth > innerWidth) {
  rest.push(`wider than the window: ${document.documentElement.scrollWidth} > ${innerWidth}`);
}

// An answer's own headings begin where its author likes.
const own = (id, node) => id === 'heading-order' && document.querySelector(node.target[0])?.closest('.md');
axe.run()
    .then(({violations}) => done([
      ...violations.flatMap(({id, nodes}) => nodes.filter((node) => !own(id, node)).map(
          (node) => line(`${id} at ${node.target}`, node.html))),
      ...rest,
    ]))
    .catch((error) => done([String(error)]));
