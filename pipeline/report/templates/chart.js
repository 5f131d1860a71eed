// Charts by Apache ECharts, on canvas, in the page's own colours; drawn again when the width or the colour scheme changes.

const drawn = new Set();

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "muted", "faint", "line", "card", "soft", "accent", "before", "right", "near", "wrong", "low", "mid", "high", "sans"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
}

// `option(colours, width)` gives the ECharts option; `ready(chart)` is called once, for events.
function makeChart(label, height, option, ready) {
  const host = el("div", {class: "chart", role: "img", "aria-label": label});
  host.style.height = height + "px";
  const entry = {host, draw() {
    if (!entry.chart) {
      entry.chart = echarts.init(host);
      entry.chart.on("finished", () => { document.documentElement.dataset.firstChart ||= Math.round(performance.now()); });
      if (ready) ready(entry.chart);
    }
    entry.chart.setOption({animation: false, ...option(palette(), host.clientWidth)}, true);
  }};
  new ResizeObserver(() => {
    if (!host.clientWidth || !host.isConnected) return;
    if (entry.chart && entry.width === host.clientWidth) return;
    entry.width = host.clientWidth;
    if (entry.chart) entry.chart.resize();
    entry.draw();
  }).observe(host);
  drawn.add(entry);
  host.redraw = () => entry.chart && entry.draw();
  return host;
}

function forget(node) {
  for (const entry of drawn) {
    if (!node.contains(entry.host)) continue;
    if (entry.chart) entry.chart.dispose();
    drawn.delete(entry);
  }
}

// A canvas can't follow the paper's width: before printing, each chart in view is drawn as a picture; afterwards again for the screen.
function chartsToPaper() {
  for (const entry of drawn) {
    if (!entry.host.clientWidth) continue;
    if (!entry.chart) entry.draw();
    entry.chart.resize({width: entry.host.clientWidth});
    entry.draw();
    entry.host.append(el("img", {class: "paper", alt: "", src: entry.chart.getDataURL({pixelRatio: 2, backgroundColor: "#ffffff"})}));
  }
}

function chartsToScreen() {
  for (const entry of drawn) {
    entry.host.querySelector("img.paper")?.remove();
    if (!entry.chart || !entry.host.clientWidth) continue;
    entry.width = entry.host.clientWidth;
    entry.chart.resize({width: "auto"});
    entry.draw();
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const entry of drawn) if (entry.chart && entry.host.clientWidth) entry.draw();
});

function axis(colours, properties = {}) {
  const {name, axisLabel, ...rest} = properties;
  return {
    name, nameLocation: "middle", nameGap: 30, nameTextStyle: {color: colours.muted, fontFamily: colours.sans, fontSize: 12},
    axisLine: {show: false, lineStyle: {color: colours.line}}, axisTick: {show: false}, splitLine: {lineStyle: {color: colours.line}},
    axisLabel: {color: colours.muted, fontFamily: colours.sans, fontSize: 12, ...axisLabel}, ...rest,
  };
}

const shares = {axisLabel: {formatter: (v) => Math.round(100 * v) + "%"}};

// A tooltip in the page's style whose content is built from nodes, never from markup.
function tooltip(content, properties = {}) {
  return {trigger: "axis", confine: true, appendToBody: false, renderMode: "html", backgroundColor: "transparent", borderWidth: 0, padding: 0,
          extraCssText: "box-shadow:none", axisPointer: {type: "line", lineStyle: {color: palette().faint}},
          formatter: (found) => {
            const box = el("div", {}, content(found));
            box.style.cssText = "background:var(--card);color:var(--ink);border:1px solid var(--line);border-radius:10px;padding:8px 12px;font:13px/1.45 var(--sans);white-space:normal;max-width:320px";
            return box;
          }, ...properties};
}

// Ink that can be read on a filling "rgb(r,g,b)".
function readable(fill) {
  const [r, g, b] = (fill.match(/\d+/g) || [255, 255, 255]).map((v) => (v / 255) ** 2.2), light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return light > 0.2 ? "#1c1e22" : "#ffffff";
}

function mix(from, to, t) {
  const parse = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));
  const [a, b] = [parse(from), parse(to)];
  return "rgb(" + a.map((v, i) => Math.round(v + (b[i] - v) * t)).join(",") + ")";
}

// From orange over neutral to blue, which every common kind of colour blindness tells apart.
function accuracyColour(colours, x, middle = 0.6) {
  if (missing(x)) return colours.soft;
  return x < middle ? mix(colours.low, colours.mid, x / middle) : mix(colours.mid, colours.high, (x - middle) / (1 - middle));
}

function accuracyKey() {
  const bar = el("span", {"aria-hidden": "true"});
  bar.style.cssText = "display:inline-block;width:120px;height:8px;border-radius:4px;background:linear-gradient(90deg,var(--low),var(--mid) 60%,var(--high))";
  return el("span", {class: "key"}, "0%", bar, "100%");
}
