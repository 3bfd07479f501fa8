// What was measured: the median with its spread on each host, and where it goes from run to run.
const digits = (value) => Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(3);
// Least squares over the runs, as a part of the mean: what one run brings.
const slope = (values) => {
  const n = values.length;
  if (n < 3) return null;
  const mean = values.reduce((sum, v) => sum + v, 0) / n;
  const middle = (n - 1) / 2;
  let above = 0;
  let below = 0;
  values.forEach((value, at) => {
    above += (at - middle) * (value - mean);
    below += (at - middle) ** 2;
  });
  return mean === 0 ? null : above / below / mean;
};
const curve = (values) => {
  const svg = document.createElementNS("http" + "://www.w3.org/2000/svg", "svg");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("class", "curve");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http" + "://www.w3.org/2000/svg", "polyline");
  const y = (value) => high === low ? 12 : 22 - 20 * (value - low) / (high - low);
  line.setAttribute("points", values.map((value, at) => `${(100 * at / Math.max(values.length - 1, 1)).toFixed(1)},${y(value).toFixed(1)}`).join(" "));
  svg.append(line);
  return svg;
};
const showPerf = () => {
  const hosts = shownHosts();
  const parts = [];
  for (const test of shownTests(hosts)) {
    const names = new Map();
    for (const host of hosts) {
      for (const series of data.hosts[host].metrics[test] || []) {
        const key = `${series.name} (${series.unit})`;
        if (!names.has(key)) names.set(key, []);
        names.get(key).push({ host, series });
      }
    }
    if (names.size === 0) continue;
    parts.push(make("h2", data.tests[test].name));
    for (const [name, measured] of names) {
      const most = Math.max(...measured.map(({ series }) => series.values[series.values.length - 1][3]));
      const table = make("table");
      table.append(make("caption", name));
      const head = make("tr");
      for (const title of ["host", "median", "smallest to largest", "per run", "from run to run"]) head.append(make("th", title));
      table.append(head);
      for (const { host, series } of measured) {
        const line = make("tr");
        const [, value, min, max] = series.values[series.values.length - 1];
        const medians = series.values.map((of) => of[1]);
        const change = slope(medians);
        const place = make("td");
        const range = make("span", undefined, "range");
        const mark = make("i");
        mark.style.left = `${most > 0 ? 100 * min / most : 0}%`;
        mark.style.width = `${most > 0 ? Math.max(100 * (max - min) / most, 0.5) : 0}%`;
        range.append(mark);
        place.append(range, ` ${digits(min)} to ${digits(max)}`);
        const trend = make("td");
        if (medians.length > 1) trend.append(curve(medians));
        line.append(make("td", hostLabel(data.hosts[host])), make("td", digits(value), "number"), place,
          make("td", change === null ? "" : `${change > 0 ? "+" : ""}${(100 * change).toFixed(1)} %`, "number"), trend);
        table.append(line);
      }
      parts.push(table);
    }
  }
  byId("perf").replaceChildren(...(parts.length > 0 ? parts : [make("p", "Nothing was measured: tests of the group perf are.", "faint")]));
};
