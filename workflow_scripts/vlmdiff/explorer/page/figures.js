"use strict";
// What ablating and steering a feature does, and where the head that writes it looks, as pictures.

const figures = { width: 420, left: 150, row: 24 };

/** An SVG element with attributes and children. */
function drawn(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

const hint = (text) => drawn("title", {}, text);
const end = (value) => (value == null ? "?" : number(value));
const interval = (value, low, high) => end(value) + (low == null && high == null ? "" : ` (95 %: ${end(low)} to ${end(high)})`);

/** A linear scale that shows zero and all values; ticks at round numbers. */
function scale(values, from, to) {
  const known = [0, ...values.filter((value) => value != null)];
  let low = Math.min(...known), high = Math.max(...known);
  if (low === high) high = low + 1;
  const place = (value) => from + ((value - low) / (high - low)) * (to - from);
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) ticks.push(Number((i * step).toPrecision(6)));
  return { place, ticks };
}

/** A picture of an effect, with its numbers as a table for whoever cannot see it, or wants them. */
figures.effect = function ({ title, axis, rows, chance, pools, lines }) {
  const picture = rows ? figures.dots(rows, chance) : figures.curves(lines);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `${title}: ${axis}. The numbers follow as a table.`);
  const told = rows
    ? rows.map(([name, ...values]) => [name, interval(...values)])
    : lines.flatMap(({ name, points }) => points.map(([x, ...values]) => [`${name}, strength ${number(x)}`, interval(...values)]));
  const body = element("tbody", {}, ...told.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))));
  const note = chance?.length ? [figures.chanceNote(chance, rows[0][1]), pools].filter(Boolean).join(" ") : null;
  return element("figure", { class: "effect" },
    element("figcaption", {}, element("strong", {}, title), axis), picture,
    note ? element("p", { class: "quiet" }, note) : null,
    element("details", {}, element("summary", {}, "Numbers"), element("table", {}, body)));
};

/** What random pools say of the first row: a pool may hold the feature itself. */
figures.chanceNote = function (chance, value) {
  const as = chance.filter((one) => one <= value).length, grey = `Grey: the best feature of each of ${chance.length} random pools, on the same data as the first row`;
  return value == null ? `${grey}.` : `${grey}; ${as} of them ${as === 1 ? "takes" : "take"} at least as much (p = ${number((1 + as) / (1 + chance.length))}, uncorrected).`;
};

/** Values with their intervals, one row each; on the first row what random pools reach. */
figures.dots = function (rows, chance = []) {
  const { width, left, row } = figures, height = row * rows.length + 22;
  const { place, ticks } = scale([...rows.flatMap((one) => one.slice(1)), ...chance], left, width - 12);
  const made = drawn("svg", { viewBox: `0 0 ${width} ${height}` });
  for (const tick of ticks) made.append(...grid(place(tick), height - 20, short(tick), tick === 0));
  for (const value of chance) made.append(drawn("line", { class: "chance", x1: place(value), x2: place(value), y1: 5, y2: row - 5 }));
  rows.forEach(([name, value, low, high], i) => {
    const y = row * (i + 0.5);
    const shown = name.length > 24 ? `${name.slice(0, 23)}…` : name;
    made.append(drawn("text", { x: 0, y: y + 4 }, shown, hint(name)));
    if (value == null) return;
    if (low != null && high != null) made.append(drawn("line", { class: "whisker", x1: place(low), x2: place(high), y1: y, y2: y }));
    made.append(drawn("circle", { class: "dot", cx: place(value), cy: y, r: 4.5 }, hint(`${name}: ${interval(value, low, high)}`)));
  });
  return made;
};

const grid = (x, bottom, text, zero) => [
  drawn("line", { class: zero ? "zero" : "tick", x1: x, x2: x, y1: 0, y2: bottom }),
  drawn("text", { class: "middle", x, y: bottom + 15 }, text),
];

/** Values by strength, a line each; the first one full, the others dashed. */
figures.curves = function (lines) {
  const { width } = figures, height = 170, left = 52, bottom = height - 22;
  const points = lines.flatMap((line) => line.points);
  const across = scale(points.map(([x]) => x), left, width - 12);
  const up = scale(points.flatMap((point) => point.slice(1)), bottom, 22);
  const made = drawn("svg", { viewBox: `0 0 ${width} ${height}` });
  for (const tick of up.ticks) {
    made.append(drawn("line", { class: tick === 0 ? "zero" : "tick", x1: left, x2: width - 12, y1: up.place(tick), y2: up.place(tick) }));
    made.append(drawn("text", { class: "end", x: left - 5, y: up.place(tick) + 4 }, short(tick)));
  }
  for (const tick of across.ticks) made.append(drawn("text", { class: "middle", x: across.place(tick), y: height - 6 }, short(tick)));
  lines.forEach(({ name, points: own }, i) => {
    const known = own.filter(([, y]) => y != null), kind = `line line-${Math.min(i, 1)}`;
    made.append(drawn("polyline", { class: kind, points: known.map(([x, y]) => `${across.place(x)},${up.place(y)}`).join(" ") }));
    for (const [x, y, low, high] of known) {
      const at = { x1: across.place(x), x2: across.place(x) };
      if (low != null && high != null) made.append(drawn("line", { class: `whisker ${kind}`, ...at, y1: up.place(low), y2: up.place(high) }));
      made.append(drawn("circle", { class: kind, cx: at.x1, cy: up.place(y), r: 3.5 }, hint(`${name}, strength ${number(x)}: ${interval(y, low, high)}`)));
    }
    made.append(drawn("line", { class: kind, x1: left + 170 * i, x2: left + 170 * i + 22, y1: 8, y2: 8 }));
    made.append(drawn("text", { x: left + 170 * i + 28, y: 12 }, name));
  });
  return made;
};

/** Pictures on which a head's attention lies. */
figures.look = function ({ title, samples }) {
  const most = Math.max(...samples.flatMap(({ weights }) => weights));
  const cards = samples.map(({ about, image, patches, weights }) => {
    const hints = weights.map((weight, i) => `patch ${i + 1}: ${(100 * weight).toPrecision(2)} % of its attention`);
    const sum = weights.reduce((one, two) => one + two, 0);
    return element("div", {}, overlaid(image, about, patches, weights.map((weight) => weight / most), hints),
      element("p", { class: "quiet" }, `${about}: ${(100 * sum).toFixed(0)} % on the picture`));
  });
  const told = "Read at the token that attends most to the picture; often it is not the one on which the feature fires. An illustration, not evidence.";
  return element("section", { class: "samples" }, element("h3", {}, title), element("p", { class: "quiet" }, told), element("div", { class: "looks card" }, ...cards));
};

/** A picture under shaded patches; edges are fractions of it, shades lie between 0 and 1. */
function overlaid(image, about, patches, shades, told) {
  const box = element("div", { class: "picture" }, element("img", { src: image, alt: `Picture of ${about}`, loading: "lazy" }));
  patches.forEach((edges, i) => {
    const [left, top, right, bottom] = edges.map((edge) => edge * 100);
    const place = `left: ${left}%; top: ${top}%; width: ${right - left}%; height: ${bottom - top}%`;
    box.append(element("span", { style: `${place}; --shade: ${shades[i].toFixed(3)}`, title: told[i] }));
  });
  return box;
}
