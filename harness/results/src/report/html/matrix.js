// Tests by hosts: files folded, and only the rows in sight are there.
const ROW = 26;
const MANY_HOSTS = 8;
let rows = [];
let columns = [];
let cursor = { row: 0, column: 0 };
let frame = null;
const openFiles = () => new Set(state.open ? state.open.split(",") : []);
const buildRows = () => {
  columns = shownHosts();
  const byFile = new Map();
  for (const test of shownTests(columns)) {
    const file = fileOf(data.tests[test].name);
    if (!byFile.has(file)) byFile.set(file, []);
    byFile.get(file).push(test);
  }
  const open = openFiles();
  // What is looked for, or is little, need not be unfolded.
  const all = state.open === "*" || byFile.size === 1 || (state.name && [...byFile.values()].flat().length <= 200);
  rows = [];
  for (const [file, tests] of byFile) {
    const isOpen = all || open.has(file);
    rows.push({ file, tests, isOpen });
    if (isOpen) for (const test of tests) rows.push({ test });
  }
  cursor.row = Math.min(cursor.row, Math.max(rows.length - 1, 0));
  cursor.column = Math.min(cursor.column, Math.max(columns.length - 1, 0));
};
const toggle = (row) => {
  const open = openFiles();
  open.delete("*");
  if (state.open === "*") for (const { file } of rows) if (file) open.add(file);
  if (row.isOpen) open.delete(row.file);
  else open.add(row.file);
  state.open = [...open].join(",");
  writeState();
  buildRows();
  paint();
};
const fillRow = (line, at) => {
  const row = rows[at];
  const name = make("span", undefined, "name");
  name.setAttribute("role", "rowheader");
  line.append(name);
  if (row.file) {
    line.classList.add("file");
    line.setAttribute("aria-expanded", row.isOpen);
    name.append(`${row.isOpen ? "▾" : "▸"} ${row.file} `, make("small", count(row.tests.length, "test")));
  } else {
    name.append(data.tests[row.test].name.slice(fileOf(data.tests[row.test].name).length + 2));
    name.title = data.tests[row.test].name;
  }
  columns.forEach((host, nth) => {
    const cell = make("span", undefined, "cell");
    cell.setAttribute("role", "gridcell");
    cell.id = `c${at}-${nth}`;
    if (row.file) {
      const counts = proportions(data.hosts[host].cells, row.tests);
      if (counts.size > 0) cell.append(bar(counts));
      cell.title = countsText(counts);
    } else {
      const letter = data.hosts[host].cells[row.test];
      if (letter !== ".") {
        const outcome = letters.get(letter);
        cell.classList.add(outcome.name);
        const flaky = more(host, row.test).flaky ? " (flaky)" : "";
        cell.textContent = columns.length > MANY_HOSTS ? "" : outcome.words + flaky;
        const label = `${hostLabel(data.hosts[host])}: ${outcome.words}${flaky}`;
        cell.title = [label, reason(host, row.test)].filter(Boolean).join("\n");
        cell.setAttribute("aria-label", label);
      } else {
        cell.classList.add("none");
      }
    }
    if (at === cursor.row && nth === cursor.column) cell.classList.add("cursor");
    line.append(cell);
  });
};
const paint = () => {
  if (!frame) return;
  const { box, sheet } = frame;
  sheet.style.height = `${rows.length * ROW}px`;
  const first = Math.max(0, Math.floor((box.scrollTop - sheet.offsetTop) / ROW) - 10);
  const last = Math.min(rows.length, first + Math.ceil(box.clientHeight / ROW) + 20);
  const lines = [];
  for (let at = first; at < last; at += 1) {
    const line = make("div", undefined, "row");
    line.setAttribute("role", "row");
    line.setAttribute("aria-rowindex", at + 2);
    line.style.transform = `translateY(${at * ROW}px)`;
    line.dataset.row = at;
    fillRow(line, at);
    lines.push(line);
  }
  sheet.replaceChildren(...lines);
  box.setAttribute("aria-activedescendant", `c${cursor.row}-${cursor.column}`);
};
const showMatrix = () => {
  buildRows();
  const dense = columns.length > MANY_HOSTS;
  const box = make("div", undefined, dense ? "grid dense" : "grid");
  box.id = "grid";
  box.tabIndex = 0;
  box.setAttribute("role", "grid");
  box.setAttribute("aria-label", "Results");
  box.setAttribute("aria-rowcount", rows.length + 1);
  box.style.setProperty("--hosts", columns.length);
  const head = make("div", undefined, "row head");
  head.setAttribute("role", "row");
  const all = make("button", rows.some((row) => row.file && !row.isOpen) ? "unfold all" : "fold all");
  all.type = "button";
  all.addEventListener("click", () => {
    state.open = rows.some((row) => row.file && !row.isOpen) ? "*" : "";
    show();
  });
  const corner = make("span", undefined, "name");
  corner.append(all);
  head.append(corner);
  for (const host of columns) {
    const label = make("span", undefined, "cell");
    label.setAttribute("role", "columnheader");
    label.title = hostLabel(data.hosts[host]);
    label.append(make("b", hostName(data.hosts[host])), make("small", data.hosts[host].kernel));
    head.append(label);
  }
  const sheet = make("div", undefined, "sheet");
  box.append(head, sheet);
  byId("matrix").replaceChildren(box);
  frame = { box, sheet };
  box.addEventListener("scroll", () => requestAnimationFrame(paint));
  sheet.addEventListener("click", (event) => {
    const line = event.target.closest(".row");
    if (!line) return;
    cursor.row = Number(line.dataset.row);
    const cell = event.target.closest(".cell");
    if (cell) cursor.column = [...line.children].indexOf(cell) - 1;
    const row = rows[cursor.row];
    if (row.file) toggle(row);
    else if (cell) openPanel(row.test, columns[cursor.column]);
    paint();
  });
  paint();
};
const moveCursor = (down, right) => {
  cursor.row = Math.max(0, Math.min(rows.length - 1, cursor.row + down));
  cursor.column = Math.max(0, Math.min(columns.length - 1, cursor.column + right));
  const { box, sheet } = frame;
  const top = sheet.offsetTop + cursor.row * ROW;
  if (top - sheet.offsetTop < box.scrollTop) box.scrollTop = top - sheet.offsetTop;
  if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
  paint();
};
const activate = () => {
  const row = rows[cursor.row];
  if (!row) return;
  if (row.file) toggle(row);
  else openPanel(row.test, columns[cursor.column]);
};
