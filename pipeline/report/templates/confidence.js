// Distributions: what a threshold on the confidence gives, how honest the confidence is, where
// errors go, how large categories are.

function renderConfidence(view) {
  const state = {system: "two_stage", unit: D.unit, threshold: 0.5};
  const found = () => D.values.findings[state.unit][state.system];
  const charts = [
    coverageChart(state, found),
    reliabilityChart(found),
    confidenceChart(found),
    distanceChart(found),
  ];
  const sentence = el("p", {class: "sentence", id: "coverage-sentence", "aria-live": "polite"});
  const ece = el("p", {class: "note", id: "ece"}),
    errors = el("p", {class: "note"});
  const slider = el("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    value: 50,
    id: "coverage-slider",
    "aria-label": "Accept answers of at least this confidence",
  });
  const tables = CONFIDENCE_TABLES.map(() => el("details", {}));
  const read = () => {
    const at = Math.round(100 * state.threshold),
      judged = expected(state)?.[at],
      tested = found().coverage[at];
    const said = (cost) =>
      [
        el("b", {}, percent(cost.coverage, 0)),
        ` of ${state.unit}s, `,
        missing(cost.accuracy)
          ? "none to judge"
          : [el("b", {}, percent(cost.accuracy)), ` right [${ends(cost)}]`],
        ` (n ${whole(cost.n)})`,
      ].flat();
    const rows = [
      ...(judged ? [["On held-out products", judged]] : []),
      ["On the test split", tested],
    ];
    sentence.replaceChildren(
      `Accept a confidence ≥ ${decimal(tested.threshold)}`,
      ...rows.map(([where, cost]) => el("span", {}, where + ": ", ...said(cost))),
      el(
        "small",
        {},
        `${percent(1 - tested.coverage, 0)} of the test split go to a person; ` +
          `without a threshold ${percent(found().coverage[0].accuracy)} are right`,
      ),
    );
    slider.setAttribute(
      "aria-valuetext",
      [...sentence.childNodes].map((node) => node.textContent).join(". "),
    );
  };
  const all = () => {
    read();
    const {reliability, errors: e} = found();
    ece.textContent =
      "Does a confidence of 0.80 mean that 80% are right? Points under the " +
      "dashed line are too confident, points above it too cautious. On average " +
      `the two differ by ${percent(reliability.ece)} (expected calibration ` +
      "error).";
    errors.textContent = e.n
      ? "Categories that are close in the hierarchy are alike: an error close to " +
        `zero goes to a lookalike. ${percent(e.same_level2 / e.n, 0)} of ` +
        `${plural(e.n, "error")} stay inside the family (level 2).`
      : "No errors.";
    for (const chart of charts) chart.redraw();
    tables.forEach((box, k) => {
      box.replaceChildren(
        el("summary", {}, "As a table"),
        confidenceTable(CONFIDENCE_TABLES[k], found()),
      );
    });
  };
  slider.addEventListener("input", () => {
    state.threshold = slider.value / 100;
    setAddress("confidence/" + slider.value);
    read();
    charts[0].redraw();
  });
  view.append(
    el(
      "div",
      {class: "tools"},
      toggle("System", Object.entries(SYSTEM_NAMES), state.system, (system) => {
        state.system = system;
        all();
      }),
      Object.keys(D.values.metrics).length > 1
        ? chooser(
            "Per",
            Object.keys(D.values.metrics).map((u) => [u, u]),
            state.unit,
            (unit) => {
              state.unit = unit;
              all();
            },
          )
        : null,
    ),
    card(
      "How many answers to accept",
      "Answers whose confidence is at or above the threshold go into the shop " +
        "as they are, the others to a person. Weighted to the catalogue mix; " +
        "brackets hold 95% intervals. Choose a threshold on held-out products " +
        "(of validation and reserve), whose figures “shelfsort score " +
        "--min-confidence” prints too; what it gave on the test split stands " +
        "beside them.",
      sentence,
      el("div", {class: "along"}, slider),
      charts[0],
      tables[0],
    ),
    whatIfCard(),
    el(
      "div",
      {class: "columns"},
      el(
        "div",
        {class: "card"},
        el("h2", {}, "Is the confidence honest?"),
        ece,
        charts[1],
        tables[1],
      ),
      card(
        "How sure the answers are",
        "How many answers have which confidence; the table beside has the numbers.",
        charts[2],
      ),
    ),
    el(
      "div",
      {class: "columns"},
      el("div", {class: "card"}, el("h2", {}, "How far errors go"), errors, charts[3], tables[2]),
      sizesCard(),
    ),
    trainedCard(),
  );
  all();
}

// The charts as tables, of what was found.
const CONFIDENCE_TABLES = [
  ({coverage: rows}) => ({
    name: "coverage",
    label: "Coverage and accuracy for each threshold",
    rows,
    columns: [
      decimalColumn("Confidence from", (i) => rows[i].threshold),
      rateColumn("Accepted of test", (i) => rows[i].coverage),
      ...intervalColumns("Right among accepted", (i) => ({...rows[i], value: rows[i].accuracy})),
      countColumn("Evaluated", (i) => rows[i].n),
    ],
  }),
  ({reliability: {bins: rows}}) => ({
    name: "reliability",
    label: "Confidence and accuracy",
    rows,
    columns: [
      decimalColumn("Confidence from", (i) => rows[i].low),
      countColumn("Evaluated", (i) => rows[i].n),
      countColumn("Right", (i) => rows[i].right),
      decimalColumn("Mean confidence", (i) => rows[i].confidence),
      rateColumn("Right, weighted to the catalogue mix", (i) => rows[i].accuracy),
    ],
  }),
  ({distance: rows}) => ({
    name: "distance",
    label: "Errors by distance",
    rows,
    columns: [
      {title: "Categories from the truth to the answer", value: (i) => span(rows[i])},
      countColumn("Errors", (i) => rows[i].n),
    ],
  }),
];

function confidenceTable(make, found) {
  const {rows, ...table} = make(found);
  return makeTable({...table, rows: rows.length, page: 25});
}

// The address may name a threshold in percent: #confidence/62.
function showThreshold(threshold) {
  const slider = $("coverage-slider");
  if (!/^\d+$/.test(threshold || "") || slider.value === threshold) return;
  slider.value = threshold;
  slider.dispatchEvent(new Event("input"));
}

// Counted on stage2/heldout.npz: of products, by both stages.
const expected = (state) =>
  state.system === "two_stage" && state.unit === "product"
    ? D.values.findings.coverage_val_b
    : null;

// Space beside the plot, and in report.css beside the slider, whose thumb thus stands above the
// dashed line.
const ALONG = {left: 46, right: 16};

function coverageChart(state, found) {
  const host = makeChart(
    "Coverage and accuracy for each threshold",
    300,
    (colours, width, height) => {
      const rows = found().coverage,
        judged = expected(state);
      const p = plane(colours, width, height, {
        ...ALONG,
        top: 34,
        x: {min: 0, max: 1, name: "accept from this confidence on", text: decimal},
        y: shares,
      });
      host.plane = p;
      const lines = [
        ...(judged ? [["right among held-out", colours.low, judged, "accuracy"]] : []),
        ["accepted of test", colours.before, rows, "coverage"],
        ["right among accepted", colours.accent, rows, "accuracy"],
      ];
      const of = (where, r) => [
        [`Accepted, ${where}`, percent(r.coverage)],
        [`Right, ${where}`, interval({...r, value: r.accuracy})],
        [`${state.unit}s, ${where}`, whole(r.n)],
      ];
      const at = p.x(state.threshold);
      return [
        ...p.axes,
        ...legend(colours, lines, ALONG.left),
        ...lines.map(([, colour, costs, key]) =>
          line(
            costs.map((r) => [r.threshold, r[key]]),
            p,
            {stroke: colour},
          ),
        ),
        svg("line", {
          class: "threshold",
          x1: at,
          x2: at,
          y1: p.area.top,
          y2: p.area.bottom,
          ...dashed(colours.ink),
        }),
        ...columnsOf(
          rows.map((r) => r.threshold),
          p,
          (k) => [
            el("b", {}, "≥ " + decimal(rows[k].threshold)),
            pairsOf([...(judged ? of("held-out", judged[k]) : []), ...of("test", rows[k])]),
          ],
        ),
      ];
    },
  );
  return host;
}

function reliabilityChart(found) {
  return makeChart("Reliability diagram", 300, (colours, width, height) => {
    const bins = found().reliability.bins.filter((b) => b.n > 0);
    const p = plane(colours, width, height, {
      x: {min: 0, max: 1, name: "confidence", text: decimal},
      y: shares,
    });
    const content = (b) => [
      el("b", {}, `Confidence ${decimal(b.low)} – ${decimal(b.high)}`),
      pairsOf([
        ["Mean confidence", decimal(b.confidence)],
        ["Right", percent(b.accuracy)],
        ["Evaluated", whole(b.n)],
      ]),
    ];
    return [
      ...p.axes,
      line(
        [
          [0, 0],
          [1, 1],
        ],
        p,
        dashed(colours.faint),
      ),
      ...bins.map((b) =>
        hinted(
          svg("circle", {
            cx: p.x(b.confidence),
            cy: p.y(b.accuracy),
            r: 3 + 13 * Math.sqrt(b.share),
            fill: colours.accent,
            opacity: 0.85,
          }),
          () => content(b),
        ),
      ),
    ];
  });
}

function confidenceChart(found) {
  return barChart("Histogram of the confidence", 318, () => found().reliability.bins, {
    name: "confidence, from",
    text: (b) => decimal(b.low),
    every: 4,
    parts: [
      ["right", "accent", (b) => b.right],
      ["wrong", "low", (b) => b.n - b.right],
    ],
    content: (b) => [
      el("b", {}, `Confidence ${decimal(b.low)} – ${decimal(b.high)}`),
      pairsOf([
        ["Right", whole(b.right)],
        ["Wrong", whole(b.n - b.right)],
      ]),
    ],
  });
}

const span = (b) =>
  b.low === b.high ? signed(b.low, whole) : `${signed(b.low, whole)} … ${signed(b.high, whole)}`;

function distanceChart(found) {
  return barChart("Errors by distance in class index", 300, () => found().distance, {
    name: "categories in the hierarchy from the truth to the answer",
    text: (b) => signed(Math.abs(b.low) < Math.abs(b.high) ? b.low : b.high, whole),
    parts: [["errors", "accent", (b) => b.n]],
    content: (b) => [el("b", {}, span(b)), pairsOf([["Errors", whole(b.n)]])],
  });
}

function sizesCard() {
  const trained = Float64Array.from(D.columns["category.train_images"]).sort(),
    natural = Float64Array.from(D.columns["category.images"] || []).sort(),
    cap = D.values.cap;
  const chart = makeChart(
    "Images per category in ascending order",
    300,
    (colours, width, height) => {
      const lines = [
        ...(natural.length ? [["in the catalogue", colours.before, natural]] : []),
        ["trained on", colours.accent, trained],
      ];
      const places = Array.from({length: Math.min(D.classes, 300)}, (_, k) =>
        Math.round((k * (D.classes - 1)) / Math.max(1, Math.min(D.classes, 300) - 1)),
      );
      const most = Math.max(10, ...lines.map(([, , values]) => values[D.classes - 1]));
      const p = plane(colours, width, height, {
        left: 56,
        top: 34,
        x: {min: 1, max: Math.max(2, D.classes), name: "categories, the smallest first"},
        y: {min: 0.8, max: most, log: true},
      });
      return [
        ...p.axes,
        ...legend(colours, lines, 56),
        ...(cap
          ? [
              line(
                [
                  [1, cap],
                  [D.classes, cap],
                ],
                p,
                dashed(colours.ink),
              ),
              svg("text", {x: p.area.left + 4, y: p.y(cap) - 5}, `cap ${cap}`),
            ]
          : []),
        ...lines.map(([, colour, values]) =>
          line(
            places.map((k) => [k + 1, Math.max(values[k], 0.8)]),
            p,
            {stroke: colour},
          ),
        ),
        ...columnsOf(
          places.map((k) => k + 1),
          p,
          (at) => [
            el("b", {}, "Category " + whole(places[at] + 1)),
            pairsOf(lines.map(([name, , values]) => [name, whole(values[places[at]])])),
          ],
        ),
      ];
    },
  );
  return card(
    "Images per category",
    (cap
      ? `Training takes at most ${whole(cap)} images of a category. `
      : "Training has no cap. ") +
      (natural.length
        ? ""
        : "The run has no store, so the catalogue’s own sizes " + "are not known. ") +
      "The table of all categories has the numbers.",
    chart,
  );
}

// Do categories with few training images do worse?
function trainedCard() {
  const rows = D.values.findings[D.unit].by_training_images;
  const chart = makeChart(
    "Accuracy by training images of the category",
    260,
    (colours, width, height) => {
      const name = ({low, high}) => (low < high ? `${whole(low)}–${whole(high)}` : whole(low));
      const p = plane(colours, width, height, {
        x: {
          min: -0.5,
          max: rows.length - 0.5,
          ticks: [...rows.keys()],
          text: (k) => name(rows[k]),
          name: "training images of the category",
        },
        y: shares,
      });
      const content = (row) => [
        el("b", {}, `${name(row)} training images`),
        pairsOf([
          ["Accuracy", interval(row.accuracy)],
          [`Evaluated ${D.unit}s`, whole(row.accuracy.n)],
          ["Categories", whole(row.categories)],
        ]),
      ];
      return [
        ...p.axes,
        ...rows.flatMap((row, k) => [
          line(
            [
              [k, row.accuracy.low],
              [k, row.accuracy.high],
            ],
            p,
            {stroke: colours.before},
          ),
          svg("circle", {cx: p.x(k), cy: p.y(row.accuracy.value), r: 5, fill: colours.accent}),
        ]),
        ...columnsOf([...rows.keys()], p, (k) => content(rows[k])),
      ];
    },
  );
  const columns = [
    {title: "Training images from", numeric: true, value: (i) => rows[i].low},
    {title: "to", numeric: true, value: (i) => rows[i].high},
    countColumn("Categories", (i) => rows[i].categories),
    countColumn(`Evaluated ${D.unit}s`, (i) => rows[i].accuracy.n),
    ...intervalColumns(SYSTEM_NAMES.two_stage, (i) => rows[i].accuracy),
  ];
  return card(
    "Accuracy against training images",
    "Accuracy of both stages, with its 95% interval, by how many images the " +
      "true category was trained on: where it rises from left to right, more " +
      "photos of small categories help.",
    chart,
    el(
      "details",
      {},
      el("summary", {}, "As a table"),
      makeTable({
        name: "by-training",
        label: "Accuracy by training images",
        rows: rows.length,
        columns,
      }),
    ),
  );
}
