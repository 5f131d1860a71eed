// How stage 1 was trained, how long each step took, and how other runs compare.

const hours = (seconds) =>
  missing(seconds)
    ? "–"
    : seconds >= 3600
      ? decimal(seconds / 3600, 1) + " h"
      : seconds >= 60
        ? decimal(seconds / 60, 1) + " min"
        : decimal(seconds, 0) + " s";
const STEPS = {stage1: "Stage 1", stage2: "Stage 2", evaluate: "Evaluation"};

function renderTraining(view) {
  const {epochs, seconds} = D.values.findings.training,
    steps = Object.entries(seconds);
  view.append(
    steps.length
      ? el(
          "div",
          {class: "card"},
          statistics(steps.map(([step, s]) => [STEPS[step] || step, hours(s)])),
        )
      : empty("No step of this run recorded its time."),
  );
  if (!epochs.length) view.append(empty("This run has no training log (stage1/metrics.jsonl)."));
  else {
    view.append(
      el(
        "div",
        {class: "columns"},
        card(
          "Loss",
          null,
          epochChart("Loss", epochs, [
            ["train_loss", "training", "before"],
            ["val_loss", "validation", "accent"],
          ]),
        ),
        card(
          "Accuracy on validation",
          null,
          epochChart(
            "Accuracy on validation",
            epochs,
            [
              ["val_top5", "among first five", "before"],
              ["val_top1", "first", "accent"],
            ],
            shares,
            percent,
          ),
        ),
      ),
      el(
        "div",
        {class: "columns"},
        card(
          "Learning rate",
          null,
          epochChart("Learning rate", epochs, [["lr", "learning rate", "accent"]]),
        ),
        card(
          "Images per second",
          null,
          epochChart("Images per second", epochs, [["images_per_second", "images/s", "accent"]], {
            log: true,
          }),
        ),
      ),
      epochsCard(epochs),
    );
  }
  renderRuns(view);
}

// Speed wants a logarithmic axis: a head that is trained on stored features is hundreds of times as
// fast as the whole network.
function epochChart(label, epochs, lines, scaled = {}, text = (v) => Number(v).toPrecision(3)) {
  return makeChart(label + " over the epochs", 240, (colours, width, height) => {
    const tuned = epochs.findIndex((e) => e.phase !== epochs[0].phase),
      values = lines
        .flatMap(([key]) => epochs.map((e) => e[key]))
        .filter((v) => !missing(v) && (!scaled.log || v > 0));
    const top = lines.length > 1 ? 44 : 24,
      range = {
        min: scaled.log ? Math.min(...values) : 0,
        max: Math.max(...values),
        text: (v) => String(Number(v.toPrecision(3))),
        ...scaled,
      };
    const p = plane(colours, width, height, {
      left: 58,
      top,
      bottom: 44,
      x: {
        min: 0.5,
        max: epochs.length + 0.5,
        name: "epoch",
        ticks: epochs.map((_, k) => k + 1).filter((k) => k % Math.ceil(epochs.length / 20) === 0),
      },
      y: range,
    });
    const of = (key) => epochs.map((e, k) => [k + 1, e[key]]);
    return [
      ...p.axes,
      ...(lines.length > 1
        ? legend(
            colours,
            lines.map(([, name, colour]) => [name, colours[colour]]),
            58,
          )
        : []),
      ...(tuned > 0
        ? [
            line(
              [
                [tuned + 0.5, range.min],
                [tuned + 0.5, range.max],
              ],
              p,
              dashed(colours.faint),
            ),
            svg("text", {x: p.x(tuned + 0.5) + 4, y: top - 4}, epochs[tuned].phase),
          ]
        : []),
      ...lines.map(([key, , colour]) => line(of(key), p, {stroke: colours[colour]})),
      ...lines.flatMap(([key, , colour]) =>
        of(key)
          .filter(([, v]) => !missing(v))
          .map(([k, v]) => svg("circle", {cx: p.x(k), cy: p.y(v), r: 2.5, fill: colours[colour]})),
      ),
      ...columnsOf(
        epochs.map((_, k) => k + 1),
        p,
        (k) => [
          el("b", {}, "Epoch " + (k + 1)),
          pairsOf(
            lines.map(([key, name]) => [
              name,
              missing(epochs[k][key]) ? "–" : text(epochs[k][key]),
            ]),
          ),
        ],
      ),
    ];
  });
}

function epochsCard(epochs) {
  const titles = {
    phase: "Phase",
    epoch: "Epoch",
    train_loss: "Training loss",
    val_loss: "Validation loss",
    val_top1: "Top 1",
    val_top5: "Top 5",
    lr: "Learning rate",
    images_per_second: "Images/s",
    seconds: "Time",
  };
  const texts = {
    val_top1: percent,
    val_top5: percent,
    seconds: hours,
    images_per_second: (v) => decimal(v, 0),
    lr: (v) => Number(v).toExponential(1),
    train_loss: (v) => decimal(v, 3),
    val_loss: (v) => decimal(v, 3),
  };
  const columns = Object.entries(titles).map(([key, title]) => ({
    title,
    numeric: key !== "phase",
    value: (i) => epochs[i][key],
    text: (i) =>
      missing(epochs[i][key])
        ? "–"
        : texts[key]
          ? texts[key](epochs[i][key])
          : String(epochs[i][key]),
  }));
  return card(
    "Epochs",
    null,
    makeTable({name: "epochs", label: "Epochs", rows: epochs.length, columns, page: 15}),
  );
}

function renderRuns(view) {
  const runs = D.values.runs;
  if (runs.length < 2) {
    view.append(
      card(
        "Comparison",
        null,
        empty("This report holds one run. “shelfsort report runs/a runs/b” compares several."),
      ),
    );
    return;
  }
  const unit = D.values.compared,
    score = (run, system, metric = "top1") => run.metrics.natural[system][metric],
    total = (run) => Object.values(run.seconds).reduce((a, b) => a + b, 0);
  const columns = [
    {title: "Run", value: (i) => runs[i].name},
    {title: "Model", value: (i) => runs[i].backbone},
    countColumn(`Evaluated ${unit}s`, (i) => runs[i].evaluated),
    ...["two_stage", "shifted", "stage1"]
      .map((s) => intervalColumns(SYSTEM_NAMES[s], (i) => score(runs[i], s)))
      .flat(),
    ...intervalColumns("Macro F1", (i) => score(runs[i], "two_stage", "macro_f1")),
    {
      title: "Time",
      numeric: true,
      value: (i) => total(runs[i]),
      text: (i) => hours(total(runs[i])),
    },
  ];
  view.append(
    card(
      "Runs compared",
      `Accuracy per ${unit} on the natural mix, with 95% intervals, and the ` +
        "hours of all steps that recorded them.",
      ...runs.slice(1).map(otherStore),
      runsChart(runs, score, total),
      makeTable({name: "runs", label: "Runs compared", rows: runs.length, columns}),
    ),
    ...runs.slice(1).map((run, k) => movedCard(run, k + 1)),
  );
}

// Accuracies over different photos say little of the models.
function otherStore(run) {
  if (!run.other_store) return null;
  const unit = D.values.compared,
    [first] = D.values.runs;
  return el(
    "p",
    {class: "notice"},
    `${run.name} was evaluated on another store: of its ` +
      `${plural(run.evaluated, unit)} and the ${whole(first.evaluated)} of ` +
      `${first.name}, ${whole(run.common)} are the same with the same ` +
      `category. A difference may come from the ${unit}s and not from the ` +
      "model.",
  );
}

function runsChart(runs, score, total) {
  const systems = [
    ["stage 1 alone", "line", "stage1"],
    ["stage 1, adjusted", "before", "shifted"],
    ["both stages", "accent", "two_stage"],
  ];
  return makeChart("Accuracy and time of each run", 60 + 84 * runs.length, (colours, width) => {
    const left = 120,
      bar = scale({min: 0, max: 1}, 0, Math.max(60, width - left - 150));
    const text = (x, y, content, kind = "") => svg("text", {x, y, class: kind}, content);
    return [
      ...legend(
        colours,
        systems.map(([name, colour]) => [name, colours[colour]]),
        left,
      ),
      ...runs.flatMap((run, k) => {
        const top = 36 + 84 * k,
          value = ([, , system]) => score(run, system).value;
        return [
          text(left - 8, top + 34, fitted(run.name, left - 12), "end"),
          text(left, top + 72, `all steps: ${hours(total(run))}`),
          ...systems.flatMap((system, n) => [
            svg("rect", {
              x: left,
              y: top + 19 * n,
              width: bar(value(system)),
              height: 14,
              rx: 2,
              fill: colours[system[1]],
            }),
            text(left + bar(value(system)) + 6, top + 12 + 19 * n, percent(value(system))),
          ]),
        ];
      }),
    ];
  });
}

const chanceText = (p) => (missing(p) ? "" : p < 0.001 ? "< 0.001" : decimal(p, 3));

// A number of items that only one of two runs gets right leads to their photos.
function movedLink(number, kind, c, n) {
  if (!n || !D.columns[`item.run${number}`]) return whole(n);
  const address = itemsAddress({
    ...ANY_ITEM,
    true: idOf(c),
    run: `${number}-${kind}`,
    show: "photos",
  });
  return el(
    "a",
    {href: "#" + address, "aria-label": `${plural(n, D.unit)}: show photos`},
    whole(n),
  );
}

function movedCard(run, number) {
  const unit = D.values.compared,
    of = (name) => D.columns[`run${number}.${name}`],
    mine = scoreOf("two_stage", "recall", unit),
    {common, gained, lost, change, categories} = run.comparison,
    sure = new Set([...categories.better, ...categories.worse]);
  const rows = Array.from({length: D.classes}, (_, c) => c).filter(
    (c) => !missing(of("chance")[c]),
  );
  const columns = [
    ...categoryColumns("Category", (c) => c),
    ...[
      [`Right in ${run.name} only`, "gained"],
      [`Right in ${D.values.name} only`, "lost"],
    ].map(([title, kind]) => ({
      ...countColumn(title, (c) => of(kind)[c], "A number leads to the photos"),
      cell: (c) => movedLink(number, kind, c, of(kind)[c]),
    })),
    {
      title: "p",
      hint: "Paired sign test over independent products: how often chance alone moves as much",
      numeric: true,
      value: (c) => of("chance")[c],
      cell: (c) =>
        el(
          "span",
          {},
          chanceText(of("chance")[c]),
          sure.has(c) ? null : el("small", {class: "chance"}, "may be chance"),
        ),
    },
    rateColumn(D.values.name, (c) => mine[c]),
    rateColumn(run.name, (c) => of("recall")[c]),
    pointsColumn("Difference", (c) => of("recall")[c] - mine[c], "In percentage points"),
    countColumn(`Evaluated ${unit}s`, (c) => D.columns[unit + ".support"][c]),
  ];
  const {low, high} = change,
    verdict = low <= 0 && high >= 0 ? " This may be chance: the interval holds zero." : "";
  return card(
    `What changed: ${run.name}`,
    `Of the ${plural(common, unit)} that both evaluated in the same category, ` +
      `${whole(gained)} are ` +
      `right in ${run.name} only and ${whole(lost)} in ${D.values.name} only: ` +
      `${pointsInterval(change)} percentage points in the catalogue mix.${verdict} ` +
      `Surely better: ${plural(categories.better.length, "category")}, surely worse: ` +
      `${whole(categories.worse.length)} (false discovery rate 5%). First those that chance ` +
      "explains least.",
    makeTable({
      name: "moved-" + number,
      label: "What changed",
      rows,
      columns,
      sort: [3, false],
      unit,
    }),
  );
}
