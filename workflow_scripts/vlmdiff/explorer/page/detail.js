"use strict";
// One feature: why it is (not) among the final ones, its numbers, and samples on which it fires.

const detail = { known: new Map() };

/** Called by details/<name>.js. */
explorer.detail = (name, content) => detail.known.set(name, content);

/** An element with attributes, properties and children; text is never read as markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

detail.show = async function () {
  const box = document.getElementById("detail"), names = detail.names();
  box.hidden = !state.open;
  document.body.classList.toggle("looking", Boolean(state.open));
  document.body.classList.toggle("comparing", names.length > 1);
  if (!state.open) {
    const { top, height } = document.getElementById("rows").getBoundingClientRect();
    if (box.dataset.names && (top + height < 0 || top > innerHeight)) document.getElementById("rows").scrollIntoView();
    box.dataset.names = "";
    return box.replaceChildren();
  }
  await Promise.all(names.map(detail.load));
  // Meanwhile another one may have been opened.
  if (names.join() !== detail.names().join()) return;
  const another = box.dataset.names !== names.join();
  box.dataset.names = names.join();
  const focused = box.contains(document.activeElement) && document.activeElement.dataset.does;
  box.replaceChildren(detail.heading(), wide(detail.funnels(names)), detail.numbers(names), ...names.flatMap((name) => detail.samples(name, names.length > 1)));
  if (focused) box.querySelector(`[data-does="${focused}"]`)?.focus();
  if (!another) return;
  box.scrollTop = 0;
  // On a narrow window it stands before the list, out of sight.
  const { top } = box.getBoundingClientRect();
  if (top < 0 || top > innerHeight) box.scrollIntoView();
};

/** The features in view: the open one, and one to compare it with. */
detail.names = () => [...new Set([state.open, state.with].filter(Boolean))];

detail.load = async function (name) {
  if (!explorer.about.details.includes(name) || detail.known.has(name)) return;
  try { await explorer.load(`details/${name}.js`); } catch { /* said where its samples would be */ }
};

detail.heading = function () {
  const name = state.open, starred = stars.all.has(name), label = detail.known.get(name)?.label;
  const redraw = () => { stars.toggle(name); main.update(); };
  const others = state.with
    ? element("button", { "data-does": "compare", onclick: () => state.change({ with: "" }) }, `Only ${name}`)
    : element("button", { "data-does": "compare", title: "Key c", onclick: () => state.change({ with: name }) }, "Compare");
  const note = starred && element("input", {
    "data-does": "note",
    "aria-label": `Note on ${name}`, placeholder: "Note", value: stars.all.get(name), maxlength: 2000,
    oninput: (event) => stars.note(name, event.target.value),
  });
  return element("div", { class: "heading" },
    element("h2", {}, name, state.with && state.with !== name ? ` next to ${state.with}` : ""),
    state.with === name ? element("p", { class: "label" }, "Now choose the feature to compare it with: in the table, in a chart, or by its name.") : null,
    label ? element("p", { class: "label" }, label) : null,
    element("button", { "data-does": "star", "aria-pressed": String(starred), title: "Key s", onclick: redraw }, starred ? "★ Starred" : "☆ Star"),
    others,
    element("button", { title: "Key Esc", onclick: () => state.change({ open: "", with: "" }) }, "Close"),
    note || null,
  );
};

/** Why features are, or are not, among the final ones: a line for each concept, and for each of two features. */
detail.funnels = function (names) {
  const { concepts } = explorer.about, steps = concepts[0]?.steps ?? [];
  const head = ["concept", ...(names.length > 1 ? ["feature"] : []), ...steps.map(({ title }) => title)];
  const lines = concepts.flatMap((concept) => names.map((name) => detail.funnel(concept, name, names.length > 1)));
  return element("table", { class: "funnel" }, element("caption", {}, "Why is it, or is it not, final? (in brackets: what is asked; –: not asked any more)"),
    element("thead", {}, element("tr", {}, ...head.map((title) => element("th", { scope: "col" }, title)))), element("tbody", {}, ...lines));
};

detail.funnel = function (concept, name, named) {
  let out = false;
  const row = explorer.rowOf(name), cells = concept.steps.map(({ key, asks, by, silent: unmeasured, absent, doubt }) => {
    const passed = explorer.columns.get(key).values[row];
    // What is only asked of those that passed so far was never tried on others.
    if (asks && out) return element("td", { class: "quiet", title: "not asked: an earlier step said no" }, "–");
    out ||= !passed;
    if (passed) return element("td", { class: "passed" }, "✓\u00a0yes", ...[absent, ...(asks ? by.map((one) => heldAgainst(one, row)) : []), doubt && !explorer.columns.get(doubt.key).values[row] && doubt.text].filter(Boolean).map((line) => element("small", {}, line)));
    const short = by.filter((one) => !reaches(one, row)), told = short.map((one) => shortfall(one, row));
    const silent = short.every(({ key: one }) => Number.isNaN(explorer.columns.get(one).values[row]));
    const lines = short.length && silent ? [unmeasured] : told;
    return element("td", { class: "failed" }, "✗\u00a0no", ...lines.map((line) => element("small", {}, line)));
  });
  // Long names may break behind a low line.
  const title = concept.name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);
  return element("tr", {}, element("th", { scope: "row", title: concept.about }, ...title), named ? element("td", {}, name) : null, ...cells);
};

/** How numbers are held against limits (explorer/steps.py). */
const HOLDS = { "≤": (value, limit) => value <= limit, "≥": (value, limit) => value >= limit, ">": (value, limit) => value > limit };

/** Whether a feature's number reaches what is asked; rounded ones decide otherwise in some rows. */
const reaches = ({ key, sign, limit, except }, row) =>
  limit !== null && HOLDS[sign](explorer.columns.get(key).values[row], limit) !== except.includes(row);

/** A number next to its limit; a line breaks between these parts alone. */
function heldAgainst({ key, sign, text, limit }, row, ...words) {
  const column = explorer.columns.get(key), value = explorer.shown(column, row) || "not measured";
  return [`${column.title} ${value}`, ...words, `(${sign} ${text})`].map((part) => part.replaceAll(" ", "\u00a0")).join(" ");
}

/** What is said of a number that does not reach its limit. */
function shortfall(one, row) {
  const { key, sign, limit } = one, column = explorer.columns.get(key);
  const close = limit !== null && sign !== ">" && column.values[row].toPrecision(4) === limit.toPrecision(4);
  return heldAgainst(one, row, ...(close ? [`just ${sign === "≤" ? "above" : "below"}`] : []));
}

detail.numbers = function (names) {
  const bodies = new Map(), asked = explorer.about.concepts.flatMap(({ steps }) => steps.map(({ key }) => key));
  for (const column of explorer.columns.values()) {
    if (asked.includes(column.key) || column.part === OWN) continue;
    const shown = names.map((name) => explorer.shown(column, explorer.rowOf(name)));
    if (!bodies.has(column.part)) bodies.set(column.part, []);
    bodies.get(column.part).push(element("tr", {}, element("th", { scope: "row", title: column.meaning }, column.title), ...shown.map((text) => element("td", {}, text || "–"))));
  }
  const parts = [...bodies].map(([part, rows]) => element("tbody", {}, element("tr", {}, element("th", { scope: "colgroup", colspan: names.length + 1, class: "part" }, part)), ...rows));
  const table = element("table", { class: "numbers" }, element("caption", {}, names.join(" and ")), ...parts);
  return element("details", {}, element("summary", {}, "All numbers"), wide(table));
};

/** What may be wider than the page scrolls by itself. */
const wide = (table) => element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": table.caption.textContent }, table);

const KINDS = { top: "Strongest on words", middle: "Half as strong on words", silent: "Silent, of the same groups" };
const READ_BY = "All three read the tuned model: base is the feature before tuning, adapted after it, null after more text alone. Brighter is stronger, on one scale for this feature.";

detail.samples = function (name, named) {
  const content = detail.known.get(name);
  if (!content) {
    const told = explorer.about.details.includes(name) ? `details/${name}.js is missing or damaged: make the explorer again.` : `More is told of the ${explorer.about.details.length} features that ▦ marks in the table; ${name} is not one of them.`;
    return [element("p", { class: "quiet" }, told)];
  }
  const facts = content.facts.map(({ title, lines }) => element("div", { class: "fact" }, element("h3", {}, title), element("ul", {}, ...lines.map(factLine))));
  const groups = Object.entries(KINDS).map(([kind, title]) => {
    const samples = content.samples.filter((sample) => sample.kind === kind);
    return samples.length ? element("section", { class: "samples" }, element("h3", {}, title), ...samples.map((sample) => card(sample, content.largest))) : null;
  });
  const effects = element("div", { class: "effects" }, bins(name, content.bins), ...content.effects.map(figures.effect));
  const untested = explorer.about.concepts.filter((one) => detail.isUntested(one.name, explorer.rowOf(name)))
    .map((one) => element("p", { class: "quiet" }, `${one.name}: final, but not ablated by itself on test data, as only the best of the ranking are.`));
  const title = named ? element("h2", { class: "named" }, name, content.label ? element("span", { class: "quiet" }, ` ${content.label}`) : null) : null;
  return [title, element("div", { class: "facts" }, ...facts), effects, ...untested, groups.some(Boolean) ? element("p", { class: "quiet" }, READ_BY) : null, ...groups, ...content.looks.map(figures.look)].filter(Boolean);
};

/** Whether a final feature of a concept was left out where others were ablated alone. */
detail.isUntested = function (concept, row) {
  const margin = explorer.columns.get(`${concept}.margin`);
  return margin && explorer.columns.get(`${concept}.final`).values[row] && Number.isNaN(margin.values[row]);
};

/** A line of a fact: a text, or a feature to go to and what is told of it. */
function factLine(line) {
  if (typeof line === "string") return element("li", {}, line);
  return element("li", {}, element("button", { class: "go", onclick: () => state.change({ open: line.go }) }, line.go), `, ${line.text}`);
}

/** How strongly a feature fires where it does: bars of tokens by activation. */
function bins(name, found) {
  if (!found.length) return null;
  const most = Math.max(...found.map(([, , tokens]) => tokens)), fires = found.reduce((sum, [, , tokens]) => sum + tokens, 0);
  const bars = found.map(([low, high, tokens]) => element("span", { style: `--part: ${(tokens / most).toFixed(3)}`, title: `${number(low)} to ${number(high)}: ${tokens} tokens` }));
  const told = `Activations on the ${fires.toLocaleString("en")} text tokens on which ${name} fires, up to ${number(found.at(-1)[1])}`;
  return element("figure", { class: "bins" }, element("figcaption", {}, told), element("div", { role: "img", "aria-label": told }, ...bars));
}

/** A sample, with what the feature of each dictionary does on its patches and words. */
function card(sample, largest) {
  const panels = explorer.about.dictionaries.map((name) => panel(sample, name, sample.values[name] ?? {}, largest));
  return element("article", { class: "card" }, element("p", { class: "quiet" }, sample.about), element("div", { class: "panels" }, ...panels));
}

function panel(sample, title, values, largest) {
  const share = (place) => Math.min(1, (values[place] ?? 0) / (largest || 1));
  const told = (what, place) => `${what}: ${number(values[place] ?? 0)}`;
  const made = element("div", {}, element("h4", {}, title));
  if (sample.image) {
    const places = sample.patches.map(([place]) => place), edges = sample.patches.map(([, ...box]) => box);
    made.append(overlaid(sample.image, sample.about, edges, places.map(share), places.map((place, i) => told(`patch ${i + 1}`, place))));
  }
  const words = sample.words.map(([place, text]) => element("span", { style: `--shade: ${share(place).toFixed(3)}`, title: told(text.trim(), place) }, text));
  made.append(element("p", { class: "words" }, ...words), element("p", { class: "quiet" }, largestOf(sample, values)));
  return made;
}

/** The largest activation on words, and on patches if there are any. */
function largestOf(sample, values) {
  const most = (places) => number(Math.max(0, ...places.map(([place]) => values[place] ?? 0)));
  return `words ${most(sample.words)}` + (sample.patches.length ? `, patches ${most(sample.patches)}` : "");
}
