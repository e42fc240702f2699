"use strict";
// All features of the experiment: columns of numbers, flags and words, one value a row.

// The part of columns that say which feature it is; no concept can be called so.
const OWN = "the feature";
const explorer = { about: null, columns: new Map(), layerOf: null, featureOf: null, loaded: 0 };

/** Called by data/about.js: what there is. Layers follow, each in a script of its own. */
explorer.begin = function (about) {
  explorer.about = about;
  const rows = about.layers.reduce((sum, layer) => sum + layer.features, 0);
  explorer.layerOf = new Float32Array(rows);
  explorer.featureOf = new Float32Array(rows);
  explorer.columns.set("layer", { key: "layer", title: "layer", meaning: "decoder block", kind: "number", part: OWN, values: explorer.layerOf });
  explorer.columns.set("feature", { key: "feature", title: "feature", meaning: "index in the dictionary", kind: "number", part: OWN, values: explorer.featureOf });
  const kept = new Set(about.details);
  explorer.columns.set("samples", { key: "samples", title: "▦", meaning: "its samples, effects or labels can be looked at", kind: "flag", part: OWN, values: new Uint8Array(rows) });
  for (const column of about.columns) {
    const kind = { number: Float32Array, flag: Uint8Array, words: Uint16Array }[column.kind];
    explorer.columns.set(column.key, { ...column, values: new kind(rows) });
  }
  let first = 0;
  for (const layer of about.layers) {
    layer.first = first;
    explorer.layerOf.fill(layer.layer, first, first + layer.features);
    for (let i = 0; i < layer.features; i++) explorer.featureOf[first + i] = i;
    first += layer.features;
  }
  explorer.rows = rows;
  for (const name of kept) explorer.columns.get("samples").values[explorer.rowOf(name)] = 1;
  explorer.start();
};

/** Load the layers one after the other; resolves to what is wrong with those that are not there. */
explorer.loadLayers = async function (told) {
  const problems = [], { layers } = explorer.about;
  for (const [place, layer] of layers.entries()) {
    const file = `data/layer_${layer.layer}.js`;
    try {
      await explorer.load(file);
      explorer.unpackInto(layer, await unzipped(layer.packed));
      layer.there = true;
      explorer.loaded += 1;
    } catch {
      problems.push(`${file} is missing or damaged, so its features are left out: make the explorer again.`);
    }
    layer.packed = null;
    told(place + 1, layers.length);
  }
  return problems;
};

/** Called by data/layer_<layer>.js: its columns one after the other, gzipped, in base64. */
explorer.layer = function (number, packed) {
  explorer.about.layers.find((one) => one.layer === number).packed = packed;
};

/** Run a script of the explorer's folder; rejects if it is not there. */
explorer.load = function (place) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = place;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => reject(new Error(place));
    document.head.append(script);
  });
};

async function unzipped(packed) {
  const text = atob(packed), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

explorer.unpackInto = function (layer, buffer) {
  let place = 0;
  for (const { key } of explorer.about.columns) {
    const { values } = explorer.columns.get(key);
    const bytes = layer.features * values.BYTES_PER_ELEMENT;
    values.set(new values.constructor(buffer.slice(place, place + bytes)), layer.first);
    place += bytes;
  }
};

/** Name of a row, such as L15F10748. */
explorer.nameOf = (row) => `L${explorer.layerOf[row]}F${explorer.featureOf[row]}`;

/** Row of a name; -1 if there is none. */
explorer.rowOf = function (name) {
  const found = /^L?(\d+)[FN/ ](\d+)$/i.exec(name.trim());
  const layer = found && explorer.about.layers.find((one) => one.layer === Number(found[1]));
  return layer && Number(found[2]) < layer.features ? layer.first + Number(found[2]) : -1;
};

/** What a cell shows. */
explorer.shown = function (column, row) {
  const value = column.values[row];
  if (column.kind === "flag") return value ? "✓" : "";
  if (column.kind === "words") return explorer.about.words[column.key][value];
  return number(value);
};

/** A number in four digits; nothing where nothing was measured. */
function number(value) {
  if (Number.isNaN(value)) return "";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(2) : value.toPrecision(4);
  return text.replace(/^-/, "−");
}

/** A number as the columns keep it (explorer/pack.py): so a limit that a cell shows meets what the cell holds. */
function asKept(value) {
  const one = new Float32Array([value]), bits = new Uint32Array(one.buffer);
  bits[0] = (bits[0] + 0x80) & 0xffffff00;
  return Number.isFinite(value) && Number.isFinite(one[0]) ? one[0] : value;
}

/** The column of a key, in capitals or not, or of a title that only one has. */
explorer.columnOf = function (name) {
  if (explorer.columns.has(name)) return explorer.columns.get(name);
  const all = [...explorer.columns.values()], wanted = name.toLowerCase();
  const same = (of) => all.filter((column) => column[of].toLowerCase() === wanted);
  return [same("key"), same("title")].find((found) => found.length === 1)?.[0] ?? null;
};

/** The keys that are most like a word: by title, by a part of it, by letters in common. */
explorer.like = function (word) {
  const wanted = word.trim().toLowerCase(), pairs = (text) => new Set([...text].slice(1).map((letter, i) => text[i] + letter));
  const far = ({ key, title }) => {
    const own = pairs(key.toLowerCase()), asked = pairs(wanted), both = [...asked].filter((pair) => own.has(pair)).length;
    return (title.toLowerCase() === wanted) + (2 * both) / (own.size + asked.size || 1);
  };
  const found = [...explorer.columns.values()].map((column) => [far(column), column.key]).sort(([a], [b]) => b - a);
  // All that have this very title.
  return found.slice(0, Math.max(3, found.filter(([like]) => like >= 1).length)).map(([, key]) => key);
};

const LONGEST_CONDITION = 400;

/** A condition such as `similarity < 0.5`, `truth = left` or `!adapted`; throws what is wrong with it. */
explorer.condition = function (given) {
  if (given.length > LONGEST_CONDITION) throw new Error(`Found a condition of ${given.length} characters, expected at most ${LONGEST_CONDITION}`);
  const text = given.replace("≤", "<=").replace("≥", ">=").replace("==", "=");
  const found = /^(!?)\s*([^<>=!]+?)\s*(?:(<=|>=|!=|<|>|=)\s*(.*))?$/su.exec(text.trim());
  const column = found && explorer.columnOf(found[2]);
  if (!column) throw new Error(`Found “${text}”, expected a column first. Do you mean ${explorer.like(found?.[2] ?? text).join(", ")}? All of them stand under Help.`);
  const [, not, , sign, value] = found, { key } = column;
  if (column.kind === "flag") {
    if (sign) throw new Error(`${key} is a flag: write ${key} or !${key}`);
    return { text: `${not}${key}`, column, keeps: (one) => Boolean(one) !== Boolean(not) };
  }
  if (!sign || not) throw new Error(`${key} needs a comparison, such as ${key} ${column.kind === "words" ? "= word" : "< 0.5"}`);
  if (column.kind === "words") {
    const words = explorer.about.words[key], code = words.findIndex((word) => word.trim() === value.trim());
    if (!/^!?=$/.test(sign)) throw new Error(`${key} holds words: compare with = or !=`);
    if (code < 0) throw new Error(`No feature's ${key} is “${value}”; there are: ${words.filter(Boolean).slice(0, 12).join(", ")} …`);
    return { text: `${key} ${sign} ${value.trim()}`, column, keeps: (one) => (one === code) === (sign === "=") };
  }
  const asked = Number(value.replace("−", "-").replace(/∞|inf$/iu, "Infinity")), limit = column.part === OWN ? asked : asKept(asked);
  if (value.trim() === "" || Number.isNaN(limit)) throw new Error(`Found “${value}”, expected a number for ${key}`);
  const keeps = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit, "=": (v) => v === limit, "!=": (v) => v !== limit }[sign];
  return { text: `${key} ${sign} ${value.trim()}`, column, keeps };
};

/** Rows that keep all conditions, in order of rows. */
explorer.kept = function (conditions, only) {
  const found = new Uint32Array(explorer.rows);
  let count = 0;
  for (const { first, features } of explorer.about.layers.filter(({ there }) => there)) {
    rows: for (let row = first; row < first + features; row++) {
      if (only && !only.has(row)) continue;
      for (const { column, keeps } of conditions) if (!keeps(column.values[row])) continue rows;
      found[count++] = row;
    }
  }
  return found.subarray(0, count);
};

/** Sort rows by a column, equal ones by their place; what was not measured last. Radix sort of the numbers' bits. */
explorer.sorted = function (rows, column, falling) {
  const keys = new Uint32Array(rows.length), one = new Float32Array(1), bits = new Uint32Array(one.buffer);
  const rank = column.kind === "words" ? alphabetical(explorer.about.words[column.key]) : null;
  for (let i = 0; i < rows.length; i++) {
    const value = column.values[rows[i]];
    one[0] = rank ? rank[value] : value;
    const key = bits[0] & 0x80000000 ? ~bits[0] : bits[0] | 0x80000000;
    const missing = rank ? !explorer.about.words[column.key][value] : Number.isNaN(value);
    keys[i] = missing ? 0xffffffff : falling ? ~key & 0xfffffffe : key;
  }
  let from = rows.slice(), to = new Uint32Array(rows.length), keysFrom = keys, keysTo = new Uint32Array(rows.length);
  for (let shift = 0; shift < 32; shift += 11) {
    const starts = new Uint32Array(2049);
    for (let i = 0; i < keysFrom.length; i++) starts[((keysFrom[i] >>> shift) & 2047) + 1]++;
    for (let i = 0; i < 2048; i++) starts[i + 1] += starts[i];
    for (let i = 0; i < keysFrom.length; i++) {
      const place = starts[(keysFrom[i] >>> shift) & 2047]++;
      to[place] = from[i];
      keysTo[place] = keysFrom[i];
    }
    [from, to, keysFrom, keysTo] = [to, from, keysTo, keysFrom];
  }
  return from;
};

/** Place of each word in the alphabet; the empty one last. */
function alphabetical(words) {
  const order = words.map((_, i) => i).sort((a, b) => (!words[a] - !words[b]) || words[a].localeCompare(words[b]));
  const rank = new Float32Array(words.length);
  order.forEach((word, place) => { rank[word] = place; });
  return rank;
}
