// Settings and commands, how it was measured, and the start.

section("commands", "Settings and commands", () => {
  if (!shown()) {
    return comparisons.flatMap((one) => [h("h3", {}, one.label), command(one.command, `the command of the comparison on ${one.label}`)]);
  }
  return [
    h("p", {}, "The whole comparison:"),
    command(shown().command, "the command of the comparison"),
    h("p", {}, "A row alone, with its first seed. What stands there comes from the command, its files or the tuning; other settings have their defaults."),
    ...shown().rows.filter(({ name }) => visible(name)).flatMap((row) => [
      h("h3", {}, rowCell(row.name, someSeeds(row))), command(row.command, `the command of ${row.name}`),
      Object.entries(row.failed).map(([seed, why]) => h("p", {}, `Seed ${seed} failed: `, h("code", {}, why))),
    ].flat()),
  ];
}, true);

section("method", "How it was measured", () => {
  const chosen = shown() ? [shown()] : comparisons;
  return chosen.flatMap((one) => [chosen.length > 1 && h("h3", {}, one.label), h("p", {}, one.notes.setup), h("p", {}, one.notes.timed)]);
});

find("filter").addEventListener("input", drawRowBoxes);
find("all-rows").addEventListener("click", () => showFiltered(true));
find("no-rows").addEventListener("click", () => showFiltered(false));
find("controls").addEventListener("submit", (event) => event.preventDefault());
// The list of rows closes by Escape and by a click elsewhere.
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && find("shown").open) {
    find("shown").open = false;
    find("shown").querySelector("summary").focus();
  }
});
addEventListener("pointerdown", (event) => { if (!find("shown").contains(event.target)) find("shown").open = false; });
// Charts take their colours and their width when they are drawn.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose({}));
matchMedia("print").addEventListener("change", ({ matches }) => {
  choose({});
  if (matches) drawAll();
});
// Paper cannot be opened.
let closed = [];
const MOST_PRINTED = 60;
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("main details")].map(({ open }) => !open);
  // Hundreds of pairs would fill pages: they are printed where the reader has opened them.
  document.querySelectorAll("main details").forEach((details) => { details.open ||= details.querySelectorAll("tr").length <= MOST_PRINTED; });
});
addEventListener("afterprint", () => {
  document.querySelectorAll("main details").forEach((details, number) => { details.open = !closed[number]; });
});

fill(find("about"), comparisons.map(({ label, seeds }) => `${label}: ${seeds.length === 1 ? "seed" : "seeds"} ${seeds.join(", ")}`).join("; "));
choose({});
