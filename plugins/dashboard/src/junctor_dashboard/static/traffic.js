import { legend, lines, room, stacked } from "./charts.js";
import { $, h, tiles } from "./dom.js";
import * as f from "./format.js";

const MARKS = [[0, "2 min ago"], [0.5, "1 min"], [1, "now"]];

export function traffic(t) {
  const failed = t.requests ? t.failed / t.requests : null;
  tiles($("#tiles"), [
    ["Requests", f.decimal(t.rate), "a second", `${f.count(t.requests)} in the last minute`],
    ["Errors", f.share(failed), "", `${f.count(t.failed)} failed, ${f.count(t.refused)} refused`, failed > 0.05],
    ["First token", f.ms(t.ttft.p50), "median", `p95 ${f.ms(t.ttft.p95)} · p99 ${f.ms(t.ttft.p99)}`],
    ["Gateway’s overhead", f.ms(t.overhead.p50), "median", `p95 ${f.ms(t.overhead.p95)} · p99 ${f.ms(t.overhead.p99)}`],
    ["Cost, last minute", f.money(t.cost_per_minute), "", `${f.money(t.totals.cost)} since the start`],
    ["Saved by caches", f.money(t.totals.saved), "", t.totals.unpriced ? `${f.count(t.totals.unpriced)} exchanges unpriced` : "since the start"],
  ]);
  const present = t.outcomes.map((name, place) => [name, t.seconds.some((row) => row[place])]).filter(([name, is]) => is || name === "answered");
  $("#requests-chart").replaceChildren(
    h("figcaption", {}, "Requests by second and outcome", legend(present.map(([name]) => [`k-${name}`, name]))),
    stacked({ width: room($("#requests-chart")), label: `Requests by second over two minutes, now ${f.decimal(t.rate)} a second`, rows: t.seconds, classes: t.outcomes, format: f.count, marks: MARKS }));
  $("#ttft-chart").replaceChildren(
    h("figcaption", {}, "Time to first token", legend([["k-p50", "median"], ["k-p95", "95th percentile"]])),
    lines({
      width: room($("#ttft-chart")), label: `Time to first token over two minutes, median now ${f.ms(t.ttft.p50)}`, format: f.ms, marks: MARKS,
      lines: [{ cls: "p95", values: t.ttft.p95s }, { cls: "p50", values: t.ttft.p50s }],
    }));
}
