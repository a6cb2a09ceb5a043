// Building a history: from the items that a search finds, or from a user of the data.

const button = (text, label, click, attributes = {}) => h("button", { type: "button", "aria-label": label, title: label, onclick: click, ...attributes }, text);
const titled = ({ item, title }) => [h("span", { class: "title" }, title), title === item ? null : h("span", { class: "token" }, item)];

/** Change the history, which is then no longer that of a user. */
function edit(change) {
  change(state.history);
  state.user = null;
  changed();
}

const add = (item) => edit((items) => items.push(item));
const holdOut = (item) => {
  state.heldOut = item;
  changed();
};

let searched = 0;

async function search() {
  const number = ++searched;
  const text = find("search").value.trim();
  let found = [];
  try {
    if (text) found = await ask(`search?text=${encodeURIComponent(text)}`);
  } catch (error) {
    complain(error);
  }
  // An answer to what was typed before comes too late.
  if (number !== searched) return;
  fill(find("found"), found.map((one) => h("li", {}, h("span", { class: "what" }, titled(one)),
    button("Add", `Add ${one.title}`, () => add(one.item)), button("Hold out", `Hold out ${one.title}`, () => holdOut(one.item)))));
  if (text) say(found.length ? `${found.length} items found` : "no item found");
  if (text && !found.length) fill(find("found"), h("li", { class: "note" }, "No item has this in its title or id."));
}

find("search").addEventListener("input", search);
find("search").addEventListener("keydown", (event) => { if (event.key === "Enter") find("found").querySelector("button")?.click(); });

async function users() {
  try {
    const { users: tokens, count, problem } = await ask(`users?text=${encodeURIComponent(find("user").value)}`);
    fill(find("users"), tokens.map((token) => h("option", { value: token })));
    const reading = count === null && !problem;
    find("users-note").textContent = problem || (reading ? "The users of the dataset are being read." : `${count.toLocaleString("en")} users; their last item is held out.`);
    find("any-user").disabled = find("user").disabled = count === null;
    if (reading) setTimeout(users, 500);
  } catch (error) {
    complain(error);
  }
}

async function pick(address) {
  try {
    const { user, history: items, held_out: heldOut } = await ask(address);
    Object.assign(state, { user, history: items, heldOut });
    changed();
  } catch (error) {
    complain(error);
  }
}

find("user").addEventListener("input", users);
find("user").addEventListener("change", () => { if (find("user").value) pick(`user?user=${encodeURIComponent(find("user").value)}`); });
find("any-user").addEventListener("click", () => pick("user"));
find("clear").addEventListener("click", () => {
  Object.assign(state, { history: [], heldOut: null, user: null });
  changed();
});

/** Move an item of the history by one place, and the keyboard with it. */
function move(place, by) {
  edit((items) => items.splice(place + by, 0, ...items.splice(place, 1)));
  moved = { place: place + by, by };
}
let moved = null;

/** The history and the held-out item, as the server names them. */
function showHistory({ history: items, held_out: heldOut }) {
  const read = Math.max(...models.map(({ reads }) => reads));
  const list = find("history");
  const last = items.length - 1;
  fill(list, items.map((one, place) => h("li", { class: place < items.length - read && "unread" }, h("span", { class: "what" }, titled(one)),
    button("↑", `Move ${one.title} earlier`, () => move(place, -1), { disabled: place === 0 }),
    button("↓", `Move ${one.title} later`, () => move(place, 1), { disabled: place === last }),
    button("✕", `Remove ${one.title}`, () => edit((tokens) => tokens.splice(place, 1))))));
  if (moved) {
    const buttons = list.children[moved.place]?.querySelectorAll("button") ?? [];
    [buttons[moved.by < 0 ? 0 : 1], buttons[2]].find((one) => one && !one.disabled)?.focus();
    moved = null;
  } else if (!list.contains(document.activeElement)) {
    list.scrollTop = list.scrollHeight;
  }
  const unread = [...new Set(models.map(({ reads }) => reads))].filter((reads) => items.length > reads).map((reads) =>
    `${models.filter((model) => model.reads === reads).map(({ label }) => label).join(" and ")}: the newest ${reads} count`);
  find("history-note").textContent = [items.length === 1 ? "1 item" : `${items.length} items, oldest first`, ...unread].join("; ") + (state.user === null ? "" : `; of user ${state.user}`);
  if (document.activeElement !== find("user")) find("user").value = state.user ?? "";
  find("clear").disabled = !items.length && !heldOut;
  fill(find("held-out"), heldOut && [h("h3", {}, "Held-out item"), h("div", { class: "entry" }, h("span", { class: "what" }, titled(heldOut)),
    button("Add", `Add ${heldOut.title} to the history`, () => {
      state.heldOut = null;
      add(heldOut.item);
    }), button("✕", `Hold ${heldOut.title} out no longer`, () => holdOut(null)))]);
}
