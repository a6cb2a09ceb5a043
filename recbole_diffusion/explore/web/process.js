// The reverse process step by step, and the maps of the embeddings.

const processes = models.map(({ label, map }, number) => {
  const one = { number, label, step: null, ground: null, answer: null, found: null };
  one.note = h("p", { class: "note" });
  one.output = h("output", { for: `step-${number}` });
  one.slider = h("input", { type: "range", id: `step-${number}`, min: 0, step: 1, oninput: (event) => {
    one.step = Number(event.target.value);
    drawProcess(one);
  } });
  one.control = h("div", { class: "choices" }, h("label", { for: `step-${number}` }, "State"), one.slider, one.output);
  one.near = h("ol", { class: "near", "aria-label": `Items near the state, ${label}` });
  one.distances = h("div", { class: "chart", role: "img" });
  one.map = h("div", { class: "chart map", role: "img" });
  one.distancesFigure = h("figure", {}, h("figcaption", {}, "Distance to the best items by x_0, state by state"), one.distances);
  one.pointed = h("span", { "aria-hidden": "true" });
  one.mapFigure = h("figure", {}, h("figcaption", {}, "Map of the embeddings; small dots: all items. ", one.pointed), one.map);
  one.map.addEventListener("pointermove", (event) => pointAt(one, event));
  one.box = h("article", { "aria-label": `${label}: from noise to answer` }, h("h3", {}, label), one.note, one.control, one.near, one.mapFigure, one.distancesFigure);
  one.mapFigure.hidden = !map;
  return one;
});
fill(find("processes"), processes.map(({ box }) => box));

const stateName = (timestep) => (timestep === null ? "x_0, the answer" : `x_t at t = ${shortest(timestep)}`);

/** Ask for the processes behind an answer and show them. */
async function refreshProcess(answer) {
  find("process").hidden = !answer.lists.length;
  if (!answer.lists.length) return;
  const found = await ask("process", request());
  for (const one of processes) {
    // At its end, or at the state that is looked at.
    const atEnd = one.found === null || one.step === null || one.step >= one.found.states.length - 1;
    Object.assign(one, { answer: answer.lists[one.number], found: found[one.number] });
    const last = one.found ? one.found.states.length - 1 : 0;
    one.step = atEnd ? last : Math.min(one.step, last);
    one.slider.max = last;
    one.slider.value = one.step;
    if (models[one.number].map && one.ground === null) one.ground = await ask(`ground?model=${one.number}`);
    drawProcess(one);
  }
}

function redrawProcess() {
  processes.filter(({ answer }) => answer).forEach(drawProcess);
}

const point = (colour, symbol, size) => ({ color: style(colour), symbol, size, line: { color: style("--page"), width: 1 } });
const traced = (name, spots, more) => ({ type: "scatter", mode: "markers", name, x: spots.map(([x]) => x), y: spots.map(([, y]) => y), hoverinfo: "text", ...more });
const texts = (names) => names.map(plain);

function drawProcess(one) {
  const { found, step } = one;
  one.control.hidden = one.near.hidden = one.distancesFigure.hidden = !found;
  one.note.textContent = noteOf(one);
  if (found) {
    const name = stateName(found.timesteps[step]);
    one.output.textContent = name;
    one.slider.setAttribute("aria-valuetext", name);
    fill(one.near, found.states[step].map((near) => h("li", {}, h("span", { class: "what" }, titled(near)), h("span", { class: "note" }, near.distance.toFixed(2)))));
    drawDistances(one);
  }
  if (one.ground) drawMap(one);
}

function noteOf({ found, number, ground }) {
  if (!found) return ground ? "This model has no reverse process; the map shows its history and its answers." : "This model has neither a reverse process nor vectors of items.";
  const shown = found.states.length - 1;
  const seeds = found.draws.length > 1 ? ` It is that of the first of ${found.draws.length} noises.` : "";
  return (shown === found.steps ? `${shown} steps.` : `The list takes a single step; ${shown} steps are shown, which end elsewhere.`) + seeds;
}

const COLOURS = ["--c0", "--c1", "--c2", "--c3", "--c4"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross"];

function drawDistances({ distances, found, step, label }) {
  const places = found.timesteps.map((_, place) => place);
  const lines = found.best.map(({ title }, rank) => ({ type: "scatter", mode: "lines+markers", x: places, y: found.to_best.map((row) => row[rank]),
    name: plain(title), marker: { color: style(COLOURS[rank]), symbol: SYMBOLS[rank], size: 6 }, line: { color: style(COLOURS[rank]), width: 1.5 },
    hovertemplate: "%{y:.3f}<extra>%{fullData.name}</extra>" }));
  const median = { type: "scatter", mode: "lines", x: places, y: found.median, name: "median of all items", line: { color: style("--soft"), dash: "dash", width: 1.5 },
    hovertemplate: "%{y:.3f}<extra>%{fullData.name}</extra>" };
  // Few enough that their names do not run into one another.
  const every = Math.ceil(places.length / 9);
  const last = places.length - 1;
  const ticks = places.filter((place) => (place % every === 0 && last - place >= every) || place === last);
  const layout = { ...dressed({
    xaxis: { title: "timestep t", tickvals: ticks, ticktext: ticks.map((place) => (found.timesteps[place] === null ? "x_0" : shortest(found.timesteps[place]))), tickangle: 0, zeroline: false },
    yaxis: { title: "distance", rangemode: "tozero" },
    shapes: [{ type: "line", x0: step, x1: step, y0: 0, y1: 1, yref: "paper", line: { color: style("--accent"), width: 2 } }],
  }), showlegend: true, legend: { orientation: "h", y: -0.2, font: { size: 12 } } };
  distances.setAttribute("aria-label", `${label}: distance of each state to ${found.best.map(({ title }) => title).join(", ")}`);
  later(distances, () => Plotly.react(distances, [...lines, median], layout, CHART));
}

/** The items of a map as a picture, which is drawn once: as marks they would be drawn anew with every state. */
function groundPicture({ ground }) {
  const canvas = h("canvas", { width: 1200, height: 900 });
  const pen = canvas.getContext("2d");
  const [[left, right], [bottom, top]] = ground.range;
  pen.fillStyle = style("--soft");
  pen.globalAlpha = 0.4;
  for (const [x, y] of ground.spots) {
    pen.beginPath();
    pen.arc((1200 * (x - left)) / (right - left), (900 * (top - y)) / (top - bottom), 3.5, 0, 7);
    pen.fill();
  }
  return { source: canvas.toDataURL(), xref: "x", yref: "y", x: left, y: top, sizex: right - left, sizey: top - bottom, sizing: "stretch", layer: "below" };
}

/** What lies between the outermost spots, and a little more, along each axis. */
const rangeOf = (spots) => [0, 1].map((axis) => {
  const places = spots.map((spot) => spot[axis]);
  const [least, most] = [Math.min(...places), Math.max(...places)];
  return [least - 0.05 * (most - least), most + 0.05 * (most - least)];
});

/** Name the item under the pointer. */
function pointAt({ map, ground, pointed }, event) {
  // Where the library of the charts keeps its axes.
  const { xaxis, yaxis } = map._fullLayout ?? {};
  if (!xaxis) return;
  const box = map.getBoundingClientRect();
  const away = ground.spots.map(([x, y]) => Math.hypot(xaxis.d2p(x) + xaxis._offset + box.left - event.clientX, yaxis.d2p(y) + yaxis._offset + box.top - event.clientY));
  const nearest = away.indexOf(Math.min(...away));
  pointed.textContent = away[nearest] < 12 ? ground.names[nearest] : "";
}

function drawMap({ map, ground, answer, found, step, label, number }) {
  const { spots } = answer;
  // As far back as the model reads.
  const read = spots.history.slice(-models[number].reads);
  ground.range ??= rangeOf(ground.spots);
  if (ground.scheme !== style("--soft")) Object.assign(ground, { scheme: style("--soft"), picture: groundPicture({ ground }) });
  const traces = [
    traced("history, old to new", read, { text: texts(historyTitles().slice(-read.length)), marker: { ...point("--c0", "circle", 9), opacity: read.map((_, place) => 0.35 + (0.65 * (place + 1)) / read.length) } }),
  ];
  if (found) {
    traces.push(traced("x_T to x_0", found.path, { mode: "lines+markers", text: texts(found.timesteps.map(stateName)), line: { color: style("--c1"), width: 1.5 }, marker: { color: style("--c1"), size: 4 } }));
    if (found.draws.length > 1) traces.push(traced("draws of x_0", found.draws, { text: found.draws.map((_, draw) => `draw ${draw + 1}`), marker: point("--c4", "x", 8) }));
    traces.push(traced("the state", [found.path[step]], { text: [stateName(found.timesteps[step])], marker: point("--c1", "square", 12) }));
  }
  traces.push(traced("recommended", spots.items, { mode: spots.items.length > 10 ? "markers" : "markers+text", text: texts(answer.titles), hovertext: texts(answer.titles), marker: point("--c2", "star", 12), texttemplate: "%{customdata}",
    customdata: spots.items.map((_, place) => place + 1), textposition: "top right", textfont: { color: style("--text"), size: 11 } }));
  if (spots.held_out.length) traces.push(traced("held out", spots.held_out, { text: ["held out"], marker: point("--c3", "diamond", 13) }));
  const all = rangeOf([...ground.range[0].map((x, end) => [x, ground.range[1][end]]), ...traces.flatMap(({ x, y }) => x.map((one, place) => [one, y[place]]))]);
  const axis = (place) => ({ title: `${place ? "second" : "first"} axis, ${percent(ground.share[place])} of the variance`, zeroline: false, showticklabels: false, range: all[place] });
  const layout = { ...dressed({ xaxis: axis(0), yaxis: axis(1), uirevision: "kept", images: [ground.picture] }), showlegend: true, legend: { orientation: "h", y: -0.12, font: { size: 12 } }, hovermode: "closest" };
  map.setAttribute("aria-label", `${label}: where history, ${found ? "path, " : ""}and recommended items lie among ${models[number].label}'s items. The lists name them.`);
  later(map, () => Plotly.react(map, traces, layout, CHART));
}

const historyTitles = () => [...find("history").querySelectorAll(".title")].map(({ textContent }) => textContent);
