// The start, the controls above the lists, and links.

function drawControls() {
  find("topk").replaceWith(select({ id: "topk" }, TOPK, state.topk, (topk) => {
    state.topk = topk;
    changed();
  }));
  find("include-seen").checked = state.includeSeen;
  models.forEach((_, number) => drawSliders(number));
}

find("include-seen").addEventListener("change", (event) => {
  state.includeSeen = event.target.checked;
  changed();
});
find("link").addEventListener("click", () => copy(location.href, "link", find("link")));
find("csv").addEventListener("click", async () => {
  try {
    const address = URL.createObjectURL(new Blob([await ask("csv", request())], { type: "text/csv" }));
    h("a", { href: address, download: `${dataset}-lists.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    say("lists saved");
  } catch (error) {
    complain(error);
  }
});

function follow() {
  fromHash(location.hash);
  drawControls();
  refresh();
}

addEventListener("popstate", follow);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawProcess());
document.title = `Explorer: ${models.map(({ label }) => label).join(", ")}`;
find("about").textContent = `${dataset}: ${itemCount.toLocaleString("en")} items.`;
users();
follow();
