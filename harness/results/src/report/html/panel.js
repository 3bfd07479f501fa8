// What is behind one cell.
let cameFrom = null;
const openPanel = (test, host) => {
  const at = data.tests[test];
  const on = data.hosts[host];
  const letter = on.cells[test];
  if (letter === ".") return;
  const cell = more(host, test);
  byId("panel-title").textContent = at.name;
  const list = make("dl");
  const fact = (name, value) => {
    if (value === undefined || value === "") return;
    const text = make("dd");
    text.append(value);
    list.append(make("dt", name), text);
  };
  const section = (heading, lines) => {
    if (lines && lines.length > 0) body.append(make("h3", heading), make("pre", lines.join("\n")));
  };
  const body = byId("panel-body");
  fact("outcome", badge(letter, letters.get(letter).words + (cell.flaky ? ", flaky" : "")));
  fact("reason", reason(host, test));
  fact("host", hostLabel(on));
  fact("checks", `${on.counts[test]} evaluated, ${(cell.failed || []).length} failed`);
  fact("time", time(on.times[test] * 100));
  fact("test", at.at);
  fact("groups", at.groups.map((group) => data.groups[group]).join(", "));
  fact("see", cell.reference);
  const command = make("code", again(on, at.name));
  fact("run again", command);
  if (on.history[test]) fact("history", spark(on.history[test]));
  body.replaceChildren(list);
  section("Failed checks", (cell.failed || []).map((c) => c.detail ? `${c.name}\n    ${c.detail}` : c.name));
  section("Details", cell.details);
  section("Metrics", (on.metrics[test] || []).map((m) => {
    const [, value, min, max] = m.values[m.values.length - 1];
    return `${m.name} = ${value} ${m.unit}` + (min < max ? ` (${min} to ${max})` : "");
  }));
  section("KVM statistics at the deadline", cell.stats);
  section("Kernel log", cell.kernel_log);
  section("Log", cell.log);
  const others = data.hosts.map((other, nth) => nth).filter((nth) => nth !== host && data.hosts[nth].cells[test] !== ".");
  if (others.length > 0) {
    const elsewhere = make("ul", undefined, "elsewhere");
    for (const nth of others) {
      const item = make("li");
      const go = make("button", hostLabel(data.hosts[nth]));
      go.type = "button";
      go.addEventListener("click", () => openPanel(test, nth));
      item.append(badge(data.hosts[nth].cells[test]), " ", go);
      elsewhere.append(item);
    }
    body.append(make("h3", "On other hosts"), elsewhere);
  }
  section("Checks that hold", at.checks);
  if (byId("panel").hidden) cameFrom = document.activeElement;
  byId("panel").hidden = false;
  byId("panel").scrollTop = 0;
  byId("panel").focus();
  state.cell = `${host}/${at.name}`;
  writeState();
};
const closePanel = () => {
  byId("panel").hidden = true;
  state.cell = "";
  writeState();
  if (cameFrom && cameFrom.isConnected) cameFrom.focus();
};
