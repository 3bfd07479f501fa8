// What matters first: a tile a host, then what failed, then where hosts differ.
const MOST_ITEMS = 200;
const proportions = (cells, tests) => {
  const counts = new Map();
  for (const test of tests) {
    const letter = cells[test];
    if (letter !== ".") counts.set(letter, (counts.get(letter) || 0) + 1);
  }
  return counts;
};
const bar = (counts) => {
  const line = make("span", undefined, "bar");
  for (const [letter, outcome] of letters) {
    if (!counts.has(letter)) continue;
    const part = make("i", undefined, outcome.name);
    part.style.flexGrow = counts.get(letter);
    line.append(part);
  }
  line.setAttribute("role", "img");
  line.setAttribute("aria-label", countsText(counts));
  return line;
};
const countsText = (counts) =>
  [...letters].filter(([letter]) => counts.has(letter)).map(([letter, outcome]) => `${counts.get(letter)} ${outcome.words}`).join(", ");
const tile = (at, tests) => {
  const host = data.hosts[at];
  const counts = proportions(host.cells, tests);
  const box = make("button", undefined, "tile");
  box.type = "button";
  box.append(make("strong", hostName(host)), make("small", `${host.arch} ${host.kernel}`), bar(counts));
  const numbers = make("span", undefined, "numbers");
  for (const [letter] of letters) if (counts.has(letter)) numbers.append(badge(letter, `${counts.get(letter)} ${letters.get(letter).words}`), " ");
  box.append(numbers);
  const missing = tests.filter((test) => host.cells[test] === "." && fitsArch(data.tests[test].name, host.arch)).length;
  const took = host.duration ? `took ${time(host.duration)}` : "";
  box.append(make("small", [took, missing ? `${count(missing, "test")} of other hosts missing here` : ""].filter(Boolean).join("; ")));
  for (const why of host.cut) box.append(make("small", why, "cut"));
  box.addEventListener("click", () => {
    Object.assign(state, { view: "matrix", arch: host.arch, kernel: host.kernel });
    show();
  });
  return box;
};
const fitsArch = (name, arch) => !archs.has(name.split("::")[0]) || name.split("::")[0] === arch;
const item = (test, hosts) => {
  const line = make("li");
  const at = data.tests[test];
  // Hosts that say the same are told together.
  const byWords = new Map();
  for (const host of hosts) {
    const key = data.hosts[host].cells[test] + reason(host, test);
    byWords.set(key, (byWords.get(key) || []).concat(host));
  }
  line.append(make("strong", at.name));
  if (at.at) line.append(" ", make("small", at.at));
  for (const same of byWords.values()) {
    const told = make("div");
    const letter = data.hosts[same[0]].cells[test];
    const open = make("button", undefined, "plain");
    open.type = "button";
    open.append(badge(letter));
    open.setAttribute("aria-label", `${letters.get(letter).words}: details of ${at.name}`);
    open.addEventListener("click", () => openPanel(test, same[0]));
    told.append(open, " ", same.map((host) => hostLabel(data.hosts[host])).join(", "));
    const why = reason(same[0], test);
    if (why) told.append(make("p", why));
    const failed = more(same[0], test).failed || [];
    for (const check of failed.slice(0, 3)) told.append(make("p", `check: ${check.name}`, "check"));
    if (data.hosts[same[0]].history[test]) told.append(spark(data.hosts[same[0]].history[test]));
    if (NEWS.includes(letter)) told.append(make("code", again(data.hosts[same[0]], at.name)));
    line.append(told);
  }
  return line;
};
const itemList = (heading, tests, hostsOf, none) => {
  const parts = [make("h2", `${heading} (${tests.length})`)];
  if (tests.length === 0) return [...parts, make("p", none, "faint")];
  const list = make("ul", undefined, "items");
  list.append(...tests.slice(0, MOST_ITEMS).map((test) => item(test, hostsOf(test))));
  parts.push(list);
  if (tests.length > MOST_ITEMS) parts.push(make("p", `… and ${tests.length - MOST_ITEMS} more: the matrix has them all.`, "faint"));
  return parts;
};
const showOverview = () => {
  const hosts = shownHosts();
  const tests = shownTests(hosts);
  const failing = (test) => hosts.filter((host) => NEWS.includes(data.hosts[host].cells[test]) && data.hosts[host].cells[test] !== ".");
  const failed = tests.filter((test) => failing(test).length > 0);
  const known = new Set(failed);
  const differ = tests.filter((test) => !known.has(test) && differs(test, hosts));
  const tiles = make("div", undefined, "tiles");
  const trouble = new Map(hosts.map((host) => [host, 0]));
  for (const test of failed) for (const host of failing(test)) trouble.set(host, trouble.get(host) + 1);
  const byTrouble = [...hosts].sort((one, other) =>
    data.hosts[other].cut.length - data.hosts[one].cut.length || trouble.get(other) - trouble.get(one));
  tiles.append(...byTrouble.map((host) => tile(host, tests)));
  const ran = (test) => hosts.filter((host) => !".s".includes(data.hosts[host].cells[test]));
  byId("overview").replaceChildren(tiles, ...itemList("Failures", failed, failing, "Nothing failed that is not known to."),
    ...(hosts.length > 1 ? itemList("Hosts differ", differ, ran, "Every test ends alike wherever it runs.") : []));
};
