import { $, h, search } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";

// Why a circuit is open, as `fallback` calls it and as a person would.
const WHY = {
  authentication: "key refused", quota_exhausted: "key used up", rate_limited: "rate limited",
  overloaded: "overloaded", timeout: "no answer in time", connection: "cannot be reached", protocol: "its answers are broken", slow: "slow answers",
};
const DEAD = ["authentication", "quota_exhausted"];

function health(t) {
  const circuit = t.circuit?.circuit;
  if (circuit === "open") return [DEAD.includes(t.circuit.reason) ? WHY[t.circuit.reason] : "circuit open", "bad"];
  if (circuit === "half_open") return ["probing", "warn"];
  if (t.circuit?.share < 1) return ["recovering", "warn"];
  if (!t.requests) return [t.in_flight ? "busy" : "idle", ""];
  if (t.errors > 0.2) return ["failing", "bad"];
  return t.errors > 0.02 ? ["some errors", "warn"] : ["healthy", "good"];
}

const ORDER = { bad: 0, warn: 1, good: 2, "": 3 };
const circuit = (t) => t.circuit ? t.circuit.circuit.replace("_", " ") : f.DASH;
let table = null;

function note(t) {
  const circuit = t.circuit;
  if (!circuit) return "";
  const why = WHY[circuit.reason] ?? circuit.reason.replaceAll("_", " ");
  const left = circuit.opens_until ? circuit.opens_until - Date.now() / 1000 : 0;
  const some = circuit.of > 1 && circuit.some < circuit.of ? `${circuit.some} of ${circuit.of} keys or addresses: ` : "";
  const again = left > 0 && `tried again in ${f.span(left)}`;
  if (circuit.circuit === "open") return some + [!DEAD.includes(circuit.reason) && why, again].filter(Boolean).join(", ");
  if (circuit.circuit === "half_open") return `${some}a few requests try it; before: ${why}`;
  return circuit.share < 1 ? `takes ${f.share(circuit.share)} of its traffic again` : "";
}

export function targets(rows, plugins) {
  if (!table) {
    $("#targets .head").append(h("div", { class: "tools" }, search("Search targets", "Target, model, key …", (q) => table.find(q))));
    table = new Table($("#targets .body"), {
      caption: "Targets; figures of the last one to two minutes", key: (t) => t.id, words: (t) => `${t.id} ${t.models.join(" ")} ${health(t)[0]} circuit ${circuit(t)}`,
      columns: [
        { title: "Target", wide: true, cell: (t) => ({ sign: t.id, node: () => [h("span", { class: "name" }, t.name), h("span", { class: "sub" }, t.models.slice(0, 3).join(", ") + (t.models.length > 3 ? ` and ${t.models.length - 3} more` : "") + (t.key ? ` · key ${t.key}` : ""))] }) },
        { title: "Health", wide: true, cell: (t) => ({ sign: [health(t), note(t)], node: () => [h("span", { class: `chip ${health(t)[1]}` }, health(t)[0]), note(t) ? h("span", { class: "sub" }, note(t)) : null] }) },
        { title: "Circuit", cell: circuit },
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
