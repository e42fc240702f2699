"use strict";
// Two charts of the rows that are kept; what is dragged over becomes conditions.

const charts = { scatter: null, histogram: null };
const EDGE = { left: 52, right: 12, top: 10, bottom: 30 };
const BINS = 60;

charts.setUp = function () {
  for (const name of ["scatter", "histogram"]) {
    const canvas = document.getElementById(name);
    charts[name] = { canvas, drag: null };
    canvas.addEventListener("pointerdown", (event) => charts.begin(name, event));
    canvas.addEventListener("pointermove", (event) => charts.move(name, event));
    canvas.addEventListener("pointerup", () => charts.end(name));
    canvas.addEventListener("pointercancel", () => { charts[name].drag = null; charts.draw(); });
    new ResizeObserver(() => charts.draw()).observe(canvas);
  }
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", () => charts.draw());
  const numbers = [...explorer.columns.values()].filter(({ kind }) => kind === "number");
  for (const [id, key] of [["across", "x"], ["up", "y"], ["counted", "of"]]) {
    const select = document.getElementById(id);
    select.replaceChildren(...numbers.map(({ key: own, title, part }) => new Option(part === OWN ? title : `${title} (${part})`, own)));
    select.addEventListener("change", () => state.change({ [key]: select.value }));
  }
};

// Where numbers span three decades or more, at most six of them are shown; what is smaller stands at the edge.
const MANY_TIMES = 1e3, MOST_TIMES = 1e6;

/** Range of the finite values of some rows, a little room around it; null if there are none. */
function range(column, rows) {
  let low = Infinity, high = -Infinity, least = Infinity;
  for (const row of rows) {
    const value = column.values[row];
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
    if (value > 0 && value < least) least = value;
  }
  if (low > high) return null;
  if (low >= 0 && high > least * MANY_TIMES) return { low: Math.max(least, high / MOST_TIMES) * 0.8, high: high * 1.2, log: true };
  const room = (high - low || Math.abs(high) || 1) * 0.02;
  return { low: low - room, high: high + room, log: false };
}

/** Where a value stands in a range, 0 to 1; NaN where nothing was measured. */
function share({ low, high, log }, value) {
  if (!log) return (value - low) / (high - low);
  return value <= low ? value * 0 : Math.log(value / low) / Math.log(high / low);
}
const valueAt = ({ low, high, log }, part) => (log ? low * (high / low) ** part : low + (high - low) * part);

/** Five or so round numbers within a range. */
function ticks({ low, high, log }) {
  if (log) {
    const found = [], step = Math.max(1, Math.ceil(Math.log10(high / low) / 5));
    for (let power = Math.ceil(Math.log10(low)); 10 ** power <= high; power += step) found.push(10 ** power);
    return found;
  }
  const raw = (high - low) / 5, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((one) => one * size >= raw) * size, found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) found.push(Math.abs(tick) < step / 1e6 ? 0 : tick);
  return found;
}

const short = (value) => (Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(0) : String(Number(value.toPrecision(4)))).replace("-", "−");
const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();

/** Fit a canvas to the screen's pixels, clear it, draw the axes; return what draws on it. */
function prepare(chart, across, up, title) {
  const { canvas } = chart, scale = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const box = { left: EDGE.left, top: EDGE.top, width: width - EDGE.left - EDGE.right, height: height - EDGE.top - EDGE.bottom };
  Object.assign(chart, { box, across, up });
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("quiet");
  pen.strokeStyle = colour("line");
  pen.textAlign = "center";
  for (const tick of ticks(across)) {
    const x = box.left + share(across, tick) * box.width;
    pen.fillText(short(tick), x, box.top + box.height + 15);
    pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.top + box.height); pen.stroke();
  }
  pen.textAlign = "right";
  for (const tick of ticks(up)) {
    const y = box.top + (1 - share(up, tick)) * box.height;
    pen.fillText(short(tick), box.left - 5, y + 4);
    pen.beginPath(); pen.moveTo(box.left, y); pen.lineTo(box.left + box.width, y); pen.stroke();
  }
  const told = [across.log && "→ log scale", up.log && "↑ log scale"].filter(Boolean).join("  ");
  pen.fillText(told, box.left + box.width, box.top + box.height + 28);
  canvas.ariaLabel = told ? `${title} (${told})` : title;
  return { pen, box };
}

function nothing(chart, title) {
  const { canvas } = chart, pen = canvas.getContext("2d");
  Object.assign(chart, { box: null });
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = colour("quiet");
  pen.fillText("Nothing was measured of what is kept.", 12, 24);
  canvas.ariaLabel = `${title}: nothing measured`;
}

charts.draw = function (rows = charts.rows) {
  if (!rows || !explorer.about) return;
  charts.rows = rows;
  if (!charts.scatter.canvas.clientWidth) return; // the overview is closed
  for (const [id, key] of [["across", "x"], ["up", "y"], ["counted", "of"]]) document.getElementById(id).value = state[key];
  charts.drawScatter(rows);
  charts.drawHistogram(rows);
};

charts.drawScatter = function (rows) {
  const x = explorer.columns.get(state.x), y = explorer.columns.get(state.y), chart = charts.scatter;
  const across = range(x, rows), up = range(y, rows);
  const title = `${rows.length} features by ${x.title} and ${y.title}`;
  if (!across || !up) return nothing(chart, title);
  const { pen, box } = prepare(chart, across, up, title);
  // Points of a million features cover one another: darker is more.
  const cell = 3, wide = Math.ceil(box.width / cell), tall = Math.ceil(box.height / cell), counts = new Uint32Array(wide * tall);
  const at = (row) => {
    const a = share(across, x.values[row]), b = share(up, y.values[row]);
    return a >= 0 && a <= 1 && b >= 0 && b <= 1 ? [a, b] : null;
  };
  let most = 0;
  for (const row of rows) {
    const place = at(row);
    if (!place) continue;
    const index = Math.min(wide - 1, Math.floor(place[0] * wide)) + wide * Math.min(tall - 1, Math.floor((1 - place[1]) * tall));
    if (++counts[index] > most) most = counts[index];
  }
  pen.fillStyle = colour("accent");
  for (let index = 0; index < counts.length; index++) {
    if (!counts[index]) continue;
    pen.globalAlpha = 0.35 + 0.65 * (Math.log(counts[index] + 1) / Math.log(most + 1));
    pen.fillRect(box.left + (index % wide) * cell, box.top + Math.floor(index / wide) * cell, cell, cell);
  }
  pen.globalAlpha = 1;
  for (const [names, name, size] of [[[...stars.all.keys()], "star", 4], [[state.with], "second", 5], [[state.open], "open", 6]]) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = 2;
    for (const row of names.filter(Boolean).map(explorer.rowOf)) {
      const place = row >= 0 && at(row);
      if (!place) continue;
      pen.beginPath();
      pen.arc(box.left + place[0] * box.width, box.top + (1 - place[1]) * box.height, size, 0, 7);
      pen.stroke();
    }
  }
  charts.drawDrag(chart, pen);
};

charts.drawHistogram = function (rows) {
  const column = explorer.columns.get(state.of), chart = charts.histogram, across = range(column, rows);
  const title = `Histogram of ${column.title}, ${rows.length} features`;
  if (!across) return nothing(chart, title);
  const counts = new Uint32Array(BINS);
  for (const row of rows) {
    const part = share(across, column.values[row]);
    if (part >= 0 && part <= 1) counts[Math.min(BINS - 1, Math.floor(part * BINS))]++;
  }
  const { pen, box } = prepare(chart, across, { low: 0, high: Math.max(...counts) * 1.05, log: false }, title);
  pen.fillStyle = colour("accent");
  for (let bin = 0; bin < BINS; bin++) {
    const height = (counts[bin] / (Math.max(...counts) * 1.05)) * box.height;
    if (counts[bin]) pen.fillRect(box.left + (bin / BINS) * box.width, box.top + box.height - Math.max(1, height), box.width / BINS - 1, Math.max(1, height));
  }
  const open = state.open && column.values[explorer.rowOf(state.open)];
  if (state.open && Number.isFinite(open)) {
    const x = box.left + share(across, open) * box.width;
    pen.strokeStyle = colour("open");
    pen.lineWidth = 2;
    pen.beginPath(); pen.moveTo(x, box.top); pen.lineTo(x, box.top + box.height); pen.stroke();
  }
  charts.drawDrag(chart, pen);
};

charts.drawDrag = function ({ drag, box, canvas }, pen) {
  if (!drag) return;
  const flat = canvas.id === "histogram";
  const [left, right] = [drag.x0, drag.x1].sort((a, b) => a - b), [top, bottom] = flat ? [box.top, box.top + box.height] : [drag.y0, drag.y1].sort((a, b) => a - b);
  pen.globalAlpha = 0.2;
  pen.fillStyle = colour("open");
  pen.fillRect(left, top, right - left, bottom - top);
  pen.globalAlpha = 1;
};

charts.begin = function (name, event) {
  if (!charts[name].box) return;
  charts[name].canvas.setPointerCapture(event.pointerId);
  charts[name].drag = { x0: event.offsetX, y0: event.offsetY, x1: event.offsetX, y1: event.offsetY };
};

charts.move = function (name, event) {
  const { drag } = charts[name];
  if (!drag) return;
  Object.assign(drag, { x1: event.offsetX, y1: event.offsetY });
  charts.draw();
};

/** How many digits tell values of a range apart. */
const digits = ({ low, high, log }) => (log ? 4 : Math.min(7, Math.max(4, 3 + Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (high - low))))));

/** Keep what was dragged over; a click opens the nearest feature of the scatter. */
charts.end = function (name) {
  const chart = charts[name], { drag, box, across, up } = chart;
  chart.drag = null;
  if (!drag) return;
  const part = (value, start, length) => Math.min(1, Math.max(0, (value - start) / length));
  const xs = [drag.x0, drag.x1].map((x) => part(x, box.left, box.width)).sort((a, b) => a - b);
  const ys = [drag.y0, drag.y1].map((y) => 1 - part(y, box.top, box.height)).sort((a, b) => a - b);
  if (Math.abs(drag.x1 - drag.x0) < 4) return name === "scatter" && Math.abs(drag.y1 - drag.y0) < 4 ? charts.pick(xs[0], ys[0]) : charts.draw();
  const told = [], limits = name === "scatter" ? [[state.x, across, xs], [state.y, up, ys]] : [[state.of, across, xs]];
  for (const [key, of, [low, high]] of limits) {
    const limit = (part) => Number(valueAt(of, part).toPrecision(digits(of)));
    // What was not measured is not drawn, and is not kept where all that is drawn is.
    const gaps = charts.rows.some((row) => Number.isNaN(explorer.columns.get(key).values[row]));
    if (low > 0) told.push(`${key} >= ${limit(low)}`);
    else if (gaps) told.push(`${key} >= ${of.log ? 0 : limit(0)}`);
    if (high < 1) told.push(`${key} <= ${limit(high)}`);
  }
  state.keepToo(...told);
};

charts.pick = function (a, b) {
  const { across, up, box } = charts.scatter, x = explorer.columns.get(state.x), y = explorer.columns.get(state.y);
  let nearest = -1, least = 15 ** 2;
  for (const row of charts.rows) {
    const far = ((share(across, x.values[row]) - a) * box.width) ** 2 + ((share(up, y.values[row]) - b) * box.height) ** 2;
    if (far < least) { least = far; nearest = row; }
  }
  if (nearest >= 0) state.change({ open: explorer.nameOf(nearest) });
};
