// Distributions: what a threshold on the confidence gives, how honest the confidence is, where errors go, how large categories are.

function renderConfidence(view) {
  const state = {system: "two_stage", unit: D.unit, threshold: 0.5};
  const found = () => D.values.findings[state.unit][state.system];
  const charts = [coverageChart(state, found), reliabilityChart(found), confidenceChart(found), distanceChart(found)];
  const sentence = el("p", {class: "sentence", id: "coverage-sentence", "aria-live": "polite"});
  const ece = el("p", {class: "note", id: "ece"}), errors = el("p", {class: "note"});
  const slider = el("input", {type: "range", min: 0, max: 100, step: 1, value: 50, id: "coverage-slider", "aria-label": "Accept answers of at least this confidence"});
  const read = () => {
    const at = Math.round(100 * state.threshold), judged = expected(state)?.[at], tested = found().coverage[at];
    const said = (cost) => [el("b", {}, percent(cost.coverage, 0)), ` of ${state.unit}s, `, missing(cost.accuracy) ? "none to judge" : [el("b", {}, percent(cost.accuracy)), ` right [${ends(cost)}]`], ` (n ${whole(cost.n)})`].flat();
    const rows = [...(judged ? [["On validation (val_b, cross-fitted)", judged]] : []), ["On the test split", tested]];
    sentence.replaceChildren(`Accept a confidence ≥ ${decimal(tested.threshold)}`, ...rows.map(([where, cost]) => el("span", {}, where + ": ", ...said(cost))),
      el("small", {}, `${percent(1 - tested.coverage, 0)} of the test split go to a person; without a threshold ${percent(found().coverage[0].accuracy)} are right`));
    slider.setAttribute("aria-valuetext", [...sentence.childNodes].map((node) => node.textContent).join(". "));
  };
  const all = () => {
    read();
    const {reliability, errors: e} = found();
    ece.textContent = `Does a confidence of 0.80 mean that 80% are right? Points under the dashed line are too confident, points above it too cautious. On average the two differ by ${percent(reliability.ece)} (expected calibration error).`;
    errors.textContent = e.n ? `Categories that are close in the hierarchy are alike: an error close to zero goes to a lookalike. ${percent(e.same_level2 / e.n, 0)} of ${plural(e.n, "error")} stay inside the family (level 2).` : "No errors.";
    for (const chart of charts) chart.redraw();
  };
  slider.addEventListener("input", () => { state.threshold = slider.value / 100; read(); charts[0].redraw(); });
  view.append(el("div", {class: "tools"}, toggle("System", Object.entries(SYSTEM_NAMES), state.system, (system) => { state.system = system; all(); }),
    Object.keys(D.values.metrics).length > 1 ? chooser("Per", Object.keys(D.values.metrics).map((u) => [u, u]), state.unit, (unit) => { state.unit = unit; all(); }) : null),
  card("How many answers to accept", "Answers whose confidence is at or above the threshold go into the shop as they are, the others to a person. Weighed as the whole catalogue is mixed; brackets hold 95% intervals. Choose a threshold on validation, whose figures “shelfsort score --min-confidence” prints too; what it gave on the test split stands beside them.", sentence, el("div", {class: "along"}, slider), charts[0]),
  el("div", {class: "columns"}, el("div", {class: "card"}, el("h2", {}, "Is the confidence honest?"), ece, charts[1]), card("How sure the answers are", `How many ${D.unit}s have which confidence.`, charts[2])),
  el("div", {class: "columns"}, el("div", {class: "card"}, el("h2", {}, "How far errors go"), errors, charts[3]), sizesCard()));
  all();
}

// stage2/coverage.json: of products, by both stages.
const expected = (state) => (state.system === "two_stage" && state.unit === "product" ? D.values.findings.coverage_val_b : null);

// Space beside the plot, and in report.css beside the slider, whose thumb thus stands above the dashed line.
const ALONG = {left: 46, right: 16};

function coverageChart(state, found) {
  return makeChart("Coverage and accuracy for each threshold", 300, (colours) => {
    const rows = found().coverage, judged = expected(state), line = (name, key, color, costs, more) => ({type: "line", name, symbol: "none", data: costs.map((r) => [r.threshold, r[key]]), lineStyle: {color, width: 2.5}, itemStyle: {color}, ...more});
    return {
      legend: {top: 0, left: 40, icon: "roundRect", itemHeight: 3, itemWidth: 16, textStyle: {color: colours.muted, fontFamily: colours.sans}},
      grid: {left: ALONG.left, right: ALONG.right, top: 34, bottom: 46}, xAxis: axis(colours, {type: "value", min: 0, max: 1, name: "accept from this confidence on", splitLine: {show: false}}), yAxis: axis(colours, {type: "value", min: 0, max: 1, ...shares}),
      tooltip: tooltip(([p]) => { const at = Math.round(100 * p.data[0]), of = (where, r) => [[`Accepted, ${where}`, percent(r.coverage)], [`Right, ${where}`, interval({...r, value: r.accuracy})], [`Items, ${where}`, whole(r.n)]];
        return [el("b", {}, "≥ " + decimal(rows[at].threshold)), pairsOf([...(judged ? of("val_b", judged[at]) : []), ...of("test", rows[at])])]; }),
      series: [...(judged ? [line("right on val_b", "accuracy", colours.low, judged)] : []), line("accepted of test", "coverage", colours.before, rows), line("right among accepted", "accuracy", colours.accent, rows, {markLine: {symbol: "none", silent: true, label: {show: false}, lineStyle: {color: colours.ink, type: "dashed", width: 1}, data: [{xAxis: state.threshold}]}})],
    };
  });
}

function reliabilityChart(found) {
  return makeChart("Reliability diagram", 300, (colours) => {
    const bins = found().reliability.bins.filter((b) => b.n > 0);
    return {
      grid: {left: 50, right: 16, top: 14, bottom: 46}, xAxis: axis(colours, {type: "value", min: 0, max: 1, name: "confidence", splitLine: {show: false}}), yAxis: axis(colours, {type: "value", min: 0, max: 1, ...shares}),
      tooltip: tooltip((p) => { const b = bins[p.dataIndex]; return [el("b", {}, `Confidence ${decimal(b.low)} – ${decimal(b.high)}`), pairsOf([["Mean confidence", decimal(b.confidence)], ["Right", percent(b.accuracy)], ["Items", whole(b.n)]])]; }, {trigger: "item"}),
      series: [{type: "line", data: [[0, 0], [1, 1]], symbol: "none", silent: true, lineStyle: {color: colours.faint, type: "dashed", width: 1}},
        {type: "scatter", data: bins.map((b) => [b.confidence, b.accuracy]), symbolSize: (_, p) => 6 + 26 * Math.sqrt(bins[p.dataIndex].share), itemStyle: {color: colours.accent, opacity: 0.85}}],
    };
  });
}

function confidenceChart(found) {
  return makeChart("Histogram of the confidence", 318, (colours) => {
    const bins = found().reliability.bins, bar = (name, color, of) => ({type: "bar", name, stack: "all", barCategoryGap: "12%", data: bins.map(of), itemStyle: {color}});
    return {
      legend: {top: 0, left: 50, icon: "roundRect", itemHeight: 8, itemWidth: 12, textStyle: {color: colours.muted, fontFamily: colours.sans}},
      grid: {left: 56, right: 12, top: 34, bottom: 46}, xAxis: axis(colours, {type: "category", data: bins.map((b) => decimal(b.low)), name: "confidence, from", splitLine: {show: false}, axisLabel: {interval: 3}}), yAxis: axis(colours, {type: "value"}),
      tooltip: tooltip(([p]) => { const b = bins[p.dataIndex]; return [el("b", {}, `Confidence ${decimal(b.low)} – ${decimal(b.high)}`), pairsOf([["Right", whole(b.right)], ["Wrong", whole(b.n - b.right)]])]; }),
      series: [bar("right", colours.accent, (b) => b.right), bar("wrong", colours.low, (b) => b.n - b.right)],
    };
  });
}

const span = (b) => (b.low === b.high ? signed(b.low, whole) : `${signed(b.low, whole)} … ${signed(b.high, whole)}`);

function distanceChart(found) {
  return makeChart("Errors by distance in class index", 300, (colours) => {
    const bins = found().distance;
    return {
      grid: {left: 56, right: 12, top: 14, bottom: 58}, xAxis: axis(colours, {type: "category", data: bins.map((b) => signed(Math.abs(b.low) < Math.abs(b.high) ? b.low : b.high, whole)), name: "places in the hierarchy from the truth to the answer", nameGap: 40, splitLine: {show: false}, axisLabel: {hideOverlap: true}}), yAxis: axis(colours, {type: "value"}),
      tooltip: tooltip(([p]) => [el("b", {}, span(bins[p.dataIndex])), pairsOf([["Errors", whole(bins[p.dataIndex].n)]])]),
      series: [{type: "bar", barCategoryGap: "12%", data: bins.map((b) => b.n), itemStyle: {color: colours.accent}}],
    };
  });
}

function sizesCard() {
  const trained = Float64Array.from(D.columns["category.train_images"]).sort(), natural = Float64Array.from(D.columns["category.images"] || []).sort(), cap = D.values.cap;
  const chart = makeChart("Images per category in ascending order", 300, (colours) => {
    const line = (name, values, color) => ({type: "line", name, symbol: "none", sampling: "lttb", data: Array.from(values, (v, k) => [k + 1, Math.max(v, 0.8)]), lineStyle: {color, width: 2.5}, itemStyle: {color}});
    const series = [...(natural.length ? [line("in the catalogue", natural, colours.before)] : []), line("trained on", trained, colours.accent)];
    if (cap) series[0].markLine = {symbol: "none", silent: true, lineStyle: {color: colours.ink, type: "dashed", width: 1}, label: {formatter: `cap ${cap}`, position: "insideStartTop", color: colours.ink, fontFamily: colours.sans}, data: [{yAxis: cap}]};
    return {
      legend: {top: 0, left: 50, icon: "roundRect", itemHeight: 3, itemWidth: 16, textStyle: {color: colours.muted, fontFamily: colours.sans}},
      grid: {left: 56, right: 16, top: 34, bottom: 46}, xAxis: axis(colours, {type: "value", min: 1, max: D.classes, name: "categories, the smallest first", splitLine: {show: false}, axisLabel: {hideOverlap: true}}), yAxis: axis(colours, {type: "log", min: 1}),
      tooltip: tooltip((parts) => [el("b", {}, "Category " + whole(parts[0].data[0])), pairsOf(parts.map((p) => [p.seriesName, whole(Math.round(p.data[1] < 1 ? 0 : p.data[1]))]))]), series,
    };
  });
  return card("Images per category", (cap ? `Training takes at most ${whole(cap)} images of a category. ` : "Training has no cap. ") + (natural.length ? "" : "The run has no store, so the catalogue’s own sizes are not known."), chart);
}
