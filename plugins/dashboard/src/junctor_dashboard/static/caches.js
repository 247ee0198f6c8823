import { $, code, empty, h, swap, tiles } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";

function part(id, title) {
  const place = $("#caches .body");
  place.classList.add("caches");
  let found = document.getElementById(id);
  if (!found) place.append(found = h("div", { id }, h("h3", {}, title), h("div", { class: "inside" })));
  return found.querySelector(".inside");
}

let table = null;

export function caches({ exact, semantic }, plugins) {
  const left = part("exact", "Exact cache");
  if (!exact) {
    swap(left, plugins.includes("exact_cache"), () => plugins.includes("exact_cache") ? empty("The cache cannot be read now.")
      : empty("Enable ", code("exact_cache"), " to answer repeated requests without calling a provider."));
  } else {
    swap(left, "figures", () => h("dl", { class: "tiles" }));
    tiles(left.firstChild, [
      ["Hit share", f.share(exact.share), "", `${f.count(exact.hit)} of ${f.count(exact.hit + exact.miss)} look-ups`],
      ["Saved", f.money(exact.saved), "", "since the start"],
      ["Passed by", f.count(exact.bypass), "", exact.resting ? "the store rests after failures" : `${f.count(exact.joined)} joined a running one`, exact.resting],
      ["Entries", f.count(exact.entries), "", "equal requests only"],
    ]);
  }
  const right = part("semantic", "Semantic cache");
  if (!semantic) {
    swap(right, plugins.includes("semantic_cache"), () => plugins.includes("semantic_cache") ? empty("The cache cannot be read now.")
      : empty("Enable ", code("semantic_cache"), " to answer questions that were asked before in other words, within a stated error rate."));
    table = null;
  } else if (!semantic.namespaces.length) {
    swap(right, semantic.trouble, () => empty(semantic.trouble ? `Requests pass by: ${semantic.trouble}.` : "Nothing has been looked up yet."));
    table = null;
  } else {
    if (!table) {
      right.replaceChildren(); right._made = null;
      table = new Table(right, {
        caption: "Namespaces of the semantic cache", page: 8, key: (n) => n.name, words: (n) => n.name,
        columns: [
          { title: "Namespace", wide: true, cell: (n) => ({ sign: [n.name, n.mode], node: () => [h("span", { class: "name" }, n.name), h("span", { class: "sub" }, n.mode)] }) },
          { title: "Hit share", cls: "number", cell: (n) => f.share(n.share) },
          { title: "Saved", cls: "number", cell: (n) => f.money(n.saved) },
          { title: "Wrong, estimated", cls: "number", cell: (n) => ({ sign: [n.wrong, n.max_wrong], node: () => [f.share(n.wrong), h("span", { class: "sub" }, `allowed ${f.share(n.max_wrong)}`)] }) },
          { title: "Wrong, verified", cls: "number", cell: (n) => ({ sign: [n.verified, n.verified_wrong, n.bound], node: () => [`${f.count(n.verified_wrong)} of ${f.count(n.verified)}`, h("span", { class: "sub" }, n.verified ? `at most ${f.share(n.bound)} (95 %)` : "none verified yet")] }) },
        ],
      });
    }
    table.set(semantic.namespaces);
  }
}
