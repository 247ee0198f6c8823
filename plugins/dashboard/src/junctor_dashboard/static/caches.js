import { $, code, empty, h, search, swap, tiles } from "./dom.js";
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

// In shadow nothing is served: what is known is how many of those that would have been were wrong.
const verified = (n) => n.mode === "shadow"
  ? [`${f.count(n.shadow_wrong)} of ${f.count(n.shadow_hits)}`, "of what would be served"]
  : [`${f.count(n.verified_wrong)} of ${f.count(n.verified)}`, n.verified ? `at most ${f.share(n.bound)} (95 %)` : "none verified yet"];

const passes = ({ trouble }) => !trouble ? "" : trouble === "off" ? "It is switched off." : `Requests pass by: ${trouble}.`;

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
    swap(right, semantic.trouble, () => empty(passes(semantic) || "Nothing has been looked up yet."));
    table = null;
  } else {
    if (!table) {
      right._made = null;
      const find = search("Search namespaces", "Namespace …", (q) => table.find(q));
      right.replaceChildren(h("p", { class: "notice" }), h("div", { class: "head" }, find));
      table = new Table(right, {
        caption: "Namespaces of the semantic cache", page: 8, key: (n) => n.name, words: (n) => n.name,
        columns: [
          { title: "Namespace", wide: true, cell: (n) => ({ sign: [n.name, n.mode], node: () => [h("span", { class: "name" }, n.name), h("span", { class: "sub" }, n.mode)] }) },
          { title: "Hit share", cls: "number", cell: (n) => ({ sign: [n.share, n.mode, n.shadow_hits, n.requests], node: () => [f.share(n.share), n.mode === "shadow" && n.requests ? h("span", { class: "sub" }, `at least ${f.share(n.shadow_hits / n.requests)} if served`) : null] }) },
          { title: "Saved", cls: "number", cell: (n) => ({ sign: [n.saved, n.paid], node: () => [f.money(n.saved), h("span", { class: "sub", title: "for its embeddings, its judge, and hits that it asked again" }, `paid ${f.money(n.paid)}`)] }) },
          { title: "Wrong, estimated", cls: "number", cell: (n) => ({ sign: [n.wrong, n.max_wrong], node: () => [f.share(n.wrong), h("span", { class: "sub" }, `allowed ${f.share(n.max_wrong)}`)] }) },
          { title: "Wrong, verified", cls: "number", cell: (n) => ({ sign: verified(n), node: () => [verified(n)[0], h("span", { class: "sub" }, verified(n)[1])] }) },
        ],
      });
    }
    const [notice, head] = right.children;
    notice.textContent = passes(semantic); notice.hidden = !semantic.trouble;
    head.hidden = semantic.namespaces.length <= table.page;
    table.set(semantic.namespaces);
  }
}
