// Numbers, money and times as text. null is a dash: not known is not zero.
export const DASH = "–";
const plain = new Intl.NumberFormat("en");
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (n) => n == null ? DASH : n < 100000 ? plain.format(Math.round(n)) : compact.format(n);
export const decimal = (n) => n == null ? DASH : n >= 100 ? plain.format(Math.round(n)) : one.format(n);

export function share(x) {
  if (x == null) return DASH;
  const p = x * 100;
  return p === 0 ? "0 %" : p < 0.1 ? "<0.1 %" : (p < 10 ? one.format(p) : Math.round(p)) + " %";
}

export function ms(x) {
  if (x == null) return DASH;
  if (x < 1) return Math.round(x * 1000) + " µs";
  if (x < 1000) return (x < 10 ? one.format(x) : Math.round(x)) + " ms";
  return (x / 1000).toFixed(x < 10000 ? 2 : 1) + " s";
}

export function money(nano) {
  if (nano == null) return "unpriced";
  const dollars = nano / 1e9;
  if (dollars === 0) return "$0";
  if (dollars >= 10000) return "$" + compact.format(dollars);
  if (dollars >= 1) return "$" + dollars.toFixed(2);
  if (dollars >= 0.01) return "$" + dollars.toFixed(3);
  return dollars < 0.000001 ? "<$0.000001" : "$" + dollars.toFixed(dollars < 0.0001 ? 6 : 5);
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const day = (seconds) => new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short" });

export function span(seconds) {
  if (seconds < 90) return Math.max(0, Math.round(seconds)) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  if (seconds < 129600) return Math.round(seconds / 3600) + " h";
  return Math.round(seconds / 86400) + " d";
}
