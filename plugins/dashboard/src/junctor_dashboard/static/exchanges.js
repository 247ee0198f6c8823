import { $, choice, empty, h, search } from "./dom.js";
import * as f from "./format.js";
import { Table } from "./table.js";
import { story } from "./story.js";

const MOST = 200;
const KINDS = { answered: "good", cached: "good", refused: "warn", failed: "bad", timeout: "bad", cancelled: "" };
const open = new Map(); // key -> the row of the story
let list = [], table = null, query = "", kind = "all", found = null, timer = null, loggedOut = () => {};

const PROBLEMS = ["refused", "failed", "timeout", "cancelled"];
const words = (e) => `${e.id} ${e.team} ${e.feature} ${e.model} ${e.target} ${e.called} ${e.outcome} ${e.status} ${e.purpose}`;

function toggle(exchange) {
  const line = table.made.get(exchange.key);
  const button = line.querySelector("button.open");
  const shown = open.get(exchange.key);
  if (shown) {
    shown.remove(); open.delete(exchange.key);
    button.setAttribute("aria-expanded", "false");
    return;
  }
  const cell = h("td", { colspan: String(table.columns.length), class: "wide" }, h("p", { class: "muted" }, "…"));
  const row = h("tr", { class: "told", id: `story-${exchange.key}` }, cell);
  open.set(exchange.key, row);
  line.after(row);
  button.setAttribute("aria-expanded", "true");
  const whole = exchange.attempts ? Promise.resolve(exchange) : load(exchange.key);
  whole.then((data) => cell.replaceChildren(data ? story(data) : empty("This exchange is no longer in memory; search its request id to ask the log.")));
}

async function load(key) {
  try {
    const answer = await fetch(`/dashboard/exchanges/${encodeURIComponent(key)}`);
    if (answer.status === 401) return loggedOut();
    return answer.ok ? await answer.json() : null;
  } catch { return null; }
}

function make() {
  table = new Table($("#exchanges .body"), {
    caption: "Last exchanges, the newest first", page: 15, key: (e) => e.key, words,
    columns: [
      { title: "Request", wide: true, cell: (e) => ({ sign: e.key, node: () => h("button", { type: "button", class: "open", "aria-expanded": "false", title: e.id, onclick: (event) => { event.stopPropagation(); toggle(e); } }, e.id.length > 14 ? e.id.slice(0, 12) + "…" : e.id) }) },
      { title: "Time", cell: (e) => f.clock(e.time) },
      { title: "Outcome", cell: (e) => ({ sign: [e.outcome, e.status], node: () => h("span", { class: `chip ${KINDS[e.outcome] ?? ""}` }, e.outcome === "answered" || e.outcome === "cached" ? e.outcome : `${e.outcome} ${e.status}`) }) },
      { title: "Team", cell: (e) => e.purpose ? `gateway: ${e.purpose}` : [e.team, e.feature].filter(Boolean).join(" / ") || f.DASH },
      { title: "Model", wide: true, cell: (e) => ({ sign: [e.model, e.target, e.called, e.attempts_made], node: () => [e.model || f.DASH, h("span", { class: "sub" }, (e.target || e.called || "no target") + (e.attempts_made > 1 ? `, ${e.attempts_made} attempts` : "") + (e.stream ? ", stream" : ""))] }) },
      { title: "First token", cls: "number", cell: (e) => f.ms(e.ttft) },
      { title: "Whole", cls: "number", cell: (e) => f.ms(e.duration) },
      { title: "Overhead", cls: "number", cell: (e) => f.ms(e.overhead) },
      { title: "Tokens", cls: "number", cell: (e) => e.tokens ? `${f.count(e.tokens[0])} → ${f.count(e.tokens[1])}` : f.DASH },
      { title: "Cost", cls: "number", cell: (e) => f.money(e.cost) },
    ],
  });
  table.body.addEventListener("click", (event) => {
    const line = event.target.closest("tr.row");
    if (!line || window.getSelection().toString()) return;
    for (const [key, made] of table.made) if (made === line) toggle(shown().find((e) => e.key === key));
  });
  // A story stands under its line, wherever that has moved, and goes with it.
  const draw = table.draw.bind(table);
  table.draw = () => {
    for (const row of open.values()) row.remove();
    draw();
    for (const [key, row] of open) {
      const line = table.made.get(key);
      if (line) line.after(row); else open.delete(key);
    }
  };
}

const shown = () => found || (kind === "all" ? list : list.filter((e) => PROBLEMS.includes(e.outcome)));

function draw() {
  if (!table) {
    if (!list.length && !found) return;
    $("#exchanges .body").replaceChildren();
    make();
  }
  table.query = query && !found ? query : "";
  // Whoever reads a story or looks for one is not to lose the line under the pointer: the list waits.
  table.set(open.size && !found ? table.rows : shown());
}

// What memory no longer has, the log may: asked once the typing rests, for what may be a whole id.
function ask(text) {
  clearTimeout(timer);
  found = null;
  if (text.length < 6 || list.some((e) => words(e).toLowerCase().includes(text.toLowerCase()))) return draw();
  timer = setTimeout(async () => {
    try {
      const answer = await fetch(`/dashboard/exchanges?id=${encodeURIComponent(text)}`);
      if (answer.status === 401) return loggedOut();
      const { exchanges } = await answer.json();
      found = exchanges.length ? exchanges : null;
      draw();
    } catch { /* the stream says that the connection is gone */ }
  }, 300);
  draw();
}

export function begin(out) {
  loggedOut = out;
  const input = search("Search exchanges by request id, team, model or outcome", "Request id, team, model …", () => {
    for (const row of open.values()) row.remove();
    open.clear();
    query = input.value.trim().toLowerCase();
    ask(input.value.trim());
  });
  $("#exchanges .head").append(h("div", { class: "tools" },
    choice("Which exchanges", [["all", "All"], ["problems", "Problems"]], kind, (v) => { kind = v; draw(); }), input));
  $("#exchanges .body").replaceChildren(empty("No exchange yet. The first request to this gateway appears here within a second."));
}

export function add(lines) {
  const known = new Set(list.map((e) => e.key));
  list = [...lines.filter((e) => !known.has(e.key)).reverse(), ...list].slice(0, MOST);
  draw();
}
