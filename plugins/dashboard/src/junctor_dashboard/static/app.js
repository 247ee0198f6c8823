// Keeps the page live: one event stream, opened again with growing pauses when it breaks.
import { caches } from "./caches.js";
import { costs } from "./costs.js";
import { $, setText } from "./dom.js";
import { add, begin } from "./exchanges.js";
import { span } from "./format.js";
import { quotas } from "./quotas.js";
import { targets } from "./targets.js";
import { traffic } from "./traffic.js";

const FIRST = 500, LONGEST = 15000, SILENCE = 25000;
const held = { plugins: [] };
let pause = FIRST, source = null, silence = null;

const loggedOut = () => location.assign("/dashboard/login");

function say(state, text) {
  $("#status").dataset.state = state;
  setText($("#status-text"), text);
}

function about(meta) {
  held.plugins = meta.plugins;
  setText($("#about"), `${meta.workers} ${meta.workers === 1 ? "worker" : "workers"} · up ${span(Date.now() / 1000 - meta.since)}`);
  const missing = meta.partial || meta.workers < meta.expected;
  $("#notice").hidden = !missing;
  setText($("#notice"), missing ? `Figures of ${meta.workers} of ${meta.expected} workers: the others do not report now.` : "");
}

function take(snapshot) {
  if (snapshot.meta) about(snapshot.meta);
  if (snapshot.traffic) traffic(snapshot.traffic);
  if ("quotas" in snapshot) quotas(snapshot.quotas, held.plugins);
  if (snapshot.targets) targets(snapshot.targets, held.plugins);
  if (snapshot.caches) caches(snapshot.caches, held.plugins);
}

function heard() {
  clearTimeout(silence);
  // A connection that a proxy holds open without passing anything on looks alive for ever.
  silence = setTimeout(broken, SILENCE);
}

async function broken() {
  source?.close();
  clearTimeout(silence);
  say("reconnecting", "reconnecting");
  try {
    const answer = await fetch("/dashboard/costs?by=team&range=hour", { cache: "no-store" });
    if (answer.status === 401) return loggedOut();
  } catch { /* not there yet */ }
  setTimeout(connect, pause * (0.75 + Math.random() / 2));
  pause = Math.min(LONGEST, pause * 2);
}

function connect() {
  source = new EventSource("/dashboard/events");
  heard();
  source.onopen = () => { pause = FIRST; say("live", "live"); heard(); };
  source.onerror = broken;
  source.addEventListener("snapshot", (event) => { heard(); take(JSON.parse(event.data)); });
  source.addEventListener("exchanges", (event) => { heard(); add(JSON.parse(event.data)); });
  source.addEventListener("over", loggedOut);
}

begin(loggedOut);
costs(loggedOut);
connect();
window.addEventListener("pagehide", () => source?.close());
window.addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
