// The models' lists side by side, and their sliders.

const panels = models.map((model, number) => {
  const panel = { figures: h("p", { class: "note" }), list: h("div", { class: "list" }), rank: h("p", { class: "rank" }), change: h("p", { class: "note change" }) };
  // The newest answer by the settings of the training, and what was asked for it.
  panel.trained = null;
  panel.sliders = h("div", { class: "sliders" });
  panel.box = h("article", { "aria-label": model.label }, h("h3", {}, model.label), h("p", { class: "note file" }, model.file),
    panel.sliders, panel.rank, panel.change, panel.list, panel.figures);
  return panel;
});
fill(find("models"), panels.map(({ box }) => box));

const shortest = (value) => String(Number(value.toPrecision(4)));

/** The sliders of a model, at the values that hold. */
function drawSliders(number) {
  const { sliders, seed, label } = models[number];
  // Only where a model draws.
  const noises = sliders.find(({ key }) => key === "inference_seeds");
  const made = sliders.map((slider) => {
    const id = `${slider.key}-${number}`;
    // A link may hold a value between two stops.
    const stops = [...new Set([...slider.stops, setting(number, slider)])].sort((a, b) => a - b);
    const output = h("output", { for: id }, shortest(setting(number, slider)));
    const input = h("input", { type: "range", id, min: 0, max: stops.length - 1, step: 1, value: stops.indexOf(setting(number, slider)),
      "aria-valuetext": shortest(setting(number, slider)), oninput: (event) => {
        const value = stops[Number(event.target.value)];
        set(number, slider.key, value, slider.value);
        output.textContent = shortest(value);
        event.target.setAttribute("aria-valuetext", output.textContent);
        if (noises) diversify.disabled = !several();
        changed(false);
      } });
    return [h("label", { for: id, title: slider.about }, slider.title), input, output];
  });
  if (!made.length) {
    fill(panels[number].sliders, h("p", { class: "note" }, "No noise enters this model's answers."));
    return;
  }
  const reset = button("Reset", `Reset the settings of ${label}`, () => {
    state.settings[number] = {};
    drawSliders(number);
    changed();
  });
  if (!noises) {
    fill(panels[number].sliders, made.flat(), h("span"), h("span"), reset);
    return;
  }
  const several = () => setting(number, noises) > 1;
  const seedInput = h("input", { type: "number", id: `seed-${number}`, min: 0, step: 1, value: state.settings[number].seed ?? seed, onchange: (event) => {
    set(number, "seed", Number(event.target.value), seed);
    changed();
  } });
  const diversify = h("input", { type: "checkbox", id: `diversify-${number}`, checked: Boolean(state.settings[number].diversify), disabled: !several(),
    onchange: (event) => {
      set(number, "diversify", event.target.checked, false);
      changed();
    } });
  fill(panels[number].sliders, made.flat(), h("label", { for: `seed-${number}`, title: "of the noise" }, "Seed"), seedInput, h("span"),
    h("label", { for: `diversify-${number}`, title: "a list that covers the answers of several noises; needs two noises or more" }, "Diversify"),
    h("span", {}, diversify), reset);
}

const number4 = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4)).replace("-", "−");

/** A share as a bar, with its number. */
const bar = (share) => h("span", { class: "bar", style: `--share: ${share}` }, percent(share));

/** A model's list: what stands in the other list too is marked, and so is the held-out item. */
function listTable(number, lists) {
  const { items, titles, scores, share, mean, spread: spreads } = lists[number];
  const other = lists.length > 1 ? lists[1 - number].items : null;
  const heads = ["#", "Item", "Score", ...(share ? ["In draws"] : []), ...(other ? [`In ${models[1 - number].label.slice(0, 1)}`] : []), ""];
  const rows = items.map((item, place) => {
    const there = other ? other.indexOf(item) + 1 : 0;
    return h("tr", { class: [there && "both", item === state.heldOut && "held"].filter(Boolean).join(" ") || null },
      h("td", {}, String(place + 1)), h("th", { scope: "row" }, titled({ item, title: titles[place] })),
      h("td", {}, number4(scores[place]), share && h("span", { class: "spread", title: `the draws' scores: mean ${number4(mean[place])}, standard deviation ${spreads[place].toPrecision(2)}` }, `± ${spreads[place].toPrecision(2)}`)),
      share && h("td", {}, bar(share[place])),
      other && h("td", {}, there ? `#${there}` : "–"),
      h("td", {}, button("+", `Add ${titles[place]} to the history`, () => add(item))));
  });
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `List of ${models[number].label}` },
    h("table", {}, h("caption", { class: "hidden" }, `List of ${models[number].label}`),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head || h("span", { class: "hidden" }, "Add"))))),
      h("tbody", {}, rows)));
}

function rankText({ rank, candidates }, heldOut) {
  if (rank === null) return "";
  if (rank === 0) return `${heldOut.title} is left out, as it is in the history.`;
  return `${heldOut.title} stands at ${rank.toLocaleString("en")} of ${candidates.toLocaleString("en")}.`;
}

/** How the list of changed settings differs from that of the settings of the training; nothing where that one has not been seen. */
function changeText(panel, list, { settings, ...asked }, number) {
  const question = JSON.stringify(asked);
  if (!Object.keys(settings[number]).length) {
    panel.trained = { question, list };
    return "";
  }
  if (panel.trained?.question !== question) return "";
  const { items, rank } = panel.trained.list;
  const kept = list.items.filter((item) => items.includes(item)).length;
  const same = list.items.every((item, place) => item === items[place]);
  return `As trained: ${same ? "the same list" : `${kept} of these ${list.items.length} items`}`
    + `${rank ? `, held-out item at ${rank.toLocaleString("en")}` : ""}.`;
}

function showLists({ lists, held_out: heldOut }, asked) {
  find("csv").disabled = !lists.length;
  if (!lists.length) {
    find("shared").textContent = "Add items to the history, or pick a user.";
    panels.forEach((panel) => [panel.list, panel.rank, panel.change, panel.figures].forEach((part) => fill(part)));
    return;
  }
  lists.forEach((list, number) => {
    const panel = panels[number];
    const open = document.activeElement;
    const kept = panel.list.querySelector(".scroll")?.scrollLeft ?? 0;
    const again = panel.list.contains(open) ? open.getAttribute("aria-label") : null;
    fill(panel.list, list.items.length ? listTable(number, lists) : h("p", {}, "No item is left: the history holds all of them."));
    if (list.items.length) panel.list.querySelector(".scroll").scrollLeft = kept;
    if (again) [...panel.list.querySelectorAll("button")].find((one) => one.getAttribute("aria-label") === again)?.focus();
    panel.rank.textContent = rankText(list, heldOut);
    panel.change.textContent = changeText(panel, list, asked, number);
    const sure = list.distance === undefined ? "" : `Distance between the draws ${list.distance.toPrecision(3)}, entropy of their best item ${list.entropy.toPrecision(3)}. `;
    panel.figures.textContent = `${sure}${Math.max(1, Math.round(1000 * list.seconds))} ms.`;
  });
  find("shared").textContent = sharedText(lists);
  say(find("shared").textContent);
}

function sharedText(lists) {
  const best = lists.map(({ titles }) => titles[0]);
  if (lists.length === 1) return best[0] ? `Best: ${best[0]}.` : "";
  const both = lists[0].items.filter((item) => lists[1].items.includes(item)).length;
  const same = lists[0].items[0] === lists[1].items[0] ? `both have ${best[0]} first` : `A has ${best[0]} first, B ${best[1]}`;
  return `${both} of ${lists[0].items.length} items are in both lists; ${same}.`;
}
