"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const words = new Map(data.outcomes);
  const body = document.querySelector("#matrix tbody");
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  const time = (us) => us >= 1e6 ? (us / 1e6).toFixed(1) + " s" : (us / 1e3).toFixed(1) + " ms";

  const totals = new Map();
  for (const column of data.columns)
    for (const cell of column.cells) if (cell) totals.set(cell.o, (totals.get(cell.o) || 0) + 1);
  byId("totals").textContent = `${data.tests.length} tests on ${data.columns.length} ${data.columns.length === 1 ? "host" : "hosts"}: ` +
    data.outcomes.filter(([o]) => totals.has(o)).map(([o, w]) => `${totals.get(o)} ${w}`).join(", ");

  for (const column of data.columns)
    for (const why of column.cut)
      byId("cut").append(make("li", `${column.arch} ${column.kernel} ${column.backend} ${column.profile}: ${why}`));

  for (const group of data.groups) byId("group").append(new Option(group, group));
  for (const arch of new Set(data.columns.map((c) => c.arch))) byId("arch").append(new Option(arch, arch));
  for (const [outcome, word] of data.outcomes) {
    if (!totals.has(outcome)) continue;
    const label = make("label");
    const box = make("input");
    box.type = "checkbox";
    box.value = outcome;
    label.append(box, " ", make("span", word, "badge " + outcome));
    byId("outcomes").append(label);
  }

  const head = make("tr");
  const corner = make("th", "test");
  corner.scope = "col";
  head.append(corner);
  for (const column of data.columns) {
    const cell = make("th", column.kernel);
    cell.scope = "col";
    const profile = column.profile && column.profile !== "native" ? ` (${column.profile})` : "";
    cell.append(make("small", `${column.arch} ${column.backend}${profile}`));
    head.append(cell);
  }
  document.querySelector("#matrix thead").append(head);

  const rows = data.tests.map((test, row) => {
    const line = make("tr");
    const name = make("th");
    // A long name breaks between its words.
    for (const part of test.split(/(?<=::|_)/)) name.append(part, make("wbr"));
    name.scope = "row";
    line.append(name);
    data.columns.forEach((column, at) => {
      const box = make("td");
      const cell = column.cells[row];
      if (cell) {
        const button = make("button", words.get(cell.o) + (cell.flaky ? " (flaky)" : ""), cell.o);
        button.type = "button";
        button.dataset.row = row;
        button.dataset.column = at;
        button.title = cell.reason || "";
        box.append(button);
      } else {
        box.className = "none";
      }
      line.append(box);
    });
    body.append(line);
    return line;
  });

  const matcher = (text) => {
    const regex = /^\/(.+)\/$/.exec(text);
    if (regex) {
      try {
        const compiled = new RegExp(regex[1]);
        return (name) => compiled.test(name);
      } catch {
        return () => true;
      }
    }
    return (name) => name.toLowerCase().includes(text.toLowerCase());
  };

  const filter = () => {
    const named = matcher(byId("name").value.trim());
    const group = byId("group").value;
    const arch = byId("arch").value;
    const wanted = new Set([...byId("outcomes").querySelectorAll(":checked")].map((box) => box.value));
    const visible = data.columns.map((column) => !arch || column.arch === arch);
    visible.forEach((show, at) => {
      head.children[at + 1].hidden = !show;
    });
    let shown = 0;
    rows.forEach((line, row) => {
      const cells = data.columns.map((c, at) => visible[at] && c.cells[row]).filter(Boolean);
      const show = cells.length > 0 && named(data.tests[row]) &&
        (!group || cells.some((cell) => cell.groups.includes(group))) &&
        (wanted.size === 0 || cells.some((cell) => wanted.has(cell.o)));
      line.hidden = !show;
      visible.forEach((on, at) => {
        line.children[at + 1].hidden = !on;
      });
      if (show) shown += 1;
    });
    byId("shown").textContent = shown === rows.length ? "" : `${shown} of ${rows.length} tests shown`;
  };
  const filters = byId("filters");
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(filter));

  let opened = null;
  const section = (heading, lines) => {
    if (!lines || lines.length === 0) return;
    byId("panel-body").append(make("h3", heading), make("pre", lines.join("\n")));
  };
  const open = (button) => {
    if (opened) opened.removeAttribute("aria-current");
    opened = button;
    button.setAttribute("aria-current", "true");
    const test = data.tests[button.dataset.row];
    const column = data.columns[button.dataset.column];
    const cell = column.cells[button.dataset.row];
    byId("panel-title").textContent = test;
    const list = make("dl");
    const fact = (name, value) => {
      if (value === undefined || value === "") return;
      list.append(make("dt", name));
      const text = make("dd");
      text.append(value);
      list.append(text);
    };
    fact("outcome", make("span", words.get(cell.o) + (cell.flaky ? ", flaky" : ""), "badge " + cell.o));
    fact("reason", cell.reason);
    fact("host", `${column.arch} ${column.kernel} ${column.backend} ${column.profile}`.trim());
    fact("checks", `${cell.n} evaluated, ${(cell.checks || []).length} failed`);
    fact("time", time(cell.t));
    fact("test", cell.at);
    fact("groups", cell.groups.join(", "));
    fact("see", cell.reference);
    byId("panel-body").replaceChildren(list);
    section("Failed checks", (cell.checks || []).map((c) => c.detail ? `${c.name}\n    ${c.detail}` : c.name));
    section("Details", cell.details);
    section("Metrics", (cell.metrics || []).map((m) => `${m.name} = ${m.value} ${m.unit}` +
      (m.spread ? ` (${m.spread.min} to ${m.spread.max}, ${m.spread.samples.length} samples)` : "")));
    section("KVM statistics at the deadline", cell.stats);
    section("Kernel log", cell.kernel_log);
    section("Log", cell.log);
    if (cell.history) {
      const history = make("ol", undefined, "history");
      for (const [start, outcome] of cell.history) {
        const when = new Date(start * 1000).toISOString();
        const item = make("li", `${words.get(outcome)} ${when.slice(0, 10)}`, "badge " + outcome);
        item.title = when;
        history.append(item);
      }
      byId("panel-body").append(make("h3", "History, oldest first"), history);
    }
    byId("panel").hidden = false;
    // The panel has taken room from the table.
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
    byId("panel").scrollTop = 0;
    byId("panel").focus();
    history.replaceState(null, "", `#${button.dataset.column}/${encodeURIComponent(test)}`);
  };
  const close = () => {
    byId("panel").hidden = true;
    history.replaceState(null, "", location.pathname + location.search);
    if (opened) {
      opened.removeAttribute("aria-current");
      opened.focus();
      opened = null;
    }
  };
  byId("close").addEventListener("click", close);
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(button);
  });

  const step = (button, down, right) => {
    let line = button.closest("tr");
    let at = Number(button.dataset.column);
    for (;;) {
      if (down) {
        line = down > 0 ? line.nextElementSibling : line.previousElementSibling;
        if (!line) return;
        if (line.hidden) continue;
      } else {
        at += right;
        if (at < 0 || at >= data.columns.length) return;
      }
      const box = line.children[at + 1];
      const next = !box.hidden && box.querySelector("button");
      if (next) {
        next.focus();
        return;
      }
    }
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("panel").hidden) return close();
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) {
      event.preventDefault();
      byId("name").focus();
      return;
    }
    const button = event.target.closest && event.target.closest("td button");
    const move = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (button && move) {
      event.preventDefault();
      step(button, ...move);
    }
  });

  const linked = /^#(\d+)\/(.+)$/.exec(location.hash);
  if (linked) {
    let test = "";
    try {
      test = decodeURIComponent(linked[2]);
    } catch {
      test = "";
    }
    const row = data.tests.indexOf(test);
    const button = row >= 0 && rows[row].querySelector(`button[data-column="${linked[1]}"]`);
    if (button) {
      open(button);
    }
  }
})();
