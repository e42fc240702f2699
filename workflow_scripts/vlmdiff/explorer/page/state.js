"use strict";
// What is shown: conditions, order, axes, the open feature. It lives in the address; stars live in the browser.

const state = { keep: [], sort: "", falling: true, open: "", with: "", x: "", y: "", of: "", stars: false };

/** Read the address; what it asks for and is not there is left out, and told. */
state.read = function () {
  const asked = new URLSearchParams(location.hash.slice(1)), problems = [];
  const columns = explorer.columns, first = explorer.about.first;
  const known = (key, otherwise) => (columns.has(key) ? key : otherwise);
  state.keep = [];
  for (const text of asked.getAll("keep")) {
    try { state.keep.push(explorer.condition(text)); } catch (error) { problems.push(error.message); }
  }
  const sort = asked.get("sort") ?? first.sort;
  state.falling = sort.startsWith("-");
  state.sort = known(sort.replace(/^-/, ""), "layer");
  state.x = known(asked.get("x"), first.x);
  state.y = known(asked.get("y"), first.y);
  state.of = known(asked.get("of"), first.x);
  state.stars = asked.has("stars");
  for (const key of ["open", "with"]) {
    const name = asked.get(key) ?? "", row = name && explorer.rowOf(name);
    if (row === -1) problems.push(`There is no feature ${name}`);
    state[key] = name && row !== -1 ? explorer.nameOf(row) : "";
  }
  return problems.join(". ");
};

/** Change what is shown: the address follows, and the page follows the address. */
state.change = function (changes) {
  Object.assign(state, changes);
  const told = new URLSearchParams();
  for (const { text } of state.keep) told.append("keep", text);
  told.set("sort", (state.falling ? "-" : "") + state.sort);
  told.set("x", state.x);
  told.set("y", state.y);
  told.set("of", state.of);
  if (state.stars) told.set("stars", "");
  if (state.open) told.set("open", state.open);
  if (state.with) told.set("with", state.with);
  const hash = `#${told}`;
  if (hash !== location.hash) location.hash = hash;
};

/** Add a condition to those there are, in the place of one on the same side of the same column. */
state.keepToo = function (text) {
  const one = explorer.condition(text);
  const side = ({ text: told }) => told.replace(/[^\s<>=!]+$/, "").replace(/[=\s]/g, "");
  const others = state.keep.filter((other) => one.column.kind !== "number" || side(other) !== side(one));
  if (!others.some((other) => other.text === one.text)) others.push(one);
  state.change({ keep: others });
};

// Stars: name -> note, of this experiment.
const stars = {
  all: new Map(),
  // Notes on features that are stars no more: a second press of the key brings them back.
  dropped: new Map(),
  place: () => `vlmdiff-stars-${explorer.about.experiment}`,
  read() {
    try { stars.all = new Map(JSON.parse(localStorage.getItem(stars.place()) ?? "[]")); } catch { stars.all = new Map(); }
  },
  write() {
    try { localStorage.setItem(stars.place(), JSON.stringify([...stars.all])); } catch { /* a browser that keeps nothing */ }
  },
  toggle(name) {
    const [from, to] = stars.all.has(name) ? [stars.all, stars.dropped] : [stars.dropped, stars.all];
    to.set(name, from.get(name) ?? "");
    from.delete(name);
    stars.write();
  },
  note(name, text) {
    stars.all.set(name, text);
    stars.write();
  },
  rows: () => new Set([...stars.all.keys()].map(explorer.rowOf).filter((row) => row >= 0)),
  /** The stars as a table that the workflow reads as a list of features. */
  table() {
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const there = [...stars.all].filter(([name]) => explorer.rowOf(name) >= 0);
    const lines = there.map(([name, note]) => {
      const row = explorer.rowOf(name);
      return [explorer.layerOf[row], explorer.featureOf[row], name, cell(note)].join(",");
    });
    return ["layer,feature,name,note", ...lines, ""].join("\n");
  },
};
