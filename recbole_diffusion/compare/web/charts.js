// Charts: accuracy by groups of the test set, learning curves, steps, and the trials of a tuning.

const KINDS = { length: "History length", popularity: "Popularity of the item", time: "Time" };
const UNITS = {
  length: "interactions before the test item",
  popularity: "training interactions of the test item",
  time: "the time of the test interaction",
};
// The tables below the charts begin with the best of the first group.
const groups = { kind: "length", cut: {}, sortSides: { key: 1, down: true }, sortParts: { key: 1, down: true } };

/** A cut as people read it: times in seconds or milliseconds since 1970 as a date. */
function cutText(kind, cut) {
  const seconds = cut > 1e11 ? cut / 1000 : cut;
  return kind === "time" && seconds > 1e8 && seconds < 1e10 ? new Date(seconds * 1000).toISOString().slice(0, 10) : cut.toLocaleString("en");
}

const errors = (values, lows, highs) => ({
  type: "data", symmetric: false, thickness: 1.5, width: 4,
  array: highs.map((high, number) => high - values[number]),
  arrayminus: lows.map((low, number) => values[number] - low),
});

/** Points of several rows by group, side by side: groups are {title, models: name -> mean, low, high}. */
function grouped(title, parts, xTitle, sort) {
  const shownNames = Object.keys(parts[0].models).filter(visible);
  const traces = shownNames.map((name, number) => {
    const estimates = parts.map(({ models }) => models[name]);
    const shift = 0.7 * ((number + 0.5) / shownNames.length - 0.5);
    const means = estimates.map(({ mean }) => mean);
    return { ...look(name), type: "scatter", mode: "markers", x: parts.map((_, part) => part + shift), y: means,
      error_y: { ...errors(means, estimates.map(({ low }) => low), estimates.map(({ high }) => high)), color: colour(name) },
      hovertemplate: "%{y:.4f}<extra>%{fullData.name}</extra>" };
  });
  const layout = {
    xaxis: { title: xTitle, tickvals: parts.map((_, part) => part), ticktext: parts.map((part) => plain(part.title).replaceAll("\n", "<br>")),
      tickangle: 0, tickfont: { size: 11 }, range: [-0.5, parts.length - 0.5], showgrid: false, zeroline: false },
    yaxis: { title: `test NDCG@${k}`, rangemode: "tozero" },
  };
  const table = [["Row", ...parts.map((part) => part.title.replace("\n", ", ").replace("\n", " "))], shownNames.map((name) =>
    [rowCell(name), ...parts.map(({ models: { [name]: one } }) => `${number(one.mean)} (${number(one.low)} to ${number(one.high)})`)]), sort];
  return chart(title, traces, layout, shownNames.map((name) => rowCell(name)), table);
}

/** The two sides of the cut that is chosen. */
function sides(cuts, place) {
  const cut = cutText(groups.kind, cuts.cuts[place]);
  return [0, 1].map((side) => ({
    title: `${side ? "above" : "up to"} ${cut}\n${cuts.rows[place][side].toLocaleString("en")} test\ninteractions`,
    models: Object.fromEntries(Object.entries(cuts.models).map(([name, { mean, low, high }]) =>
      [name, { mean: mean[place][side], low: low[place][side], high: high[place][side] }])),
  }));
}

function pairAtCut(cuts, place) {
  const cut = cutText(groups.kind, cuts.cuts[place]);
  const rows = [0, 1].map((side) => {
    const sided = cuts.pairs.map((one) => ({ first: one.first, second: one.second, difference: one.difference[place][side],
      low: one.low[place][side], high: one.high[place][side] }));
    return pairOf(sided, state.first, state.second);
  });
  if (!rows[0]) return null;
  const ends = rows.flatMap(({ low, high }) => [low, high, 0]);
  const [from, to] = [Math.min(...ends), Math.max(...ends)];
  const found = ({ low, high }) => (low > 0 ? `${state.first} is better` : high < 0 ? `${state.second} is better` : "no clear difference");
  return plainTable(`NDCG@${k}: ${state.first} minus ${state.second} on both sides of the cut`,
    ["Side", "Difference", `${percent(level)} interval`, "Drawn", "By the interval"],
    rows.map((pair, side) => [`${side ? "above" : "up to"} ${cut}`, signed(pair.difference), between(pair),
      strip({ ...pair, mean: pair.difference }, from, to, style("--accent"), true), found(pair)]));
}

section("groups", "Short and long histories, rare and popular items", () => {
  const there = ranking();
  const kinds = Object.fromEntries(Object.entries(KINDS).filter(([kind]) => there?.by_cut[kind]));
  if (!Object.keys(kinds).length) return null;
  if (!(groups.kind in kinds)) [groups.kind] = Object.keys(kinds);
  const { kind } = groups;
  const cuts = there.by_cut[kind];
  const last = cuts.cuts.length - 1;
  groups.cut[kind] = Math.min(groups.cut[kind] ?? Math.floor(last / 2), last);
  const [box, ofPair] = [h("div"), h("div")];
  const output = h("output", { for: "cut" });
  const draw = () => {
    const at = groups.cut[kind];
    output.textContent = cutText(kind, cuts.cuts[at]);
    slider.setAttribute("aria-valuetext", `${output.textContent} ${UNITS[kind]}`);
    const open = box.querySelector("details")?.open ?? false;
    fill(box, grouped(`NDCG@${k} on both sides of the cut, ${ranked()}`, sides(cuts, at), UNITS[kind], groups.sortSides));
    fill(ofPair, pairAtCut(cuts, at));
    box.querySelector("details").open = open;
  };
  const slider = h("input", { type: "range", id: "cut", min: 0, max: last, step: 1, value: groups.cut[kind], oninput: (event) => {
    groups.cut[kind] = Number(event.target.value);
    draw();
  } });
  draw();
  const quarters = { length: there.by_length, popularity: there.by_popularity }[kind] ?? [];
  const parts = quarters.map(({ group, users, models }) => ({ title: `${group}\n${users.toLocaleString("en")} users`, models }));
  return [
    h("div", { class: "choices" }, radios("By", kinds, kind, (chosen) => { groups.kind = chosen; redraw("groups"); }),
      h("label", {}, h("span", { class: "whole" }, "Cut at"), slider, output)),
    h("div", { class: "pictures" }, box,
      parts.length > 0 && grouped(`NDCG@${k} by groups, ${ranked()}`, parts, UNITS[kind], groups.sortParts)),
    ofPair,
    h("p", { class: "note" }, `Bars: ${percent(level)} intervals over users and seeds. They hold for a cut that is chosen beforehand: `
      + "among many cuts one is likely to show a difference by chance. "
      + (kind === "popularity" ? "Head: the items with the most training interactions; tail: the others." : "")),
  ];
});

const curves = { value: "valid", over: "epoch", off: new Set(), sort: { key: 0, down: false } };
// How near to its best score a run must be to have learned most of it.
const NEAR = 0.95;

section("curves", "Learning curves", () => {
  const runs = shown()?.curves.filter(({ name }) => visible(name)) ?? [];
  if (!runs.some(({ epoch }) => epoch.length)) return null;
  const values = { valid: `validation ${shown().valid_metric}`, loss: "training loss" };
  const overs = { epoch: "epoch", minutes: "minutes of training" };
  const each = (key) => [...new Set(runs.map((run) => run[key]))];
  const isNear = (score, best) => (shown().valid_metric_bigger ? score >= NEAR * best : NEAR * score <= best);
  const on = runs.filter(({ name, seed }) => !curves.off.has(name) && !curves.off.has(seed));
  const traces = on.map((run) => {
    const best = run.epoch.indexOf(run.best_epoch);
    return { ...look(run.name), type: "scatter", mode: "lines+markers", x: run[curves.over], y: run[curves.value], connectgaps: true, line: { ...look(run.name).line, width: 1.5 },
      marker: { ...look(run.name).marker, size: run.epoch.map((_, place) => (place === best ? 11 : 3)) },
      hovertemplate: `%{y:.4f}<extra>${plain(run.name)}, seed ${run.seed}</extra>` };
  });
  const table = [["Row, seed", "Epochs", `Epoch at ${percent(NEAR)} of the best`, "Minutes until then", "Best epoch", `Best ${values.valid}`, "Last training loss"],
    on.map((run) => {
      const near = run.valid.findIndex((score) => score !== null && isNear(score, run.best));
      return [`${run.name}, ${run.seed}`, run.epoch.length, run.epoch[near] ?? "–", number(run.minutes[near], 1), run.best_epoch ?? "–",
        number(run.best), number(run.loss.at(-1))];
    }), curves.sort];
  const again = () => redraw("curves");
  const switches = (title, key, label) => h("fieldset", {}, h("legend", {}, title), each(key).map((one, number) => h("label", {},
    h("input", { type: "checkbox", id: `${key}-${number}`, checked: !curves.off.has(one), onchange: (event) => {
      if (event.target.checked) curves.off.delete(one); else curves.off.add(one);
      again();
    } }), label(one))));
  return [
    h("div", { class: "choices" },
      radios("Curve", values, curves.value, (chosen) => { curves.value = chosen; again(); }),
      radios("Over", overs, curves.over, (chosen) => { curves.over = chosen; again(); }),
      switches("Seeds", "seed", String)),
    h("div", { class: "choices" }, switches("Curves", "name", rowCell)),
    chart(`Learning curves: ${values[curves.value]}, a line a seed; large mark: the best epoch`, traces,
      { xaxis: { title: overs[curves.over] }, yaxis: { title: values[curves.value] } }, [...new Set(on.map(({ name }) => name))].map((name) => rowCell(name)), table),
    h("p", { class: "note" }, `Validation is with the ${protocols[shown().validated_by]}.`),
  ];
});

const steps = { sort: { key: 0, down: false } };

section("steps", "Denoising steps", () => {
  const measured = ranking()?.by_steps.filter(({ name, metrics: found }) => visible(name) && found[state.metric]) ?? [];
  if (!measured.length) return null;
  const present = [...new Set(measured.map(({ name }) => name))];
  const of = (name) => measured.filter((row) => row.name === name);
  const several = shown().seeds.length > 1;
  const accuracy = present.map((name) => ({ ...look(name), type: "scatter", mode: "lines+markers", x: of(name).map(({ steps }) => steps),
    y: of(name).map((row) => row.metrics[state.metric].mean),
    error_y: { type: "data", array: of(name).map((row) => row.metrics[state.metric].std ?? 0), visible: several, thickness: 1.5, width: 4 },
    hovertemplate: "%{x} steps: %{y:.4f}<extra>%{fullData.name}</extra>" }));
  const time = present.map((name) => ({ ...look(name), type: "scatter", mode: "lines+markers",
    x: of(name).map(({ seconds }) => seconds.mean), y: of(name).map((row) => row.metrics[state.metric].mean),
    text: of(name).map(({ steps }) => `${steps} steps`), hovertemplate: "%{text}: %{y:.4f} in %{x:.2f} s<extra>%{fullData.name}</extra>" }));
  const counts = [...new Set(measured.map(({ steps }) => steps))].sort((a, b) => a - b);
  const table = [["Row, steps", metricTitle(state.metric), "Seconds"], measured.map((row) =>
    [`${row.name}, ${row.steps}`, spread(row.metrics[state.metric]), spread(row.seconds, 2)]), steps.sort];
  const y = { title: `test ${metricTitle(state.metric)}` };
  const legend = () => present.map((name) => rowCell(name));
  return [
    h("div", { class: "pictures" },
      chart(`${metricTitle(state.metric)} by the number of denoising steps, ${ranked()}`, accuracy,
        { xaxis: { title: "steps at inference", type: "log", tickvals: counts, ticktext: counts.map(String) }, yaxis: y }, legend(), table),
      chart(`${metricTitle(state.metric)} against the time of an evaluation, ${ranked()}`, time,
        { xaxis: { title: "seconds of an evaluation", type: "log", dtick: "D2" }, yaxis: y }, legend(), table)),
    several && h("p", { class: "note" }, "Bars: ± standard deviation over the seeds."),
  ];
});

const tuning = { name: null, setting: null, sort: null };
const STATES = { complete: ["circle", "●"], pruned: ["x-thin-open", "✕"], fail: ["square-open", "□"], running: ["diamond-open", "◇"] };

section("tuning", "Tuning", () => {
  const tuned = shown()?.tuning ?? {};
  if (!Object.keys(tuned).length) return null;
  if (!(tuning.name in tuned)) [tuning.name] = Object.keys(tuned);
  tuning.sort ??= { key: "value", down: shown().valid_metric_bigger };
  const trials = tuned[tuning.name];
  const settings = [...new Set(trials.flatMap((trial) => Object.keys(trial.settings)))];
  if (!settings.includes(tuning.setting)) [tuning.setting] = settings;
  const scored = trials.filter(({ value }) => value !== null);
  const y = { title: `validation ${shown().valid_metric}` };
  const by = (of) => Object.keys(STATES).map((kind) => [kind, scored.filter((trial) => trial.state === kind)]).filter(([, some]) => some.length)
    .map(([kind, some]) => ({ type: "scatter", mode: "markers", name: kind, x: some.map(of), y: some.map(({ value }) => value),
      marker: { color: style("--c0"), size: 10, symbol: STATES[kind][0], line: { width: 2, color: style("--c0") } },
      text: some.map((trial) => `trial ${trial.number}`), hovertemplate: "%{text}: %{y:.4f}<extra></extra>" }));
  const done = scored.filter((trial) => trial.state === "complete");
  const best = shown().valid_metric_bigger ? Math.max : Math.min;
  const upTo = (last) => done.filter(({ number: one }) => one <= last).map(({ value }) => value);
  const bestSoFar = { type: "scatter", mode: "lines", x: trials.map((trial) => trial.number),
    y: trials.map((trial) => (upTo(trial.number).length ? best(...upTo(trial.number)) : null)),
    line: { shape: "hv", color: style("--c1"), dash: "dot" }, hoverinfo: "skip" };
  const given = scored.map((trial) => trial.settings[tuning.setting]).filter((value) => value !== undefined);
  const wide = given.every((value) => value > 0) && Math.max(...given) > 20 * Math.min(...given);
  const column = (key, title, of, cell) => ({ key, title, of, cell });
  const columns = [
    { ...column("number", "Trial", (trial) => trial.number), name: true },
    column("value", y.title, (trial) => trial.value, (trial) => number(trial.value)),
    column("state", "State", (trial) => trial.state),
    ...settings.map((key) => column(`set ${key}`, key, (trial) => trial.settings[key],
      (trial) => (typeof trial.settings[key] === "number" ? Number(trial.settings[key].toPrecision(4)) : plainJson(trial.settings[key])))),
    column("seconds", "Seconds", (trial) => trial.seconds, (trial) => number(trial.seconds, 0)),
  ];
  const legend = Object.keys(STATES).filter((kind) => scored.some((trial) => trial.state === kind)).map((kind) => `${STATES[kind][1]} ${kind}`);
  const again = () => redraw("tuning");
  return [
    h("div", { class: "choices" },
      h("label", {}, "Model ", select({ id: "tuned" }, Object.keys(tuned), tuning.name, (name) => { tuning.name = name; again(); })),
      h("label", {}, "Setting ", select({ id: "setting" }, settings, tuning.setting, (setting) => { tuning.setting = setting; again(); }))),
    h("div", { class: "pictures" },
      chart(`${tuning.name}: ${y.title} by trial`, [...by((trial) => trial.number), bestSoFar], { xaxis: { title: "trial" }, yaxis: y },
        [...legend, "┄ best so far"]),
      chart(`${tuning.name}: ${y.title} by ${tuning.setting}`, by((trial) => trial.settings[tuning.setting]),
        { xaxis: { title: tuning.setting, type: typeof given[0] === "number" ? (wide ? "log" : "linear") : "category" }, yaxis: y }, legend)),
    sortable(`${tuning.name}: trials`, columns, trials, tuning.sort),
    h("p", { class: "note" }, "By validation alone; a trial that falls behind the others is pruned early."),
  ];
}, true);
