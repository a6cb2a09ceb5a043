// What the reader chose, the link that holds it, and the questions to the server.

const { dataset, items: itemCount, models } = JSON.parse(find("data").textContent);
const TOPK = ["5", "10", "20", "50"].filter((k) => Number(k) <= itemCount);
const DEFAULT_K = TOPK.includes("10") ? "10" : String(itemCount);

const fresh = () => ({ history: [], heldOut: null, user: null, topk: DEFAULT_K, includeSeen: false, settings: models.map(() => ({})) });
const state = fresh();

/** The choice as a link's fragment; what is as in the trained model is left out. */
function toHash() {
  const parts = new URLSearchParams();
  state.history.forEach((item) => parts.append("item", item));
  if (state.heldOut !== null) parts.set("held_out", state.heldOut);
  if (state.user !== null) parts.set("user", state.user);
  if (state.topk !== DEFAULT_K) parts.set("topk", state.topk);
  if (state.includeSeen) parts.set("include_seen", "true");
  state.settings.forEach((settings, number) => Object.entries(settings).forEach(([key, value]) => parts.set(`${number}.${key}`, value)));
  return `#${parts}`;
}

/** Take over what a link's fragment says. */
function fromHash(hash) {
  const parts = new URLSearchParams(hash.slice(1));
  Object.assign(state, fresh(), { history: parts.getAll("item"), heldOut: parts.get("held_out"), user: parts.get("user") });
  if (TOPK.includes(parts.get("topk"))) state.topk = parts.get("topk");
  state.includeSeen = parts.get("include_seen") === "true";
  models.forEach(({ sliders, seed }, number) => [...(seed === null ? [] : ["seed", "diversify"]), ...sliders.map(({ key }) => key)].forEach((key) => {
    const value = parts.get(`${number}.${key}`);
    if (value === null) return;
    if (key === "diversify") state.settings[number][key] = value === "true";
    else if (Number.isFinite(Number(value))) state.settings[number][key] = Number(value);
  }));
}

/** The value of a setting: the reader's, or the trained model's. */
const setting = (number, { key, value }) => state.settings[number][key] ?? value;

/** Set a setting of a model; the trained model's own value is the same as none. */
function set(number, key, value, trained) {
  if (value === trained) delete state.settings[number][key];
  else state.settings[number][key] = value;
}

const request = () => ({ history: state.history, held_out: state.heldOut, topk: Number(state.topk), include_seen: state.includeSeen, settings: state.settings });

/** Ask the server; the answer is plain data, or text for `csv`. */
async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: recbole-diffusion explore must be running.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.problem);
  return answer;
}

/** Say what went wrong, until something goes right. */
function complain(error) {
  find("problem").hidden = !error;
  find("problem").textContent = error ? error.message : "";
}

let asking = false;
let waiting = false;

/** Ask for the answer to the present choice and show it. While one is on its way, the newest choice alone waits. */
async function refresh() {
  if (asking) {
    waiting = true;
    return;
  }
  asking = true;
  document.body.setAttribute("aria-busy", "true");
  do {
    waiting = false;
    try {
      // A slider may move on before the answer is here.
      const asked = structuredClone(request());
      const answer = await ask("answer", asked);
      showHistory(answer);
      showLists(answer, asked);
      complain(null);
      if (!waiting) await refreshProcess(answer);
    } catch (error) {
      complain(error);
    }
  } while (waiting);
  asking = false;
  document.body.removeAttribute("aria-busy");
}

/** A choice has changed: the link follows, as a step that the browser's Back undoes or, for a slider, without one. */
function changed(step = true) {
  history[step ? "pushState" : "replaceState"](null, "", toHash());
  refresh();
}
