import { $, code, empty, h, search, swap } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";

const amount = (row, value) => row.dimension === "cost" ? f.money(value) : f.count(value);
const used = (row) => row.limit ? (row.used + row.reserved) / row.limit : 1;
const softly = (row) => row.soft != null && row.used + row.reserved >= row.soft;

function bar(row) {
  const level = used(row) >= 1 ? "bad" : softly(row) ? "warn" : "";
  const of = (value) => `${Math.min(100, row.limit ? 100 * value / row.limit : 100)}%`;
  return [
    h("div", {
      class: `bar ${level}`, role: "meter", "aria-valuemin": "0", "aria-valuemax": "100",
      "aria-valuenow": String(Math.round(Math.min(1, used(row)) * 100)), "aria-label": `${row.name} of ${row.scope}`,
      "aria-valuetext": `${amount(row, row.used)} of ${amount(row, row.limit)} used`,
    },
      h("i", { style: { width: of(row.used) } }),
      row.reserved ? h("i", { class: "held", style: { left: of(row.used), width: of(row.reserved) } }) : null,
      row.soft != null && row.soft < row.limit ? h("b", { style: { left: of(row.soft) } }) : null,
      h("b", { class: "hard" })),
    h("div", { class: "marks" },
      h("span", {}, `${amount(row, row.used)}${row.reserved ? ` + ${amount(row, row.reserved)} held` : ""} of ${amount(row, row.limit)} ${row.dimension === "cost" ? "" : row.dimension}`),
      h("span", {}, f.share(used(row)))),
  ];
}

function outlook(row) {
  const now = Date.now() / 1000;
  if (used(row) >= 1) return [h("span", { class: "chip bad" }, "full"), calendar(row) ? h("span", { class: "sub" }, `resets in ${f.span(row.resets_at - now)}`) : null];
  if (row.forecast) return [h("span", { class: "chip warn" }, `full in ${f.span(row.forecast - now)}`)];
  if (softly(row)) return [h("span", { class: "chip warn" }, "over the soft mark")];
  return [h("span", { class: "chip good" }, "in bounds"), calendar(row) ? h("span", { class: "sub" }, `resets in ${f.span(row.resets_at - now)}`) : null];
}

// A sliding window has no moment at which it begins anew.
const calendar = (row) => row.resets_at && ["day", "week", "month"].includes(row.window);

// "team=search,feature=ranking": the values name the scope; the whole is its tooltip.
const scope = (row) => row.scope.split(",").map((part) => part.slice(part.indexOf("=") + 1)).join(" / ") || "global";

let table = null;

export function quotas(rows, plugins) {
  const body = $("#quotas .body");
  if (!rows || !rows.length) {
    table = null;
    $("#quotas .tools")?.remove();
    swap(body, [rows === null, plugins.includes("quotas")], () => rows === null
      ? empty(plugins.includes("quotas") ? "The quotas cannot be read now." : ["No limits are set. Enable ", code("quotas"), " under ", code("plugins:"), " to give teams rate limits and budgets."])
      : empty("No limit has been used yet. A row comes with the first request that a limit applies to."));
    return;
  }
  if (!table) {
    body.replaceChildren(); body._made = null;
    $("#quotas .head").append(h("div", { class: "tools" }, search("Search quotas", "Team, limit …", (q) => table.find(q))));
    table = new Table(body, {
      caption: "Quotas and budgets, the fullest first", page: 8, key: (r) => `${r.name}|${r.scope}`, words: (r) => `${r.scope} ${r.name} ${r.dimension}`,
      columns: [
        { title: "Scope and limit", wide: true, cell: (r) => ({ sign: [r.scope, r.name, r.window], node: () => [h("span", { class: "name", title: r.scope }, scope(r)), h("span", { class: "sub" }, [r.name, r.window && `per ${r.window}`].filter(Boolean).join(" · "))] }) },
        { title: "Used", wide: true, cell: (r) => ({ sign: [r.used, r.reserved, r.limit, r.soft], node: () => bar(r) }) },
        { title: "Outlook", cell: (r) => ({ sign: [used(r) >= 1, softly(r), r.forecast && Math.round(r.forecast / 5), Math.round((r.resets_at || 0) / 5), Math.round(Date.now() / 5000)], node: () => outlook(r) }) },
        { title: "Queue", cls: "number", cell: (r) => r.queue ? f.count(r.queue) : f.DASH },
      ],
    });
  }
  table.set(rows);
}
