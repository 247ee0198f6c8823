import { $, h, search } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";

function health(t) {
  const state = t.circuit?.circuit;
  if (state === "open") return ["circuit open", "bad"];
  if (state === "half_open") return ["probing", "warn"];
  if (!t.requests) return ["idle", ""];
  if (t.errors > 0.2) return ["failing", "bad"];
  return t.errors > 0.02 ? ["some errors", "warn"] : ["healthy", "good"];
}

const ORDER = { bad: 0, warn: 1, good: 2, "": 3 };
let table = null;

function note(t) {
  if (!t.circuit?.reason || t.circuit.circuit === "closed") return null;
  const left = t.circuit.opens_until ? t.circuit.opens_until - Date.now() / 1000 : 0;
  return h("span", { class: "sub" }, t.circuit.reason.replaceAll("_", " ") + (left > 0 ? `, tried again in ${f.span(left)}` : ""));
}

export function targets(rows, plugins) {
  if (!table) {
    $("#targets .head").append(h("div", { class: "tools" }, search("Search targets", "Target, model, key …", (q) => table.find(q))));
    table = new Table($("#targets .body"), {
      caption: "Targets; figures of the last one to two minutes", key: (t) => t.id, words: (t) => `${t.id} ${t.models.join(" ")} ${health(t)[0]}`,
      columns: [
        { title: "Target", wide: true, cell: (t) => ({ sign: t.id, node: () => [h("span", { class: "name" }, t.name), h("span", { class: "sub" }, t.models.slice(0, 3).join(", ") + (t.models.length > 3 ? ` and ${t.models.length - 3} more` : "") + (t.key ? ` · key ${t.key}` : ""))] }) },
        { title: "Health", wide: true, cell: (t) => ({ sign: [health(t), t.circuit?.reason, t.circuit?.circuit, t.circuit?.opens_until && Math.round(Date.now() / 1000)], node: () => [h("span", { class: `chip ${health(t)[1]}` }, health(t)[0]), note(t)] }) },
        { title: "Circuit", cell: (t) => t.circuit ? t.circuit.circuit.replace("_", " ") : f.DASH },
        { title: "Share", cls: "number", cell: (t) => f.share(t.share ?? 0) },
        { title: "Errors", cls: "number", cell: (t) => f.share(t.errors) },
        { title: "First token p50", cls: "number", cell: (t) => f.ms(t.ttft_p50) },
        { title: "p95", cls: "number", cell: (t) => f.ms(t.ttft_p95) },
        { title: "Whole p95", cls: "number", cell: (t) => f.ms(t.duration_p95) },
        { title: "In flight", cls: "number", cell: (t) => f.count(t.in_flight) },
      ],
    });
  }
  const missing = ["fallback", "routing"].filter((name) => !plugins.includes(name));
  const hint = missing.includes("fallback") ? "Enable fallback to see circuits." : "";
  let foot = $("#targets .hint");
  if (!foot) $("#targets .body").append(foot = h("p", { class: "hint muted" }));
  foot.textContent = hint; foot.hidden = !hint;
  rows.sort((a, b) => ORDER[health(a)[1]] - ORDER[health(b)[1]] || (b.requests || 0) - (a.requests || 0) || (a.id < b.id ? -1 : 1));
  table.set(rows);
}
