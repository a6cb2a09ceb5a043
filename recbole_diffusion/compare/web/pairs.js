// Two rows: how they differ in accuracy, and in which settings.

const allPairs = { sort: { key: "difference", down: true } };

/** What the tests of a pair say, a metric each. */
const tests = (pair) => [
  { metric: `NDCG@${k}`, mean: pair.difference, low: pair.low, high: pair.high, test: "Wilcoxon", p: pair.wilcoxon,
    holm: pair.wilcoxon_holm, significant: pair.ndcg_significant },
  { metric: `Hit@${k}`, mean: pair.hit_difference, low: pair.hit_low, high: pair.hit_high, test: "McNemar", p: pair.mcnemar,
    holm: pair.mcnemar_holm, significant: pair.hit_significant },
];

function verdict(pair) {
  return tests(pair).map(({ metric, mean, significant }) => {
    const [better, worse] = mean >= 0 ? [pair.first, pair.second] : [pair.second, pair.first];
    return significant ? `${better} is significantly better than ${worse} in ${metric}.`
      : `${pair.first} and ${pair.second} do not differ significantly in ${metric}.`;
  });
}

function pairTests() {
  const pair = pairOf(ranking().pairs, state.first, state.second);
  if (!pair) return h("p", { class: "verdict" }, "This pair was not tested: the comparison tests every row against one alone (against).");
  const ends = tests(pair).flatMap(({ low, high }) => [low, high, 0]);
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  return [
    h("p", { class: "verdict", id: "verdict" }, `With the ${ranked()}: `, verdict(pair).join(" ")),
    plainTable(`${state.first} minus ${state.second}, ${state.label}, ${ranked()}`,
      ["Metric", "Difference", `${percent(level)} interval`, "Drawn", "Test", "p", "p, Holm", "Significant"],
      tests(pair).map((one) => [one.metric, signed(one.mean), between(one), strip(one, from, to, style("--accent"), true), one.test,
        pValue(one.p), pValue(one.holm), one.significant ? "yes" : "no"])),
  ];
}

function everyPair() {
  const rows = ranking().pairs.filter(({ first, second }) => visible(first) && visible(second));
  const show = (pair) => h("button", { type: "button", onclick: () => choose({ first: pair.first, second: pair.second }) }, "Show");
  const column = (key, title, cell) => ({ key, title, of: (pair) => pair[key], cell });
  const columns = [
    { ...column("first", "First", (pair) => pair.first), name: true },
    { ...column("second", "Second", (pair) => pair.second), wrap: true },
    column("difference", `NDCG@${k}, first − second`, (pair) => signed(pair.difference)),
    column("wilcoxon_holm", "Wilcoxon, Holm", (pair) => pValue(pair.wilcoxon_holm)),
    column("ndcg_significant", "Significant", (pair) => (pair.ndcg_significant ? "yes" : "no")),
    column("hit_difference", `Hit@${k}, first − second`, (pair) => signed(pair.hit_difference)),
    column("mcnemar_holm", "McNemar, Holm", (pair) => pValue(pair.mcnemar_holm)),
    column("hit_significant", "Significant ", (pair) => (pair.hit_significant ? "yes" : "no")),
    { key: "show", title: "Test", unsorted: true, of: () => 0, cell: show },
  ];
  return h("details", {}, h("summary", {}, `All ${rows.length} pairs`), sortable("All pairs that were tested", columns, rows, allPairs.sort));
}

function differingSettings() {
  const [first, second] = [state.first, state.second].map((name) => shown().rows.find((row) => row.name === name));
  const settings = [first, second].map(({ model, settings: own }) => ({ model, ...own }));
  const keys = [...new Set(settings.flatMap(Object.keys))].filter((key) => plainJson(settings[0][key]) !== plainJson(settings[1][key])).sort();
  const both = keys.filter((key) => settings.every((own) => key in own));
  if (!keys.length) return h("p", {}, "They have the same settings.");
  return plainTable(`Settings in which ${first.name} and ${second.name} differ, of those that results depend on: ${keys.length}; first the ${both.length} that both have`,
    ["Setting", first.name, second.name],
    [...new Set([...both, ...keys])].map((key) => [key, ...settings.map((own) => plainJson(own[key]))]));
}

section("pair", "Two rows", () => {
  if (!shown() || !state.second) return null;
  const options = ranking().rows.filter(({ test }) => test).map(({ name }) => name);
  const pick = (id, side, other) => select({ id }, options, state[side], (name) =>
    choose(name === state[other] ? { [side]: name, [other]: state[side] } : { [side]: name }));
  const swap = () => choose({ first: state.second, second: state.first });
  return [
    h("div", { class: "choices" },
      h("label", {}, "First ", pick("first", "first", "second")),
      h("label", {}, "Second ", pick("second", "second", "first")),
      h("button", { type: "button", id: "swap", onclick: swap }, "Swap")),
    pairTests(),
    h("details", {}, h("summary", {}, "How it is tested"), h("p", { class: "note" }, shown().notes.tested)),
    everyPair(),
    h("h3", {}, "Settings"),
    differingSettings(),
  ].flat();
}, true);
