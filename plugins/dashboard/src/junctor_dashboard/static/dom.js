// Elements from plain calls. Text only ever becomes text: nothing that a client sent is read as markup.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child != null && child !== false) node.append(child);
  return node;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const $ = (selector) => document.querySelector(selector);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Children are replaced only if what they are made of has changed, so that focus and selection stay.
export function swap(node, signature, make) {
  const text = JSON.stringify(signature);
  if (node._made === text) return;
  node._made = text;
  node.replaceChildren(...[make()].flat());
}

export function choice(label, options, chosen, onchange) {
  const buttons = options.map(([value, text]) => h("button", {
    type: "button", "aria-pressed": String(value === chosen), onclick: () => {
      buttons.forEach((b, place) => b.setAttribute("aria-pressed", String(options[place][0] === value)));
      onchange(value);
    },
  }, text));
  return h("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

export function search(label, placeholder, oninput) {
  const input = h("input", { type: "search", "aria-label": label, placeholder, autocomplete: "off", spellcheck: "false" });
  input.addEventListener("input", () => oninput(input.value.trim().toLowerCase()));
  return input;
}

export const empty = (...words) => h("p", { class: "empty" }, words);
export const code = (text) => h("code", {}, text);

export function tiles(list, rows) {
  if (list.children.length !== rows.length) {
    list.replaceChildren(...rows.map(() => h("div", {},
      h("dt"), h("dd", { class: "value" }, h("span"), h("small")), h("dd", { class: "note" }))));
  }
  rows.forEach(([name, value, unit, note, bad], place) => {
    const tile = list.children[place];
    tile.classList.toggle("bad", Boolean(bad));
    setText(tile.children[0], name);
    setText(tile.children[1].firstChild, value);
    setText(tile.children[1].lastChild, unit);
    setText(tile.children[2], note);
  });
}
