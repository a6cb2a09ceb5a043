// The leaderboard, and what the noise of each model is worth.

const VIEWS = { test: "Test", valid: "Validation", cost: "Cost" };
const boards = { view: "test", sort: {}, shared: {} };

/** Of a row that lacks seeds, how many are there. */
const someSeeds = ({ seeds, failed }) =>
  seeds.length && Object.keys(failed).length ? ` (${seeds.length} of ${seeds.length + Object.keys(failed).length} seeds)` : "";

/** What is drawn of a row's metric: the interval where there is one, and the seeds. */
function drawn(row, part, metric) {
  const value = row[part]?.[metric];
  if (!value) return null;
  const estimate = part === "test" ? ranking().estimates[metric]?.[row.name] : undefined;
  return { ...estimate, mean: value.mean, values: value.values };
}

function metricColumns(part, rows) {
  const marks = rows.map((row) => drawn(row, part, state.metric)).filter(Boolean);
  const ends = marks.flatMap(({ mean, low = mean, high = mean, values }) => [low, high, ...values]);
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  const best = part === "test" ? ranking().bold : {};
  const picture = {
    key: "picture", title: part === "test" && ranking().estimates[state.metric] ? `${percent(level)} interval` : "Seeds", unsorted: true,
    of: () => 0,
    cell: (row) => {
      const mark = drawn(row, part, state.metric);
      return mark && strip(mark, from, to, colour(row.name));
    },
  };
  const columns = metrics().map((metric) => ({
    key: metric, title: metricTitle(metric), chosen: metric === state.metric,
    of: (row) => row[part]?.[metric]?.mean ?? null,
    cell: (row) => {
      if (!row[part]) return "failed";
      const text = spread(row[part][metric]);
      return best[metric] === row.name ? h("span", { class: "best" }, `${text} ★`) : text;
    },
  }));
  // The chosen metric comes first, so that a narrow page shows it.
  return [...columns.filter(({ chosen }) => chosen), picture, ...columns.filter(({ chosen }) => !chosen)];
}

function costColumns(rows) {
  const cost = (key, title, digits, scale = 1) => ({
    key, title, of: (row) => row[key]?.mean ?? null, cell: (row) => spread(row[key], digits, scale),
  });
  return [
    { key: "parameters", title: "Parameters", of: (row) => row.parameters ?? null,
      cell: (row) => row.parameters?.toLocaleString("en") ?? "–" },
    { key: "epochs", title: "Epochs (best, from 0)", of: (row) => row.epochs?.[0] ?? null,
      cell: (row) => row.epochs?.map((count, seed) => `${count} (${row.best_epoch[seed]})`).join(", ") ?? "–" },
    cost("seconds_per_epoch", "Seconds an epoch", 2),
    cost("seconds_per_evaluation", "Seconds an evaluation", 2),
    cost("peak_memory", "Peak memory (MB)", 0, 1e6),
    ...(rows.some((row) => row.peak_gpu_memory) ? [cost("peak_gpu_memory", "Peak GPU memory (MB)", 0, 1e6)] : []),
  ];
}

const nameColumn = () => ({ key: "name", title: "Row", name: true, of: ({ name }) => name, cell: (row) => rowCell(row.name, someSeeds(row)) });

function oneBoard() {
  const comparison = shown();
  const figures = Object.fromEntries(ranking().rows.map((row) => [row.name, row]));
  const rows = comparison.rows.map((row) => ({ ...row, ...figures[row.name] })).filter(({ name }) => visible(name));
  const { view } = boards;
  const columns = [nameColumn(), ...(view === "cost" ? costColumns(rows) : metricColumns(view, rows))];
  // It is sorted by the metric until the reader sorts it otherwise.
  const start = view === "cost" ? "seconds_per_epoch" : state.metric;
  if (boards.sort.start !== start) boards.sort = { start, key: start, down: view !== "cost" };
  const caption = view === "cost" ? `${comparison.label}: cost`
    : `${comparison.label}: ${VIEWS[view].toLowerCase()} metrics, ${ranked()}, ${ranking().users.toLocaleString("en")} users`;
  const notes = {
    test: `${comparison.notes.measured} Drawn: small dots, seeds; bar, the interval over users and seeds.`,
    valid: "Small dots: seeds. The best epoch is chosen by validation, so that these figures flatter.",
    cost: comparison.notes.timed,
  };
  return [
    h("div", { class: "choices" }, radios("Figures", VIEWS, view, (chosen) => { boards.view = chosen; redraw("leaderboard"); })),
    sortable(caption, columns, rows, boards.sort),
    h("p", { class: "note" }, notes[view]),
  ];
}

/** All comparisons side by side, those alone that were ranked in the chosen way. */
function sharedBoard() {
  const there = comparisons.filter((one) => ranking(one));
  const missing = comparisons.filter((one) => !ranking(one)).map(({ label }) => label);
  const value = (one, name) => ranking(one).rows.find((row) => row.name === name)?.test?.[state.metric];
  const rows = names(there).filter(visible).map((name) => ({ name }));
  const columns = there.map((one) => ({
    key: `of ${one.label}`, title: one.label,
    of: ({ name }) => value(one, name)?.mean ?? null,
    cell: ({ name }) => {
      const text = spread(value(one, name));
      return ranking(one).bold[state.metric] === name ? h("span", { class: "best" }, `${text} ★`) : text;
    },
  }));
  const start = columns[0]?.key;
  if (boards.shared.start !== start) boards.shared = { start, key: start, down: true };
  return [
    sortable(`${metricTitle(state.metric)} on the test set of each dataset, ${ranked()}`, [{ ...nameColumn(), cell: ({ name }) => rowCell(name) }, ...columns], rows, boards.shared),
    missing.length > 0 && h("p", {}, `Not ranked so: ${missing.join(", ")}.`),
    h("p", { class: "note" }, "Mean ± standard deviation over the seeds. ★: significantly better than every other row on that dataset. "
      + "Choose a dataset above for tests, curves and settings."),
  ];
}

section("leaderboard", "Leaderboard", () => (shown() ? oneBoard() : sharedBoard()));

section("noise", "What the noise is worth", () => {
  // Where rows are tested against controls, each line names the row that it is against.
  const { noise = [], controls = false } = ranking() ?? {};
  const pairs = noise.filter(({ first, second }) => visible(first) && (!controls || visible(second)));
  if (!pairs.length) return null;
  const ends = pairs.flatMap(({ low, high }) => [low, high, 0]);
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  return [
    plainTable(`${state.label}: each model against ${controls ? "its rows" : "the same network"} without noise, ${ranked()}`,
      ["Model", `NDCG@${k}`, "Diffusion off", "Difference", `${percent(level)} interval`, "Drawn", "Wilcoxon, Holm", "The noise"],
      pairs.map((pair) => [
        rowCell(pair.first, controls && ` against ${pair.second}`), number(pair.mean), number(pair.off_mean), signed(pair.difference), between(pair),
        strip({ ...pair, mean: pair.difference }, from, to, colour(pair.first), true), pValue(pair.wilcoxon_holm), pair.finding,
      ])),
    h("p", { class: "note" }, shown().notes.noise),
  ];
});
