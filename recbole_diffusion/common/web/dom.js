// Elements, tables and charts. Whatever is put into an element as a string is text, never markup.

const find = (id) => document.getElementById(id);

/** An element with attributes (`on…`: listeners; false, null: left out) and children, of which strings become text. */
function h(tag, attributes = {}, ...children) {
  const drawn = ["svg", "line", "circle", "path", "title"].includes(tag);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Replace what an element holds. */
const fill = (element, ...children) => element.replaceChildren(...children.flat().filter(Boolean));

const number = (value, digits = 4) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value) => (value >= 0 ? "+" : "") + number(value);
const between = (one) => `${signed(one.low)} to ${signed(one.high)}`;
const spread = (value, digits = 4, scale = 1) =>
  !value ? "–" : number(value.mean / scale, digits) + (value.std === null ? "" : ` ± ${number(value.std / scale, digits)}`);
const pValue = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));
const percent = (share) => `${Math.round(100 * share)} %`;
const plainJson = (value) => (typeof value === "string" ? value : value === undefined ? "not set" : JSON.stringify(value));
const metricTitle = (metric) => metric.replace("ndcg", "NDCG").replace("hit", "Hit").replace("mrr", "MRR");

/** Say something to those who do not see the page change. */
const say = (text) => { find("status").textContent = text; };

/** A table whose columns sort by a click or by the keyboard.
 *
 * columns: {key, title, of: row -> what it is sorted by, cell: row -> what is shown, chosen, name, wrap, unsorted}
 * sort: {key, down}, which is kept up to date, so that a table that is made again is sorted as it was
 */
function sortable(caption, columns, rows, sort) {
  const body = h("tbody");
  const heads = columns.map((column) => h("th", { scope: "col", class: classes(column) }));
  const order = () => {
    const column = columns.find(({ key }) => key === sort.key) ?? columns[0];
    const keyed = rows.map((row) => [column.of(row), row]);
    const missing = (value) => value === null || value === undefined || Number.isNaN(value);
    keyed.sort(([a], [b]) => {
      // What is missing comes last either way.
      if (missing(a) || missing(b)) return missing(a) - missing(b);
      const by = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
      return sort.down ? -by : by;
    });
    fill(body, keyed.map(([, row]) => h("tr", {}, columns.map((one) => {
      const content = one.cell ? one.cell(row) : one.of(row);
      return one.name ? h("th", { scope: "row", class: classes(one) }, content) : h("td", { class: classes(one) }, content);
    }))));
    heads.forEach((head, place) => {
      if (columns[place].unsorted) return;
      const here = columns[place].key === column.key;
      head.setAttribute("aria-sort", here ? (sort.down ? "descending" : "ascending") : "none");
    });
  };
  heads.forEach((head, place) => {
    const { key, title, name, unsorted } = columns[place];
    const click = () => {
      Object.assign(sort, { key, down: sort.key === key ? !sort.down : !name });
      order();
      say(`sorted by ${title}, ${sort.down ? "largest first" : "smallest first"}`);
    };
    fill(head, unsorted ? title : h("button", { type: "button", onclick: click }, title));
  });
  order();
  return captioned(caption, h("thead", {}, h("tr", {}, heads)), body);
}

/** A table under its caption; where it is too wide it scrolls, by the keyboard too. */
const captioned = (caption, ...parts) =>
  h("figure", {}, h("figcaption", {}, caption), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, parts)));

const classes = ({ chosen, name, wrap }) =>
  [chosen && "chosen", name && "name", wrap && "wrap"].filter(Boolean).join(" ") || null;

/** A table that stays as it is: titles of columns, rows of cells of which the first is a name. */
const plainTable = (caption, titles, rows) =>
  captioned(caption, h("thead", {}, h("tr", {}, titles.map((title, place) => h("th", { scope: "col", class: place ? null : "name" }, title)))),
    h("tbody", {}, rows.map(([name, ...cells]) =>
      h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell))))));

/** An interval as a line with its middle, and the seeds as small dots, on an axis from `from` to `to`. */
function strip({ mean, low, high, values = [] }, from, to, colour, zero = false) {
  const at = (value) => 4 + (184 * (value - from)) / (to - from || 1);
  return h("svg", { class: "strip", viewBox: "0 0 192 22", "aria-hidden": "true", style: `color: ${colour}` },
    h("line", { class: "grid", x1: 4, x2: 188, y1: 11, y2: 11 }),
    zero && h("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: 22 }),
    low !== undefined && h("path", { d: `M${at(low)} 5V17M${at(low)} 11H${at(high)}M${at(high)} 5V17` }),
    values.map((value) => h("circle", { class: "seed", cx: at(value), cy: 11, r: 3 })),
    h("circle", { cx: at(mean), cy: 11, r: 4.5 }));
}

/** Copy a text, and have the button say so for a while. */
async function copy(text, what, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that was opened from a file may lack the clipboard; the older way still works there.
    const shown = h("pre", {}, text);
    document.body.append(shown);
    getSelection().selectAllChildren(shown);
    document.execCommand("copy");
    shown.remove();
  }
  const before = button.textContent;
  button.textContent = "Copied";
  say(`${what} copied`);
  setTimeout(() => { button.textContent = before; }, 2000);
}

/** A command and a button that copies it. */
function command(text, what) {
  const shown = h("pre", { tabindex: "0", "aria-label": what }, h("code", {}, text));
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy: ${what}`, onclick: () => copy(text, what, button) }, "Copy");
  return h("div", { class: "command" }, shown, button);
}

/** Radio buttons: {value: title}; `change` is called with the value chosen. */
function radios(legend, options, chosen, change, disabled = () => false) {
  const name = `radio-${legend}`.replace(/\W+/g, "-");
  return h("fieldset", {}, h("legend", {}, legend), Object.entries(options).map(([value, title]) =>
    h("label", {}, h("input", { type: "radio", name, value, checked: value === chosen, disabled: disabled(value),
      onchange: () => change(value) }), title)));
}

/** A list to choose from: names, or [value, title] pairs. */
const select = (attributes, options, chosen, change) =>
  h("select", { ...attributes, onchange: (event) => change(event.target.value) }, options.map((option) => {
    const [value, title] = Array.isArray(option) ? option : [option, option];
    return h("option", { value, selected: value === chosen }, title);
  }));

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A text for the library of the charts, which reads tags and entities in what it shows. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// What draws each chart, which takes a while: it is done when the reader comes near.
const drawings = new WeakMap();
const near = new IntersectionObserver((entries) => entries.filter(({ isIntersecting }) => isIntersecting).forEach(({ target }) => draw(target)),
  { rootMargin: "400px" });

function draw(box) {
  near.unobserve(box);
  drawings.get(box)?.();
  drawings.delete(box);
}

/** Draw a chart when the reader is near it; of several drawings that wait, the last alone is done. */
function later(box, drawing) {
  drawings.set(box, drawing);
  near.observe(box);
}

/** Draw every chart now, as paper needs. */
const drawAll = () => document.querySelectorAll(".chart").forEach(draw);

const CHART = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]] };

/** A layout in the colours of the page. */
function dressed(layout) {
  const fine = matchMedia("(pointer: fine)").matches;
  const axis = (own) => ({ gridcolor: style("--line"), zerolinecolor: style("--line"), linecolor: style("--soft"),
    automargin: true, fixedrange: !fine, ...own, title: { text: plain(own?.title ?? ""), standoff: 8, font: { size: 13 } } });
  return {
    ...layout,
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
    font: { family: "system-ui, sans-serif", size: 13, color: style("--text") },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: style("--panel"), font: { color: style("--text") } },
    margin: { l: 48, r: 12, t: 12, b: 40 },
    showlegend: false,
  };
}

/** The figures of a chart as a table: titles of columns, rows of cells that sort by the number they begin with, and the sort. */
const figures = (caption, titles, rows, sort) =>
  sortable(caption, titles.map((title, place) => ({ key: place, title, name: place === 0, cell: (row) => row[place],
    of: (row) => (place ? Number.parseFloat(row[place]) : [row[0]].flat().filter((part) => typeof part === "string").join("")) })), rows, sort);

/** A chart with its title, what its marks mean, and the same figures as a table where there is no other. */
function chart(title, traces, layout, legend, table) {
  const box = h("div", { class: "chart", role: "img", "aria-label": `${title}. The table below it has the figures.` });
  const whole = dressed(layout);
  later(box, () => Plotly.newPlot(box, traces, whole, CHART));
  return h("figure", {}, h("figcaption", {}, title), legend.length > 0 && h("ul", { class: "legend" }, legend.map((entry) => h("li", {}, entry))),
    box, table && h("details", {}, h("summary", {}, "The figures as a table"), figures(title, ...table)));
}
