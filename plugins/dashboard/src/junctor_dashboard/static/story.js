// One exchange: what was decided, which targets were called and when, and where the gateway's own time went.
import { h } from "./dom.js";
import * as f from "./format.js";

const pairs = (rows) => h("dl", {}, rows.filter(([, value]) => value !== "" && value != null).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
const part = (title, ...children) => h("div", {}, h("h3", {}, title), children);
const plain = (value) => typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);

function attempts(e) {
  const whole = Math.max(e.duration, ...e.attempts.map((a) => a.end), 0.001);
  const of = (value) => `${100 * value / whole}%`;
  return h("ol", { class: "fall" }, e.attempts.map((a) => {
    const first = a.first_byte ?? a.end;
    return h("li", {},
      h("span", {}, a.target, h("span", { class: "sub" }, [a.of, a.key_id && `key ${a.key_id}`, a.abandoned && "abandoned"].filter(Boolean).join(", "))),
      h("span", { class: "track", role: "img", "aria-label": `from ${f.ms(a.start)} to ${f.ms(a.end)}` },
        h("i", { class: a.error ? "wait bad" : "wait", style: { left: of(a.start), width: of(first - a.start) } }),
        a.first_byte != null ? h("i", { style: { left: of(first), width: of(a.end - first) } }) : null),
      h("span", { class: "number" }, f.ms(a.end - a.start)),
      a.error ? h("span", { class: "note" }, `${a.error.kind.replaceAll("_", " ")}${a.error.message ? `: ${a.error.message}` : ""}`) : null);
  }));
}

function hooks(e) {
  const whole = e.timings.reduce((sum, [, , us]) => sum + us, 0) || 1;
  let at = 0;
  return h("ol", { class: "fall" }, e.timings.map(([plugin, hook, us]) => {
    const left = at;
    at += us;
    return h("li", {}, h("span", {}, plugin, h("span", { class: "sub" }, hook.replaceAll("_", " "))),
      h("span", { class: "track", role: "img", "aria-label": `${plugin} ${hook} ${us} microseconds` }, h("i", { class: "hook", style: { left: `${100 * left / whole}%`, width: `${100 * us / whole}%` } })),
      h("span", { class: "number" }, f.ms(us / 1000)));
  }));
}

function route(r) {
  return [
    pairs([["Rule", r.rule || "none applied"], ["Strategy", r.strategy], ["Instead of", r.model && `model ${r.model}`], ["Because", r.because]]),
    h("table", {}, h("caption", { class: "visually-hidden" }, "Candidates"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Candidate"), h("th", { scope: "col", class: "number" }, "Score, or why not"))),
      h("tbody", {}, (r.candidates || []).map((c) => h("tr", {}, h("th", { scope: "row" }, c.target), h("td", { class: "number" }, c.dropped ? `dropped: ${c.dropped}` : c.score == null ? f.DASH : Number(c.score.toPrecision(4)).toString()))))),
  ];
}

export function story(e) {
  const facts = Object.entries(e.facts || {});
  return h("div", { class: "story" },
    part("Request", pairs([
      ["Id", h("code", {}, e.id)], ["Client", [e.client, e.key_id].filter(Boolean).join(" · ")], ["Team", e.team], ["Project", e.project], ["Feature", e.feature],
      ["Asked for", `${e.operation} of ${e.model || "no model"}${e.stream ? ", as a stream" : ""}`], ["Answered by", e.target],
      ["Outcome", `${e.outcome}, ${e.status}${e.finish_reason ? `, ${e.finish_reason}` : ""}`],
      ["Error", e.error && `${e.error.kind.replaceAll("_", " ")}${e.error.message ? `: ${e.error.message}` : ""}`],
      ["Tokens", e.tokens && `${f.count(e.tokens[0])} in, ${f.count(e.tokens[1])} out`],
      ["Cost", f.money(e.cost) + (e.saved ? `, ${f.money(e.saved)} saved` : "")],
    ])),
    part("Attempts", e.attempts.length ? attempts(e) : h("p", { class: "muted" }, "No target was called.")),
    part("Time in plugins", e.timings.length ? hooks(e) : null, h("p", { class: "muted" }, `Overhead until the answer began: ${f.ms(e.overhead)}. Waiting for targets is shown with the attempts.`)),
    e.route ? part("Route decision", route(e.route)) : null,
    e.cache || e.quota || facts.length ? part("What plugins said", pairs([
      ...Object.entries(e.cache || {}).map(([name, value]) => [`cache ${name}`, name === "saved" ? f.money(value) : plain(value)]),
      ...(e.quota ? [["quota", plain(e.quota)]] : []), ...facts.map(([name, value]) => [name.replaceAll("_", " "), plain(value)]),
    ])) : null);
}
