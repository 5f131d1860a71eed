// How stage 1 was trained, how long each step took, and how other runs compare.

const hours = (seconds) => (missing(seconds) ? "–" : seconds >= 3600 ? decimal(seconds / 3600, 1) + " h" : seconds >= 60 ? decimal(seconds / 60, 1) + " min" : decimal(seconds, 0) + " s");
const STEPS = {stage1: "Stage 1", stage2: "Stage 2", evaluate: "Evaluation"};

function renderTraining(view) {
  const {epochs, seconds} = D.values.findings.training, steps = Object.entries(seconds);
  view.append(steps.length ? el("div", {class: "card"}, statistics(steps.map(([step, s]) => [STEPS[step] || step, hours(s)]))) : empty("No step of this run recorded its time."));
  if (!epochs.length) view.append(empty("This run has no training log (stage1/metrics.jsonl)."));
  else {
    view.append(el("div", {class: "columns"},
      card("Loss", null, epochChart("Loss", epochs, [["train_loss", "training", "before"], ["val_loss", "validation", "accent"]])),
      card("Accuracy on validation", null, epochChart("Accuracy on validation", epochs, [["val_top5", "among first five", "before"], ["val_top1", "first", "accent"]], {type: "value", ...shares}, percent))),
    el("div", {class: "columns"}, card("Learning rate", null, epochChart("Learning rate", epochs, [["lr", "learning rate", "accent"]])),
      card("Images per second", null, epochChart("Images per second", epochs, [["images_per_second", "images/s", "accent"]], {type: "log"}))), epochsCard(epochs));
  }
  renderRuns(view);
}

// Speed wants a logarithmic axis: a head that is trained on stored features is hundreds of times as fast as the whole network.
function epochChart(label, epochs, lines, scale = {type: "value", scale: true}, text = (v) => Number(v).toPrecision(3)) {
  return makeChart(label + " over the epochs", 240, (colours) => {
    const tuned = epochs.findIndex((e) => e.phase !== epochs[0].phase);
    const series = lines.map(([key, name, colour]) => ({type: "line", name, symbolSize: 5, showSymbol: epochs.length < 40, data: epochs.map((e) => (missing(e[key]) ? null : e[key])), lineStyle: {color: colours[colour], width: 2.5}, itemStyle: {color: colours[colour]}}));
    if (tuned > 0) series[0].markLine = {symbol: "none", silent: true, lineStyle: {color: colours.faint, type: "dashed", width: 1}, label: {formatter: epochs[tuned].phase, color: colours.muted, fontFamily: colours.sans, position: "end", rotate: 0}, data: [{xAxis: tuned}]};
    return {
      legend: lines.length > 1 ? {top: 0, right: 14, icon: "roundRect", itemHeight: 3, itemWidth: 16, textStyle: {color: colours.muted, fontFamily: colours.sans}} : undefined,
      grid: {left: 58, right: 14, top: lines.length > 1 ? 44 : 24, bottom: 44}, xAxis: axis(colours, {type: "category", data: epochs.map((_, k) => k + 1), name: "epoch", splitLine: {show: false}}), yAxis: axis(colours, scale),
      tooltip: tooltip((parts) => [el("b", {}, "Epoch " + parts[0].axisValue), pairsOf(parts.map((p) => [p.seriesName, text(p.data)]))]), series,
    };
  });
}

function epochsCard(epochs) {
  const titles = {phase: "Phase", epoch: "Epoch", train_loss: "Training loss", val_loss: "Validation loss", val_top1: "Top 1", val_top5: "Top 5", lr: "Learning rate", images_per_second: "Images/s", seconds: "Time"};
  const texts = {val_top1: percent, val_top5: percent, seconds: hours, images_per_second: (v) => decimal(v, 0), lr: (v) => Number(v).toExponential(1), train_loss: (v) => decimal(v, 3), val_loss: (v) => decimal(v, 3)};
  const columns = Object.entries(titles).map(([key, title]) => ({title, numeric: key !== "phase", value: (i) => epochs[i][key], text: (i) => (missing(epochs[i][key]) ? "–" : texts[key] ? texts[key](epochs[i][key]) : String(epochs[i][key]))}));
  return card("Epochs", null, makeTable({name: "epochs", label: "Epochs", rows: epochs.length, columns, page: 15}));
}

function renderRuns(view) {
  const runs = D.values.runs;
  if (runs.length < 2) {
    view.append(card("Comparison", null, empty("This report holds one run. “shelfsort report runs/a runs/b” compares several.")));
    return;
  }
  const unit = D.values.compared, score = (run, system, metric = "top1") => run.metrics.natural[system][metric], total = (run) => Object.values(run.seconds).reduce((a, b) => a + b, 0);
  const columns = [{title: "Run", value: (i) => runs[i].name}, {title: "Model", value: (i) => runs[i].backbone},
    countColumn(`Evaluated ${unit}s`, (i) => runs[i].evaluated),
    ...["two_stage", "shifted", "stage1"].map((s) => intervalColumns(SYSTEM_NAMES[s], (i) => score(runs[i], s))).flat(),
    ...intervalColumns("Macro F1", (i) => score(runs[i], "two_stage", "macro_f1")), {title: "Time", numeric: true, value: (i) => total(runs[i]), text: (i) => hours(total(runs[i]))}];
  view.append(card("Runs compared", `Accuracy per ${unit} on the natural mix, with 95% intervals, and the hours of all steps that recorded them.`, ...runs.slice(1).map(otherStore),
    runsChart(runs, score, total), makeTable({name: "runs", label: "Runs compared", rows: runs.length, columns})), ...runs.slice(1).map((run, k) => movedCard(run, k + 1)));
}

// Accuracies over different photos say little of the models.
function otherStore(run) {
  if (!run.other_store) return null;
  const unit = D.values.compared, [first] = D.values.runs;
  return el("p", {class: "notice"}, `${run.name} was evaluated on another store: of its ${plural(run.evaluated, unit)} and the ${whole(first.evaluated)} of ${first.name}, ${whole(run.common)} are the same with the same category. A difference may come from the ${unit}s and not from the model.`);
}

function runsChart(runs, score, total) {
  return makeChart("Accuracy and hours of each run", 80 + 84 * runs.length, (colours, width) => {
    const names = runs.map((r) => r.name), half = width > 620, y = (gridIndex, show) => axis(colours, {type: "category", data: names, inverse: true, gridIndex, splitLine: {show: false}, axisLabel: {show, width: 110, overflow: "truncate"}});
    const bar = (name, color, of, k = 0) => ({type: "bar", name, xAxisIndex: k, yAxisIndex: k, data: runs.map(of), itemStyle: {color, borderRadius: 2}, barMaxWidth: 16, label: {show: true, position: "right", color: colours.muted, fontFamily: colours.sans, formatter: (p) => (k ? hours(p.value * 3600) : percent(p.value))}});
    return {
      legend: {top: 0, left: 120, data: ["stage 1 alone", "stage 1, adjusted", "both stages"], icon: "roundRect", itemHeight: 8, itemWidth: 12, textStyle: {color: colours.muted, fontFamily: colours.sans}},
      grid: [{left: 120, right: half ? "40%" : 50, top: 30, bottom: 30}, {left: half ? "66%" : "200%", right: 60, top: 30, bottom: 30}],
      xAxis: [axis(colours, {type: "value", min: 0, max: 1, ...shares}), axis(colours, {type: "value", gridIndex: 1, axisLabel: {formatter: (v) => v + " h"}, splitNumber: 3})], yAxis: [y(0, true), y(1, false)],
      series: [bar("stage 1 alone", colours.line, (r) => score(r, "stage1").value), bar("stage 1, adjusted", colours.before, (r) => score(r, "shifted").value), bar("both stages", colours.accent, (r) => score(r, "two_stage").value), bar("hours", colours.faint, (r) => total(r) / 3600, 1)],
    };
  });
}

function movedCard(run, number) {
  const unit = D.values.compared, other = D.columns[`run${number}.recall`], mine = scoreOf("two_stage", "recall", unit), support = D.columns[unit + ".support"];
  const rows = Array.from({length: D.classes}, (_, c) => c).filter((c) => !missing(mine[c]) && !missing(other[c]));
  const columns = [...categoryColumns("Category", (c) => c), rateColumn(D.values.name, (c) => mine[c]), rateColumn(run.name, (c) => other[c]),
    pointsColumn("Difference, points", (c) => other[c] - mine[c]),
    {title: `${unit === "product" ? "Products" : "Images"} at stake`, numeric: true, value: (c) => Math.abs(other[c] - mine[c]) * support[c], text: (c) => decimal(Math.abs(other[c] - mine[c]) * support[c], 1)},
    countColumn(`Evaluated ${unit}s`, (c) => support[c])];
  return card(`Categories that moved most: ${run.name}`, `Accuracy with both stages. First those where most ${unit}s are at stake: the difference times the evaluated ${unit}s.`, makeTable({name: "moved-" + number, label: "Categories that moved most", rows, columns, sort: [4, true], support: (c) => support[c], unit}));
}
