"use strict";
// What is shown: conditions, order, axes, the open feature. It lives in the address; stars live in the browser.

// Of an address that somebody made by hand or by a program.
const MOST_CONDITIONS = 50, MOST_TOLD = 5;
const state = { keep: [], sort: "", falling: true, open: "", with: "", x: "", y: "", of: "", stars: false };

/** Read the address; what it asks for and is not there is left out, and told. */
state.read = function () {
  const asked = new URLSearchParams(location.hash.slice(1)), problems = [];
  const columns = explorer.columns, first = explorer.about.first;
  const known = (key, otherwise) => {
    if (key && !columns.has(key)) problems.push(`There is no column ${key.slice(0, 40)}`);
    return columns.has(key) ? key : otherwise;
  };
  const conditions = new Map();
  for (const text of asked.getAll("keep").slice(0, MOST_CONDITIONS)) {
    try {
      const one = explorer.condition(text);
      conditions.set(one.text, one);
    } catch (error) { problems.push(error.message); }
  }
  state.keep = [...conditions.values()];
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
  return problems.slice(0, MOST_TOLD).join(". ");
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

/** Add conditions to those there are, each in the place of one on the same side of the same column. */
state.keepToo = function (...texts) {
  let keep = state.keep;
  for (const one of texts.map(explorer.condition)) {
    const side = ({ text: told }) => told.replace(/[^\s<>=!]+$/, "").replace(/[=\s]/g, "");
    const limits = one.column.kind === "number" && !one.text.includes("!=");
    keep = [...keep.filter((other) => other.text !== one.text && (!limits || side(other) !== side(one))), one];
  }
  state.change({ keep });
};

// Stars: name -> note, of this experiment.
const stars = {
  all: new Map(),
  // Notes on features that are stars no more: a second press of the key brings them back.
  dropped: new Map(),
  place: () => `vlmdiff-stars-${explorer.about.experiment}`,
  // Why the browser does not keep them; empty if it does.
  lost: "",
  /** Read what the browser keeps; what is no name of a feature with a note is left out. */
  read() {
    try {
      const kept = JSON.parse(localStorage.getItem(stars.place()) ?? "[]");
      const pairs = kept.filter((pair) => Array.isArray(pair) && typeof pair[0] === "string" && explorer.rowOf(pair[0]) >= 0);
      stars.all = new Map(pairs.map(([name, note]) => [explorer.nameOf(explorer.rowOf(name)), typeof note === "string" ? note : ""]));
    } catch { /* those in memory stay */ }
  },
  /** Change one star among those that other windows may have changed meanwhile, and keep them. */
  change(how) {
    if (!stars.lost) stars.read();
    how(stars.all);
    try {
      localStorage.setItem(stars.place(), JSON.stringify([...stars.all]));
      stars.lost = "";
    } catch {
      stars.lost = "This browser does not keep your stars: export them before you leave.";
    }
  },
  toggle(name) {
    stars.change((all) => {
      const [from, to] = all.has(name) ? [all, stars.dropped] : [stars.dropped, all];
      to.set(name, from.get(name) ?? "");
      from.delete(name);
    });
  },
  note(name, text) {
    stars.change((all) => all.set(name, text));
  },
  rows: () => new Set([...stars.all.keys()].map(explorer.rowOf)),
  /** The stars as a table that the workflow reads as a list of features. */
  table() {
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    // Spreadsheets would run a note that begins like a formula.
    const harmless = (note) => (/^[=+\-@\t\r]/.test(note) ? `'${note}` : note);
    const lines = [...stars.all].map(([name, note]) => {
      const row = explorer.rowOf(name);
      return [explorer.layerOf[row], explorer.featureOf[row], name, cell(harmless(note))].join(",");
    });
    return ["layer,feature,name,note", ...lines, ""].join("\n");
  },
};
