// What the page shows: the data, what the reader chose, and how it is drawn anew when a choice changes.

const { comparisons, protocols, level, k } = JSON.parse(find("data").textContent);
const ALL = "";

const state = {
  // Which comparison; ALL for all side by side.
  label: comparisons.length > 1 ? ALL : comparisons[0].label,
  protocol: comparisons[0].validated_by,
  metric: `ndcg@${k}`,
  hidden: new Set(),
  first: null,
  second: null,
};

/** The comparison that is shown; undefined where all are. */
const shown = () => comparisons.find(({ label }) => label === state.label);
/** The figures of a comparison by the ranking that is chosen; undefined where it was not ranked so. */
const ranking = (comparison = shown()) => comparison?.rankings[state.protocol];
const names = (chosen) => [...new Set(chosen.flatMap(({ rows }) => rows.map(({ name }) => name)))];
/** The rows that could be shown, and those that are. */
const rowNames = () => names(shown() ? [shown()] : comparisons);
const visible = (name) => !state.hidden.has(name);
const ranked = () => protocols[state.protocol];

// A colour, a symbol and a line for each row, the same everywhere. There are fewer colours than symbols, so that their
// pairs repeat late.
const SYMBOLS = { "circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖", "triangle-down": "▼",
  "hexagon": "⬢", "pentagon": "⬟" };
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const place = (name) => names(comparisons).indexOf(name);
const colour = (name) => style(`--c${place(name) % 8}`);
const symbol = (name) => Object.keys(SYMBOLS)[place(name) % Object.keys(SYMBOLS).length];
const dash = (name) => DASHES[Math.floor(place(name) / 8) % DASHES.length];

/** How a row's points look in a chart. */
const look = (name) => ({
  name: plain(name),
  marker: { color: colour(name), symbol: symbol(name), size: 9 },
  line: { color: colour(name), dash: dash(name), width: 2 },
});
const swatch = (name) => h("span", { class: "swatch", style: `color: ${colour(name)}`, "aria-hidden": "true" }, SYMBOLS[symbol(name)]);
const rowCell = (name, more = "") => [swatch(name), " ", name, more];

/** Metrics that every comparison that is shown has. */
const metrics = () => {
  const found = (shown() ? [shown()] : comparisons).flatMap(({ rankings }) => Object.values(rankings)[0].rows.filter(({ test }) => test));
  return found.length ? Object.keys(found[0].test).filter((metric) => found.every(({ test }) => metric in test)) : [];
};

/** The test of a pair of rows: first minus second, whichever way round it was computed; undefined where there is none. */
function pairOf(pairs, first, second) {
  const straight = pairs.find((pair) => pair.first === first && pair.second === second);
  if (straight) return straight;
  const other = pairs.find((pair) => pair.first === second && pair.second === first);
  if (!other) return undefined;
  const turned = { ...other, first, second };
  for (const prefix of ["", "hit_"]) {
    turned[`${prefix}difference`] = -other[`${prefix}difference`];
    turned[`${prefix}low`] = -other[`${prefix}high`];
    turned[`${prefix}high`] = -other[`${prefix}low`];
  }
  return turned;
}

/** Of the chosen pair, rows that exist here: else the best two by the chosen metric. */
function choosePair() {
  const best = ranking().rows.filter(({ test }) => test)
    .sort((a, b) => b.test[state.metric].mean - a.test[state.metric].mean).map(({ name }) => name);
  if (!best.includes(state.first)) state.first = best.find((name) => name !== state.second) ?? null;
  if (!best.includes(state.second) || state.second === state.first) state.second = best.find((name) => name !== state.first) ?? null;
}

const sections = [];
/** A section of the page: what it is called, and what makes its content, which is null where it has nothing to show. */
const section = (id, title, content, long = false) => sections.push({ id, title, content, long });

function drawSections(only = sections) {
  const focused = document.activeElement?.id;
  for (const { id, title, content, long } of only) {
    const old = find(id);
    const inside = content();
    const made = h("section", { id, "aria-labelledby": `${id}-title`, hidden: !inside, class: long && "long" },
      h("h2", { id: `${id}-title` }, title), inside);
    // What was open stays open.
    old?.querySelectorAll("details").forEach((details, number) => {
      const again = made.querySelectorAll("details")[number];
      if (again) again.open = details.open;
    });
    if (old) old.replaceWith(made);
    else find("main").append(made);
  }
  fill(find("contents"), sections.filter(({ id }) => !find(id).hidden).map(({ id, title }) => h("a", { href: `#${id}` }, title)));
  // A list or a slider in a section that was drawn anew keeps the keyboard.
  if (focused) find(focused)?.focus({ preventScroll: true });
}

/** Draw one section anew. */
const redraw = (...ids) => drawSections(sections.filter(({ id }) => ids.includes(id)));

/** Take a choice over and draw everything anew. */
function choose(choice) {
  Object.assign(state, choice);
  if (shown() && !ranking()) {
    state.protocol = shown().validated_by;
    say(`${state.label} was ranked with the ${ranked()} alone`);
  }
  if (!metrics().includes(state.metric)) state.metric = metrics()[0];
  if (shown()) choosePair();
  drawControls();
  drawSections();
}

function drawControls() {
  const labels = comparisons.map(({ label }) => [label, label]);
  const options = comparisons.length > 1 ? [[ALL, "all, side by side"], ...labels] : labels;
  find("dataset").replaceWith(select({ id: "dataset" }, options, state.label, (label) => choose({ label })));
  find("metric").replaceWith(select({ id: "metric" }, metrics().map((metric) => [metric, metricTitle(metric)]), state.metric,
    (metric) => choose({ metric })));
  const known = Object.fromEntries(Object.entries(protocols).filter(([key]) => comparisons.some(({ rankings }) => key in rankings)));
  const missing = (protocol) => shown() && !(protocol in shown().rankings);
  const box = radios("Ranking", known, state.protocol, (protocol) => choose({ protocol }), missing);
  box.id = "ranking";
  find("ranking").replaceWith(box);
  drawRowBoxes();
  fill(find("printed"), `${state.label || "All datasets"}; ${ranked()}; metric: ${metricTitle(state.metric)}.`);
}

function drawRowBoxes() {
  const text = find("filter").value.toLowerCase();
  const all = rowNames();
  fill(find("shown-count"), `${all.filter(visible).length} of ${all.length}`);
  fill(find("row-boxes"), all.filter((name) => name.toLowerCase().includes(text)).map((name, number) =>
    h("label", {}, h("input", { type: "checkbox", id: `row-${number}`, checked: visible(name), onchange: (event) => {
      if (event.target.checked) state.hidden.delete(name); else state.hidden.add(name);
      choose({});
    } }), rowCell(name))));
}

/** Show or hide the rows whose names have what the filter says. */
function showFiltered(show) {
  const text = find("filter").value.toLowerCase();
  rowNames().filter((name) => name.toLowerCase().includes(text)).forEach((name) => {
    if (show) state.hidden.delete(name); else state.hidden.add(name);
  });
  choose({});
}
