// The plot of the mission: every category's accuracy under both stages, in hierarchy order or sorted.

const MEASURES = [["recall", "Accuracy"], ["precision", "Precision"], ["f1", "F1"]];
const SHOWN = [["change", "Stage 2’s change"], ...Object.entries(SYSTEM_NAMES)];
const BANDS = 4;
const bandOf = (support) => (support >= 100 ? 3 : support >= 20 ? 2 : support >= 5 ? 1 : 0);
const RADII = [2.6, 4, 5.6, 8];

const plot = {measure: "recall", sorting: "hierarchy", shown: "change", unit: null, picked: -1};

function arrangePlot() {
  const values = Object.fromEntries(SYSTEMS.map((s) => [s, scoreOf(s, plot.measure, plot.unit)]));
  const before = values.shifted, after = values.two_stage, main = values[plot.shown] || after;
  const support = D.columns[plot.unit + ".support"];
  const keys = {hierarchy: (c) => c, value: (c) => main[c], support: (c) => support[c], change: (c) => after[c] - before[c]};
  const key = Float64Array.from({length: D.classes}, (_, c) => keys[plot.sorting](c));
  const order = Uint32Array.from({length: D.classes}, (_, c) => c).filter((c) => support[c] > 0 || plot.sorting === "hierarchy");
  // As in the tables: sorted by a share, categories with few products stand last.
  const few = (c) => (plot.sorting === "value" || plot.sorting === "change") && support[c] < D.minSupport;
  if (plot.sorting !== "hierarchy") order.sort((a, b) => missing(key[a]) - missing(key[b]) || few(a) - few(b) || key[a] - key[b] || a - b);
  plot.few = order.reduce((n, c) => n + few(c), 0);
  plot.order = order;
  plot.place = new Int32Array(D.classes).fill(-1);
  order.forEach((c, x) => { plot.place[c] = x; });
  Object.assign(plot, {values, before, after, support});
}

// The systems whose points are drawn: before and after stage 2, or the one that was chosen.
const plotted = () => (plot.shown === "change" ? ["shifted", "two_stage"] : [plot.shown]);

// Points of one system, those of one band of support together, so that each band is one fast series.
function plotSeries(colours) {
  const series = [];
  for (const system of plotted()) {
    const values = plot.values[system], last = system === "two_stage", colour = last ? colours.accent : colours.before;
    const parts = Array.from({length: BANDS}, () => []);
    plot.order.forEach((c, x) => { if (!missing(values[c])) parts[bandOf(plot.support[c])].push(x, values[c]); });
    parts.forEach((part, band) => {
      const rows = [];
      for (let i = 0; i < part.length; i += 2) rows.push([part[i], part[i + 1]]);
      series.push({type: "scatter", data: rows, symbolSize: RADII[band] * 2 * plotScale(), large: true, largeThreshold: 1500, silent: true, clip: false,
                   progressive: 0, itemStyle: {color: colour, opacity: last ? 0.62 : 0.45}, z: last ? 3 : 2});
    });
  }
  return series;
}

const plotScale = () => (plot.order.length > 2000 ? 0.62 : plot.order.length > 400 ? 0.8 : 1.15);

function plotBands() {
  const rows = [];
  if (plot.sorting !== "hierarchy") return rows;
  for (let c = 0; c < D.classes; c++) {
    if (c === 0 || D.level1[c] !== D.level1[c - 1]) rows.push([c - 0.5, c + 0.5, D.level1[c], rows.length % 2]);
    else rows[rows.length - 1][1] = c + 0.5;
  }
  return rows;
}

function bandSeries(colours) {
  const rows = plotBands();
  return {type: "custom", silent: true, z: 0, clip: false, encode: {x: [0, 1], y: -1}, data: rows, renderItem(params, api) {
    const area = params.coordSys, left = Math.max(api.coord([api.value(0), 0])[0], area.x);
    const right = Math.min(api.coord([api.value(1), 0])[0], area.x + area.width);
    if (right <= left) return null;
    const shape = {x: left, y: area.y, width: right - left, height: area.height};
    const name = D.values.names.level1[api.value(2)];
    const children = [{type: "rect", shape, style: {fill: api.value(3) ? colours.soft : "transparent"}}];
    if (right - left > 56) children.push({type: "text", x: left + 2, y: area.y - 17,
      style: {text: name, fill: colours.muted, font: `11px ${colours.sans}`, width: right - left - 8, overflow: "truncate"}});
    return {type: "group", children};
  }};
}

// A line from stage 1, adjusted, to both stages for each category, where few enough are in view to tell them apart.
function changeSeries(colours) {
  if (plot.shown !== "change") return null;
  const rows = [];
  plot.order.forEach((c, x) => {
    if (!missing(plot.before[c]) && !missing(plot.after[c]) && plot.before[c] !== plot.after[c]) rows.push([x, plot.before[c], plot.after[c]]);
  });
  return {type: "custom", silent: true, z: 1, clip: true, encode: {x: 0, y: [1, 2]}, data: rows, progressive: 0, renderItem(params, api) {
    const step = api.size([1, 0])[0];
    if (step < 2.2) return null;
    const [x, y1] = api.coord([api.value(0), api.value(1)]), y2 = api.coord([api.value(0), api.value(2)])[1];
    return {type: "line", shape: {x1: x, y1, x2: x, y2}, style: {stroke: y2 < y1 ? colours.right : colours.wrong, lineWidth: step > 6 ? 2.5 : 1.2, opacity: 0.75}};
  }};
}

function plotOption(colours) {
  const n = plot.order.length, lines = changeSeries(colours), x = plot.picked >= 0 ? plot.place[plot.picked] : -1;
  const series = [bandSeries(colours), ...(lines ? [lines] : []), ...plotSeries(colours)];
  if (x >= 0) series.push({type: "line", data: [[x, 0], [x, 1]], symbol: "none", silent: true, lineStyle: {color: colours.ink, width: 1, type: "dashed"}, z: 4});
  return {
    grid: {left: 46, right: 14, top: 26, bottom: 62}, series,
    xAxis: axis(colours, {type: "value", min: -0.5, max: n - 0.5, minInterval: 1, splitLine: {show: false}, axisLabel: {show: false}}),
    yAxis: axis(colours, {type: "value", min: 0, max: 1, ...shares}),
    dataZoom: [{type: "inside", filterMode: "filter", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, minValueSpan: 8, ...plot.zoom},
      {type: "slider", height: 22, bottom: 12, filterMode: "filter", minValueSpan: 8, brushSelect: false, showDetail: false, showDataShadow: false, borderColor: colours.line,
       fillerColor: "rgba(120,140,160,.16)", backgroundColor: colours.soft, handleStyle: {color: colours.card, borderColor: colours.faint},
       moveHandleStyle: {color: colours.faint, opacity: 0.35}, emphasis: {moveHandleStyle: {color: colours.accent}, handleStyle: {borderColor: colours.accent}}, ...plot.zoom}],
  };
}

function nearestPoint(chart, x, y) {
  const n = plot.order.length, at = chart.convertFromPixel({gridIndex: 0}, [x, y]);
  if (!at || at[1] < -0.05 || at[1] > 1.08) return -1;
  const unit = chart.convertToPixel({gridIndex: 0}, [1, 0])[0] - chart.convertToPixel({gridIndex: 0}, [0, 0])[0];
  const height = chart.convertToPixel({gridIndex: 0}, [0, 0])[1] - chart.convertToPixel({gridIndex: 0}, [0, 1])[1];
  const reach = Math.max(1, Math.ceil(14 / unit)), middle = Math.round(at[0]);
  let best = -1, least = 26 ** 2;
  for (let k = Math.max(0, middle - reach); k <= Math.min(n - 1, middle + reach); k++) {
    for (const values of plotted().map((s) => plot.values[s])) {
      const distance = ((k - at[0]) * unit) ** 2 + ((values[plot.order[k]] - at[1]) * height) ** 2;
      if (distance < least) [best, least] = [k, distance];
    }
  }
  return best;
}

function describe(c) {
  return [el("b", {}, nameOf(c)), el("small", {}, pathOf(c)), pairsOf([
    ...SYSTEMS.map((s) => [SYSTEM_NAMES[s], percent(plot.values[s][c])]), ["Stage 2’s change", points(plot.after[c] - plot.before[c])],
    [D.unit === plot.unit ? `Evaluated ${D.unit}s` : `Evaluated ${plot.unit}s`, whole(plot.support[c])], ["Trained on", plural(D.columns["category.train_images"][c], "image")], ["Id", idOf(c)],
  ])];
}

function zoomPlot(factor, shift = 0) {
  const {startValue, endValue} = plot.chart.getOption().dataZoom[0];
  const middle = (startValue + endValue) / 2 + shift * (endValue - startValue), half = Math.max(4, (endValue - startValue) / 2 * factor);
  showPlot(middle - half, middle + half);
}

function showPlot(from, to) {
  const n = plot.order.length, span = Math.min(n, to - from), start = Math.min(Math.max(-0.5, from), n - 0.5 - span);
  plot.chart.dispatchAction({type: "dataZoom", batch: [0, 1].map((dataZoomIndex) => ({dataZoomIndex, startValue: start, endValue: start + span}))});
}

function plotEvents(chart) {
  plot.chart = chart;
  const surface = chart.getZr();
  surface.on("mousemove", (event) => {
    const k = nearestPoint(chart, event.offsetX, event.offsetY);
    surface.setCursorStyle(k < 0 ? "default" : "pointer");
    if (k < 0) return tip.hide();
    tip.show(event.event.clientX, event.event.clientY, ...describe(plot.order[k]));
  });
  surface.on("globalout", () => tip.hide());
  surface.on("click", (event) => {
    const k = nearestPoint(chart, event.offsetX, event.offsetY);
    if (k >= 0) { tip.hide(); location.hash = "category/" + idOf(plot.order[k]); }
  });
  chart.on("datazoom", () => {
    const {startValue, endValue} = chart.getOption().dataZoom[0];
    plot.zoom = {startValue, endValue};
  });
}

function renderPlot(host) {
  plot.unit = D.unit;
  arrangePlot();
  const chart = makeChart("Accuracy of every category before and after stage 2; the table of all categories holds the same numbers",
    390, plotOption, plotEvents);
  const key = el("span", {class: "keys"}), few = el("span", {class: "key"});
  const paint = () => {
    key.replaceChildren(...plotted().map((s) => el("span", {class: "key"}, el("i", {class: s === "two_stage" ? "after" : ""}), SYSTEM_NAMES[s].toLowerCase())));
    few.textContent = plot.few ? `the last ${whole(plot.few)} have fewer than ${D.minSupport} ${plot.unit}s` : "";
  };
  const again = (change) => { Object.assign(plot, change); plot.zoom = undefined; arrangePlot(); chart.redraw(); paint(); };
  const units = Object.keys(D.values.metrics);
  chart.tabIndex = 0;
  chart.addEventListener("keydown", (event) => {
    const action = {ArrowLeft: [1, -0.25], ArrowRight: [1, 0.25], "+": [0.5], "-": [2]}[event.key];
    if (action) { zoomPlot(...action); event.preventDefault(); }
  });
  const pick = (c) => {
    plot.picked = c;
    plot.zoom = undefined;
    chart.redraw();
    const x = c >= 0 ? plot.place[c] : -1;
    if (x >= 0) showPlot(x - 30, x + 30);
  };
  const find = categoryPicker({label: "Show a category in the plot", placeholder: "Show a category", keep: true, choose: pick, clear: () => pick(-1)});
  host.append(el("h2", {}, "Accuracy of every category"),
    el("p", {class: "note"}, `Each point is a category; larger points have more evaluated ${D.unit}s. A line joins stage 1, adjusted, to both stages: green where stage 2 helps, orange where it harms. Drag to pan, Ctrl + wheel or the buttons to zoom, click to open a category.`),
    el("div", {class: "tools"}, toggle("Measure", MEASURES, plot.measure, (measure) => again({measure})),
      toggle("Shown", SHOWN, plot.shown, (shown) => again({shown})),
      chooser("Sort by", [["hierarchy", "hierarchy"], ["value", "value"], ["support", "number of " + D.unit + "s"], ["change", "change by stage 2"]], plot.sorting, (sorting) => again({sorting})),
      units.length > 1 ? chooser("Per", units.map((u) => [u, u]), plot.unit, (unit) => again({unit})) : null, find),
    chart,
    el("div", {class: "tools"}, key, few, el("span", {class: "grow"}),
      el("button", {type: "button", "aria-label": "Zoom in", onclick: () => zoomPlot(0.5)}, "+"), el("button", {type: "button", "aria-label": "Zoom out", onclick: () => zoomPlot(2)}, "−"),
      el("button", {type: "button", onclick: () => showPlot(-0.5, plot.order.length - 0.5)}, "Whole")));
  paint();
}
