import { room, stacked } from "./charts.js";
import { $, choice, code, empty, h, swap } from "./dom.js";
import * as f from "./format.js";

const NONE = { team: "no team", feature: "no feature", model: "no model" };
const state = { by: "team", range: "hour", all: false };
let timer = null;

export function costs(loggedOut) {
  const load = async () => {
    clearTimeout(timer);
    const asked = `${state.by} ${state.range}`;
    try {
      const answer = await fetch(`/dashboard/costs?by=${state.by}&range=${state.range}`);
      if (answer.status === 401) return loggedOut();
      const found = await answer.json();
      if (asked === `${state.by} ${state.range}`) draw(answer.ok ? found : null, found.error);
    } catch { /* the stream says that the connection is gone */ }
    timer = setTimeout(load, 5000);
  };
  $("#costs .head").append(h("div", { class: "tools" },
    choice("Costs by", [["team", "Team"], ["feature", "Feature"], ["model", "Model"]], state.by, (v) => { state.by = v; load(); }),
    choice("Time", [["hour", "1 h"], ["day", "24 h"], ["month", "30 d"]], state.range, (v) => { state.range = v; load(); })));
  load();
}

function when(start, range) {
  return range === "month" ? f.day(start) : f.clock(start).slice(0, 5);
}

function draw(found, problem) {
  const body = $("#costs .body");
  const { by, range } = state;
  if (!found) {
    swap(body, [problem], () => empty(problem.includes("ledger") ? ["More than the last hour is in the ledger: enable ", code("logging"), " with the sink ", code("ledger"), "."] : problem));
    return;
  }
  if (!found.total && !(found.unpriced || []).length) {
    swap(body, ["none", range], () => empty("Nothing was spent in this time. Targets without a price are never free: give them one under ", code("models:"), "."));
    return;
  }
  swap(body, [by, found, state.all, room(body)], () => {
    const series = found.rest ? [...found.series, { name: `${found.rest.names} others`, values: found.rest.values, rest: true }] : found.series;
    const classes = series.map((one, place) => one.rest ? "rest" : `s${place % 12}`);
    const rows = found.starts.map((_, place) => series.map((one) => one.values[place]));
    const last = found.starts.length - 1;
    const names = (one) => one.name || NONE[by];
    const list = state.all ? found.table : found.table.slice(0, 6);
    return [
      h("figure", {}, h("figcaption", {}, h("span", {}, h("strong", {}, f.money(found.total)), " in all")),
        stacked({ width: room(body), label: `Costs by ${by} over time, ${f.money(found.total)} in all`, rows, classes, format: (n) => n ? f.money(n) : "$0", marks: [[0, when(found.starts[0], range)], [0.5, when(found.starts[last >> 1], range)], [1, range === "month" ? "today" : "now"]] })),
      h("table", {}, h("caption", { class: "visually-hidden" }, `Costs by ${by}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, by[0].toUpperCase() + by.slice(1)), h("th", { scope: "col", class: "number" }, "Cost"), h("th", { scope: "col", class: "number" }, "Share"))),
        h("tbody", {}, list.map((one, place) => h("tr", {},
          h("th", { scope: "row" }, h("span", { class: "legend" }, h("span", { class: `key ${place < 12 ? `s${place}` : "rest"}`, "aria-hidden": "true", style: { marginTop: ".35em" } }), h("span", {}, names(one)))),
          h("td", { class: "number" }, f.money(one.total)), h("td", { class: "number" }, f.share(found.total ? one.total / found.total : 0)))))),
      found.table.length > 6 ? h("button", { type: "button", class: "more", "aria-expanded": String(state.all), onclick: () => { state.all = !state.all; draw(found); } }, state.all ? "Show fewer" : `Show all ${found.table.length}`) : null,
      (found.unpriced || []).length ? h("p", { class: "muted" }, `Unpriced: ${found.unpriced.map((u) => u.target).slice(0, 8).join(", ")}`) : null,
    ].filter(Boolean);
  });
}

