// Small charts in SVG. Each says in words what it shows; the figures beside it carry the numbers.
import { h, s } from "./dom.js";

const HEIGHT = 130, LEFT = 44, BOTTOM = 18;

// As many units wide as it is pixels on the page, so that its text has one size everywhere.
export const room = (place) => Math.max(240, Math.round(place.clientWidth));

export function nice(top) {
  if (!(top > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= top);
}

function frame(width, label, top, format, marks) {
  const svg = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const part of [0, 0.5, 1]) {
    const y = 6 + (HEIGHT - BOTTOM - 6) * (1 - part);
    svg.append(s("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }),
      s("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, format(top * part)));
  }
  marks.forEach(([place, text], index) => svg.append(s("text", {
    x: LEFT + (width - LEFT) * place, y: HEIGHT - 3, "text-anchor": index === 0 ? "start" : index === marks.length - 1 ? "end" : "middle",
  }, text)));
  return svg;
}

const height = (value, top) => (HEIGHT - BOTTOM - 6) * value / top;

// rows: columns of values, one for each class.
export function stacked({ width, label, rows, classes, format, marks }) {
  const top = nice(Math.max(...rows.map((row) => row.reduce((a, b) => a + b, 0)), 0));
  const svg = frame(width, label, top, format, marks);
  const step = (width - LEFT) / rows.length;
  const paths = classes.map(() => "");
  rows.forEach((row, place) => {
    let y = HEIGHT - BOTTOM;
    row.forEach((value, kind) => {
      if (!value) return;
      const tall = height(value, top);
      y -= tall;
      paths[kind] += `M${(LEFT + place * step + step * 0.12).toFixed(1)} ${y.toFixed(2)}h${(step * 0.76).toFixed(1)}v${tall.toFixed(2)}h-${(step * 0.76).toFixed(1)}z`;
    });
  });
  paths.forEach((d, kind) => d && svg.append(s("path", { d, class: classes[kind] })));
  return svg;
}

// lines: {cls, values}, gaps where a value is null.
export function lines({ width, label, lines: given, format, marks }) {
  const top = nice(Math.max(...given.flatMap((line) => line.values.map((v) => v ?? 0)), 0));
  const svg = frame(width, label, top, format, marks);
  for (const { cls, values } of given) {
    const step = (width - LEFT) / Math.max(1, values.length - 1);
    let d = "", pen = false;
    values.forEach((value, place) => {
      if (value == null) { pen = false; return; }
      const x = (LEFT + place * step).toFixed(1), y = (HEIGHT - BOTTOM - height(value, top)).toFixed(1);
      // A point between gaps would not be seen as a line of no length.
      d += `${pen ? "L" : "M"}${x} ${y}`;
      if (!pen && values[place + 1] == null) d += "h1.5";
      pen = true;
    });
    if (d) svg.append(s("path", { d, class: `line ${cls}` }));
  }
  return svg;
}

export const legend = (entries) => h("ul", { class: "legend" }, entries.map(([cls, text]) =>
  h("li", {}, h("span", { class: `key ${cls}`, "aria-hidden": "true" }), text)));
