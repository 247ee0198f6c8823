// A table whose rows keep their elements: only cells that changed are touched, and only a page of rows is there.
import { h, setText } from "./dom.js";

const PAGE = 12;

export class Table {
  // columns: {title, cell(row) -> text or {text, sub, node, sign, cls}, cls, wide}; the first is the row's header.
  constructor(place, { caption, columns, key, words, page = PAGE }) {
    Object.assign(this, { columns, key, words, page, shown: page, query: "", rows: [], made: new Map() });
    this.body = h("tbody");
    this.count = h("span");
    this.more = h("button", { type: "button", class: "more", onclick: () => { this.shown += 4 * this.page; this.draw(); } });
    const heads = columns.map((c) => h("th", { scope: "col", class: c.cls }, c.title));
    this.table = h("table", { class: "cards" }, h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, heads)), this.body);
    this.root = h("div", {}, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, this.table),
      h("div", { class: "under" }, this.count, this.more));
    place.append(this.root);
  }

  set(rows) { this.rows = rows; this.draw(); }

  find(query) { this.query = query; this.shown = this.page; this.draw(); }

  draw() {
    const fits = this.query ? this.rows.filter((row) => this.words(row).toLowerCase().includes(this.query)) : this.rows;
    const shown = fits.slice(0, this.shown);
    const seen = new Set();
    shown.forEach((row, place) => {
      const key = this.key(row);
      seen.add(key);
      let line = this.made.get(key);
      if (!line) this.made.set(key, line = this.make());
      this.fill(line, row);
      if (this.body.children[place] !== line) this.body.insertBefore(line, this.body.children[place] || null);
    });
    for (const [key, line] of this.made) if (!seen.has(key)) { line.remove(); this.made.delete(key); }
    setText(this.count, fits.length === 0 ? (this.query ? "Nothing fits." : "")
      : fits.length > shown.length ? `${shown.length} of ${fits.length}` : this.query ? `${fits.length} of ${this.rows.length}` : "");
    this.more.hidden = fits.length <= shown.length;
    setText(this.more, `Show ${Math.min(4 * this.page, fits.length - shown.length)} more`);
  }

  make() {
    return h("tr", { class: "row" }, this.columns.map((c, place) =>
      h(place ? "td" : "th", { class: [c.cls, c.wide && "wide"].filter(Boolean).join(" "), scope: place ? null : "row", "data-label": place && !c.wide ? c.title : null })));
  }

  fill(line, row) {
    this.columns.forEach((column, place) => {
      const cell = line.children[place];
      const given = column.cell(row);
      if (given !== null && typeof given === "object") {
        const sign = JSON.stringify(given.sign);
        if (cell._sign === sign) return;
        cell._sign = sign;
        cell.replaceChildren(...[given.node()].flat().filter((child) => child != null));
      } else setText(cell, given);
    });
  }
}
