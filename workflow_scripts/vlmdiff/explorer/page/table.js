"use strict";
// The table: of all rows only those in sight are in the document.

const table = { rows: new Uint32Array(0), height: 30, heads: 52, shown: [] };
// Browsers end an element after some ten million pixels: beyond that the scroll bar moves in larger steps.
const TALLEST = 6e6;

table.setUp = function () {
  table.box = document.getElementById("rows");
  table.head = document.getElementById("head");
  table.body = document.getElementById("body");
  table.space = document.getElementById("space");
  const waiting = { frame: 0 };
  table.box.addEventListener("scroll", () => {
    cancelAnimationFrame(waiting.frame);
    waiting.frame = requestAnimationFrame(table.draw);
  });
  new ResizeObserver(() => table.draw()).observe(table.box);
  table.body.addEventListener("click", (event) => {
    const row = event.target.closest("tr")?.dataset.row;
    if (row !== undefined) state.change({ open: explorer.nameOf(Number(row)) });
  });
  const heads = explorer.about.columns.map(({ key }) => explorer.columns.get(key));
  table.shown = heads;
  document.getElementById("parts").replaceChildren(partHeading("", 1), ...partsOf(heads));
  table.head.replaceChildren(
    heading("feature", "feature", "name", "name"),
    ...heads.map(({ key, title, meaning, kind }) => heading(key, title, meaning, kind)),
  );
};

/** A heading over the columns of each part, which stays in sight while they do. */
function partsOf(heads) {
  const runs = [];
  for (const { part } of heads) {
    if (runs.at(-1)?.part === part) runs.at(-1).count += 1;
    else runs.push({ part, count: 1 });
  }
  return runs.map(({ part, count }) => partHeading(part, count));
}

function partHeading(title, columns) {
  const cell = document.createElement(title ? "th" : "td"), name = document.createElement("span");
  cell.colSpan = columns;
  if (title) cell.scope = "colgroup";
  name.textContent = title;
  cell.append(name);
  return cell;
}

function heading(key, title, meaning, kind) {
  const cell = document.createElement("th"), button = document.createElement("button");
  cell.scope = "col";
  cell.className = kind;
  cell.dataset.key = key;
  button.textContent = title;
  button.title = `${meaning} (${key})`;
  button.addEventListener("click", () => {
    const falling = state.sort === key ? !state.falling : kind !== "name" && kind !== "words";
    state.change({ sort: key, falling });
  });
  cell.append(button);
  return cell;
}

/** Show other rows. */
table.show = function (rows) {
  table.rows = rows;
  for (const cell of table.head.children) {
    const sorted = cell.dataset.key === state.sort;
    cell.ariaSort = sorted ? (state.falling ? "descending" : "ascending") : "none";
  }
  table.revealColumn();
  table.box.querySelector("table").ariaRowCount = String(rows.length + 2);
  table.draw();
};

/** Bring the column that rows are sorted by into sight, when it becomes another one. */
table.revealColumn = function () {
  const { box, head, sorted } = table, cell = [...head.children].find((one) => one.dataset.key === state.sort);
  table.sorted = state.sort;
  if (!cell || !sorted || sorted === state.sort || cell === head.firstElementChild) return;
  const left = cell.offsetLeft - head.firstElementChild.offsetWidth, right = cell.offsetLeft + cell.offsetWidth;
  if (left < box.scrollLeft || right > box.scrollLeft + box.clientWidth) box.scrollLeft = left;
};

table.tall = () => Math.min(table.rows.length * table.height, TALLEST);

/** The first row in sight. */
table.first = function () {
  const sight = Math.max(1, Math.floor((table.box.clientHeight - table.heads) / table.height));
  const last = Math.max(0, table.rows.length - sight);
  const way = table.tall() - table.box.clientHeight + table.heads;
  return way <= 0 ? 0 : Math.min(last, Math.round((table.box.scrollTop / way) * last));
};

table.draw = function () {
  const sight = Math.ceil(table.box.clientHeight / table.height) + 1, first = table.first();
  table.space.style.height = `${table.tall() + table.heads}px`;
  const rows = [];
  for (let place = first; place < Math.min(table.rows.length, first + sight); place++) rows.push(line(place));
  const focused = document.activeElement.closest("#body tr")?.dataset.row;
  table.body.replaceChildren(...rows);
  table.body.querySelector(`tr[data-row="${focused}"] button`)?.focus({ preventScroll: true });
};

function line(place) {
  const row = table.rows[place], name = explorer.nameOf(row);
  const tr = document.createElement("tr"), th = document.createElement("th");
  tr.ariaRowIndex = String(place + 3);
  tr.dataset.row = String(row);
  if (name === state.open) tr.ariaCurrent = "true";
  th.scope = "row";
  const link = document.createElement("button");
  link.textContent = (stars.all.has(name) ? "★ " : "") + name + (explorer.about.details.includes(name) ? " ▦" : "");
  th.append(link);
  tr.append(th);
  for (const column of table.shown) {
    const cell = document.createElement("td");
    cell.className = column.kind;
    cell.textContent = explorer.shown(column, row);
    tr.append(cell);
  }
  return tr;
}

/** Bring the open feature into sight, if it is among the rows. */
table.reveal = function () {
  const place = table.rows.indexOf(explorer.rowOf(state.open || " "));
  if (place < 0) return;
  const sight = Math.floor((table.box.clientHeight - table.heads) / table.height), first = table.first();
  if (place >= first && place < first + sight) return;
  const last = Math.max(1, table.rows.length - sight);
  const way = table.tall() - table.box.clientHeight + table.heads;
  table.box.scrollTop = (Math.max(0, place - Math.floor(sight / 2)) / last) * way;
};
