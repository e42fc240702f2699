"use strict";
// The page as a whole: what happens at the start, when the address changes, and at a key.

const main = { rows: new Uint32Array(0), problems: [] };

/** Called when it is known what there is. */
explorer.start = async function () {
  const { about } = explorer;
  document.title = `Features of ${about.experiment}, seed ${about.seed}`;
  document.getElementById("title").textContent = document.title;
  stars.read();
  table.setUp();
  charts.setUp();
  main.setUp();
  const problem = state.read();
  window.addEventListener("hashchange", () => { const told = state.read(); main.update(); main.tell(told); });
  // Another window has changed the stars.
  window.addEventListener("storage", ({ key }) => { if (key === stars.place()) { stars.read(); main.update(); } });
  main.problems = await explorer.loadLayers((done, all) => {
    if (done === 1 || done === all) main.update();
    main.tell(done < all ? `Loading layer ${done + 1} of ${all} …` : problem);
  });
  main.tell(problem);
  document.body.dataset.ready = "true";
};

main.tell = function (problem) {
  const of = explorer.rows.toLocaleString("en"), shown = main.rows.length.toLocaleString("en");
  const told = [`${shown} of ${of} features.`, problem, ...main.problems, stars.lost].filter(Boolean);
  document.getElementById("status").textContent = told.join(" ");
};

/** Filter, sort and draw what the state asks for. */
main.update = function () {
  document.getElementById("problem").textContent = "";
  const asked = JSON.stringify([state.keep.map(({ text }) => text), state.stars && [...stars.all.keys()], explorer.loaded]);
  if (asked !== main.asked) main.kept = explorer.kept(state.keep, state.stars ? stars.rows() : null);
  const order = `${asked} ${state.sort} ${state.falling}`;
  if (order !== main.order) {
    const column = explorer.columns.get(state.sort);
    const inOrder = column.key === "feature" || (column.key === "layer" && !state.falling);
    main.rows = inOrder ? main.kept : explorer.sorted(main.kept, column, state.falling);
    if (column.key === "feature" && state.falling) main.rows = main.kept.slice().reverse();
  }
  Object.assign(main, { asked, order });
  main.draw();
  table.reveal();
};

/** Draw everything again; rows stay as they are. */
main.draw = function () {
  table.show(main.rows);
  charts.draw(main.rows);
  main.drawFilters();
  const { title, part } = explorer.columns.get(state.sort);
  document.getElementById("order").textContent = `Sorted by ${title}${part === OWN ? "" : ` (${part})`}, ${state.falling ? "falling" : "rising"}.`;
  main.drawFunnels();
  document.getElementById("stars").textContent = String(stars.all.size);
  document.getElementById("starred").ariaPressed = String(state.stars);
  main.tell("");
  return detail.show();
};

main.drawFilters = function () {
  const without = (gone) => {
    state.change({ keep: state.keep.filter((one) => one !== gone) });
    document.getElementById("condition").focus();
  };
  const items = state.keep.map((one) => element("li", {}, element("button", { "aria-label": `Remove ${one.text}`, onclick: () => without(one) }, `${one.text} ×`)));
  if (items.length > 1) items.push(element("li", {}, element("button", { onclick: () => state.change({ keep: [] }) }, "Remove all")));
  document.getElementById("filters").replaceChildren(...items);
};

/** The order in which a concept's features are looked at: as they were ranked, on validation data, else by the contrast. */
main.bestFirst = function (name) {
  return { sort: `${name}.${explorer.columns.has(`${name}.validation`) ? "validation" : "log_p"}`, falling: false };
};

/** How many features each step of a concept's selection leaves; a click shows those. */
main.drawFunnels = function () {
  const box = document.getElementById("funnels");
  if (box.children.length) return;
  for (const { name, about, steps, spatial } of explorer.about.concepts) {
    const rows = [element("button", { onclick: () => state.change({ keep: [] }) }, `${explorer.rows.toLocaleString("en")} features`)];
    steps.forEach(({ title, left, hint }, last) => {
      const keep = steps.slice(0, last + 1).map(({ key }) => explorer.condition(key));
      rows.push(element("button", { title: hint, onclick: () => state.change({ keep, ...main.bestFirst(name) }) }, `${left.toLocaleString("en")} ${title}`));
    });
    if (spatial !== null) {
      const keep = [...steps.map(({ key }) => key), "spatial"].map(explorer.condition), hint = explorer.columns.get("spatial").meaning;
      rows.push(element("button", { title: hint, onclick: () => state.change({ keep, ...main.bestFirst(name) }) }, `${spatial.toLocaleString("en")} truly spatial`));
    }
    box.append(element("div", { class: "funnel-bar", role: "group", "aria-label": `Funnel of ${name}` }, element("strong", { title: about }, name), ...rows));
  }
};

main.setUp = function () {
  const get = (id) => document.getElementById(id), help = get("help");
  get("conditions").replaceChildren(...[...explorer.columns.values()].map(({ key, meaning, kind }) => new Option(meaning, key + (kind === "flag" ? "" : " "))));
  get("meanings").replaceChildren(...[...explorer.columns.values()].flatMap(({ key, meaning, part }) => [element("dt", {}, element("code", {}, key)), element("dd", {}, `${meaning} (${part})`)]));
  get("compared").replaceChildren(...explorer.about.compared.flatMap(({ name, about }) => [element("strong", {}, name), ` ${about} `]));
  get("concepts").replaceChildren(...explorer.about.concepts.flatMap(({ name, about }) => [element("dt", {}, name), element("dd", {}, `A feature of it ${about}.`)]));
  get("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = get("condition");
    try {
      state.keepToo(input.value);
      input.value = get("problem").textContent = "";
    } catch (error) {
      get("problem").textContent = error.message;
    }
  });
  get("jump").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = event.target.elements.feature.value, row = explorer.rowOf(name);
    if (row < 0) return main.tell(`There is no feature “${name}”: write layer and index, such as ${explorer.nameOf(0)}`);
    state.change({ open: explorer.nameOf(row) });
    // Keys are for the feature again.
    document.activeElement.blur();
  });
  get("random").addEventListener("click", main.random);
  get("starred").addEventListener("click", () => state.change({ stars: !state.stars }));
  get("export").addEventListener("click", main.exportStars);
  get("help-open").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", main.key);
};

main.random = function () {
  if (main.rows.length) state.change({ open: explorer.nameOf(main.rows[Math.floor(Math.random() * main.rows.length)]) });
};

main.exportStars = function () {
  const url = URL.createObjectURL(new Blob(["\ufeff", stars.table()], { type: "text/csv" }));
  element("a", { href: url, download: `${explorer.about.experiment}_stars.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
};

/** Open the next or the previous one of the rows shown. */
main.step = function (by) {
  const place = main.rows.indexOf(explorer.rowOf(state.open || " "));
  const next = place < 0 ? 0 : Math.min(main.rows.length - 1, Math.max(0, place + by));
  if (main.rows.length) state.change({ open: explorer.nameOf(main.rows[next]) });
};

main.key = function (event) {
  const field = event.target.closest("input, select, textarea, dialog");
  if (event.key === "Escape" && field?.matches("input, select")) return field.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || field) return;
  const actions = {
    j: () => main.step(1),
    k: () => main.step(-1),
    r: main.random,
    s: () => { if (state.open) { stars.toggle(state.open); main.update(); } },
    c: () => { if (state.open) state.change({ with: state.with ? "" : state.open }); },
    g: () => document.querySelector("#jump input").focus(),
    "?": () => document.getElementById("help").showModal(),
    Escape: () => state.change({ open: "", with: "" }),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
};
