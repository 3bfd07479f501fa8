// What is shown: the data, and the filters, which the address holds.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const make = (tag, text, name) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
};
const letters = new Map(data.outcomes.map(([letter, name, words]) => [letter, { name, words }]));
const NEWS = "fetxh";
const time = (us) => us >= 1e6 ? (us / 1e6).toFixed(1) + " s" : (us / 1e3).toFixed(1) + " ms";
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
const hostName = (host) => host.profile && host.profile !== "native" ? host.profile : `${host.arch} ${host.backend}`;
const hostLabel = (host) => `${host.arch} ${host.kernel} ${host.backend}` +
  (host.profile && host.profile !== "native" ? ` (${host.profile})` : "");
const more = (host, test) => data.hosts[host].more[test] || {};
const reason = (host, test) => {
  const at = more(host, test).reason;
  return at === undefined ? "" : data.texts[at];
};
// `x86_64::pio::reads` is of `x86_64::pio`, `memslots::moves` of `memslots`.
const archs = new Set(data.hosts.map((host) => host.arch).concat("x86_64", "aarch64", "ppc64le", "riscv64", "s390x"));
const fileOf = (name) => name.split("::").slice(0, archs.has(name.split("::")[0]) ? 2 : 1).join("::");
const variantOf = (name) => (/@([^:\[]+)/.exec(name) || [])[1] || "";
const again = (host, name) => {
  const profile = host.profile && host.profile !== "native" ? ` --host ${host.profile}` : "";
  const kernel = profile && host.spec ? ` --kernel ${host.spec}` : "";
  return `./run_tests.sh${profile}${kernel} -v '${name}'`;
};
const badge = (letter, text) => make("span", text || letters.get(letter).words, "badge " + letters.get(letter).name);
const spark = (history) => {
  const line = make("span", undefined, "spark");
  line.setAttribute("role", "img");
  line.setAttribute("aria-label", "from run to run: " + [...history].map((l) => l === "." ? "none" : letters.get(l).words).join(", "));
  for (const letter of history) line.append(make("i", undefined, letter === "." ? "none" : letters.get(letter).name));
  return line;
};

const KEYS = ["view", "name", "group", "arch", "kernel", "variant", "differ", "outcomes", "open", "cell"];
const state = {};
const readState = () => {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const key of KEYS) state[key] = given.get(key) || "";
  if (!["overview", "matrix", "perf"].includes(state.view)) state.view = "overview";
};
const writeState = () => {
  const told = new URLSearchParams();
  for (const key of KEYS) if (state[key] && !(key === "view" && state.view === "overview")) told.set(key, state[key]);
  const text = told.toString();
  history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
};

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
  const wanted = text.toLowerCase();
  return (name) => name.toLowerCase().includes(wanted);
};
// The hosts and the tests that the filters leave.
const shownHosts = () => data.hosts.map((host, at) => at).filter((at) =>
  (!state.arch || data.hosts[at].arch === state.arch) && (!state.kernel || data.hosts[at].kernel === state.kernel));
const differs = (test, hosts) => {
  let first = "";
  for (const at of hosts) {
    const letter = data.hosts[at].cells[test];
    if (letter === "." || letter === "s") continue;
    if (first && letter !== first) return true;
    first = letter;
  }
  return false;
};
const shownTests = (hosts) => {
  const named = matcher(state.name.trim());
  const group = data.groups.indexOf(state.group);
  return data.tests.map((test, at) => at).filter((at) => {
    const test = data.tests[at];
    if (!named(test.name)) return false;
    if (group >= 0 && !test.groups.includes(group)) return false;
    if (state.variant && variantOf(test.name) !== (state.variant === "-" ? "" : state.variant)) return false;
    if (state.differ && !differs(at, hosts)) return false;
    return hosts.some((host) => {
      const letter = data.hosts[host].cells[at];
      return letter !== "." && (!state.outcomes || state.outcomes.includes(letter));
    });
  });
};
