import { $, code, empty, h, search, swap } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";

const amount = (row, value) => row.dimension === "cost" ? f.money(value) : f.count(value);
const places = (row) => row.dimension === "concurrency";
// Of a concurrency limit nothing is ever used up: what running requests hold is all of it.
const spent = (row) => row.used + (places(row) ? row.reserved : 0);
const held = (row) => places(row) ? 0 : row.reserved;
const used = (row) => row.limit ? (row.used + row.reserved) / row.limit : 1;
const softly = (row) => row.soft != null && row.used + row.reserved >= row.soft;

const unit = (row) => ({ cost: "", concurrency: " in use" })[row.dimension]
  ?? ` ${row.dimension.replace("_", " ").replace(/s$/, row.limit === 1 ? "" : "s")}`;

function amounts(row, word = "") {
  return `${amount(row, spent(row))} of ${amount(row, row.limit)}${unit(row)}${places(row) ? "" : word}${held(row) ? `, ${amount(row, held(row))} held` : ""}`;
}

function bar(row) {
  const level = used(row) >= 1 ? "bad" : softly(row) ? "warn" : "";
  const of = (value) => `${Math.min(100, row.limit ? 100 * value / row.limit : 100)}%`;
  return [
    h("div", {
      class: `bar ${level}`, role: "meter", "aria-valuemin": "0", "aria-valuemax": "100",
      "aria-valuenow": String(Math.round(Math.min(1, used(row)) * 100)), "aria-label": `${row.name} of ${row.scope}`,
      "aria-valuetext": `${amounts(row, " used")}, ${f.share(used(row))}`,
    },
      h("i", { style: { width: of(spent(row)) } }),
      held(row) ? h("i", { class: "held", style: { left: of(row.used), width: of(held(row)) } }) : null,
      row.soft != null && row.soft < row.limit ? h("b", { style: { left: of(row.soft) } }) : null,
      h("b", { class: "hard" })),
    h("div", { class: "marks" },
      h("span", {}, amounts(row)),
      h("span", {}, f.share(used(row)))),
  ];
}

function outlook(row) {
  const now = Date.now() / 1000;
  const full = used(row) >= 1, soft = softly(row);
  const [text, level] = full ? [places(row) ? "all in use" : "full", "bad"]
    : row.forecast ? [`full in ${f.span(row.forecast - now)}`, "warn"]
    : soft ? ["over the soft mark", "warn"] : ["in bounds", "good"];
  const more = [!full && row.forecast && soft && "over the soft mark", calendar(row) && `resets in ${f.span(row.resets_at - now)}`].filter(Boolean);
  return [h("span", { class: `chip ${level}` }, text), more.length ? h("span", { class: "sub" }, more.join(", ")) : null];
}

// A sliding window has no moment at which it begins anew.
const calendar = (row) => row.resets_at && ["day", "week", "month"].includes(row.window);

// "team=search,feature=ranking": the values name the scope; the whole is its tooltip. "-" is none: "team=-".
const scope = (row) => row.scope.split(",").map((part) => {
  const at = part.indexOf("="), value = part.slice(at + 1);
  return at > 0 && value === "-" ? `no ${part.slice(0, at).replace("_", " ")}` : value;
}).join(" / ");

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
        { title: "Queue", cls: "number", cell: (r) => r.queue ? `${f.count(r.queue)} waiting` : f.DASH },
      ],
    });
  }
  table.set(rows);
}
