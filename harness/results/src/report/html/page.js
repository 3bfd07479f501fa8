// Joins the views, the filters and the keyboard.
const views = { overview: showOverview, matrix: showMatrix, perf: showPerf };
const fields = ["name", "group", "arch", "kernel", "variant"];
const show = () => {
  writeState();
  for (const field of fields) if (byId(field).value !== state[field]) byId(field).value = state[field];
  byId("differ").checked = Boolean(state.differ);
  for (const box of byId("outcomes").querySelectorAll("input")) box.checked = state.outcomes.includes(box.value);
  for (const name of Object.keys(views)) byId(name).hidden = name !== state.view;
  for (const button of document.querySelectorAll("nav button")) {
    button.setAttribute("aria-pressed", button.dataset.view === state.view);
  }
  const shown = shownTests(shownHosts()).length;
  byId("shown").textContent = shown === data.tests.length ? "" : `${shown} of ${count(data.tests.length, "test")}`;
  views[state.view]();
};
const options = (id, values) => {
  for (const value of [...new Set(values)].filter(Boolean).sort()) byId(id).append(new Option(value, value));
};
const start = () => {
  const totals = new Map();
  for (const host of data.hosts) for (const letter of host.cells) if (letter !== ".") totals.set(letter, (totals.get(letter) || 0) + 1);
  byId("totals").textContent = data.hosts.length === 1
    ? `${count(data.tests.length, "test")} on ${hostLabel(data.hosts[0])}: ${countsText(totals)}`
    : `${count(data.tests.length, "test")} on ${count(data.hosts.length, "host")}, ${[...totals.values()].reduce((a, b) => a + b, 0)} results: ${countsText(totals)}`;
  options("group", data.groups);
  options("arch", data.hosts.map((host) => host.arch));
  options("kernel", data.hosts.map((host) => host.kernel));
  options("variant", data.tests.map((test) => variantOf(test.name)));
  for (const [letter] of letters) {
    if (!totals.has(letter)) continue;
    const label = make("label");
    const box = make("input");
    box.type = "checkbox";
    box.value = letter;
    label.append(box, " ", badge(letter));
    byId("outcomes").append(label);
  }
  const filters = byId("filters");
  const wide = matchMedia("(min-width: 48rem)");
  byId("more").open = wide.matches;
  filters.addEventListener("input", () => {
    for (const field of fields) state[field] = byId(field).value;
    state.differ = byId("differ").checked ? "1" : "";
    state.outcomes = [...byId("outcomes").querySelectorAll(":checked")].map((box) => box.value).join("");
    show();
  });
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => {
    for (const key of KEYS) if (!["view", "cell"].includes(key)) state[key] = "";
    setTimeout(show);
  });
  for (const button of document.querySelectorAll("nav button")) {
    button.addEventListener("click", () => {
      state.view = button.dataset.view;
      show();
    });
  }
  byId("close").addEventListener("click", closePanel);
  addEventListener("hashchange", () => {
    readState();
    show();
    openLinked();
  });
  addEventListener("resize", () => state.view === "matrix" && paint());
  document.addEventListener("keydown", onKey);
  readState();
  show();
  openLinked();
};
const openLinked = () => {
  const linked = /^(\d+)\/(.+)$/.exec(state.cell);
  const test = linked ? data.tests.findIndex((test) => test.name === linked[2]) : -1;
  if (test >= 0 && data.hosts[linked[1]]) openPanel(test, Number(linked[1]));
};
const onKey = (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape" && !byId("panel").hidden) return closePanel();
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const view = Object.keys(views)[Number(event.key) - 1];
  const move = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageDown: [20, 0], PageUp: [-20, 0] }[event.key];
  if (event.key === "/") {
    byId("name").focus();
  } else if (view) {
    state.view = view;
    show();
    if (view === "matrix") byId("grid").focus();
  } else if (event.target.id === "grid" && move) {
    moveCursor(...move);
  } else if (event.target.id === "grid" && event.key === "Enter") {
    activate();
  } else {
    return;
  }
  event.preventDefault();
};
start();
