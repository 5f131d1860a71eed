// The plot of the mission: every category's accuracy under both stages, in hierarchy order or
// sorted.

const MEASURES = [
  ["recall", "Accuracy"],
  ["precision", "Precision"],
  ["f1", "F1"],
];
const SHOWN = [["change", "Stage 2’s change"], ...Object.entries(SYSTEM_NAMES)];
const BANDS = 4;
const bandOf = (support) => (support >= 100 ? 3 : support >= 20 ? 2 : support >= 5 ? 1 : 0);
const RADII = [2.6, 4, 5.6, 8];

const plot = {
  measure: "recall",
  sorting: "hierarchy",
  shown: "change",
  unit: null,
  picked: -1,
  from: -0.5,
  to: 0.5,
};

function arrangePlot() {
  const values = Object.fromEntries(SYSTEMS.map((s) => [s, scoreOf(s, plot.measure, plot.unit)]));
  const before = values.shifted,
    after = values.two_stage,
    main = values[plot.shown] || after;
  const support = D.columns[plot.unit + ".support"];
  const keys = {
    hierarchy: (c) => c,
    value: (c) => main[c],
    support: (c) => support[c],
    change: (c) => after[c] - before[c],
  };
  const key = Float64Array.from({length: D.classes}, (_, c) => keys[plot.sorting](c));
  const order = Uint32Array.from({length: D.classes}, (_, c) => c).filter(
    (c) => support[c] > 0 || plot.sorting === "hierarchy",
  );
  // As in the tables: sorted by a share, categories with few products stand last.
  const few = (c) =>
    (plot.sorting === "value" || plot.sorting === "change") && support[c] < D.minSupport;
  if (plot.sorting !== "hierarchy")
    order.sort(
      (a, b) => missing(key[a]) - missing(key[b]) || few(a) - few(b) || key[a] - key[b] || a - b,
    );
  plot.few = order.reduce((n, c) => n + few(c), 0);
  plot.order = order;
  plot.place = new Int32Array(D.classes).fill(-1);
  order.forEach((c, x) => {
    plot.place[c] = x;
  });
  Object.assign(plot, {values, before, after, support});
}

// The systems whose points are drawn: before and after stage 2, or the one that was chosen.
const plotted = () => (plot.shown === "change" ? ["shifted", "two_stage"] : [plot.shown]);

const plotScale = () => (plot.order.length > 2000 ? 0.62 : plot.order.length > 400 ? 0.8 : 1.15);

function plotBands() {
  const rows = [];
  if (plot.sorting !== "hierarchy") return rows;
  for (let c = 0; c < D.classes; c++) {
    if (c === 0 || D.level1[c] !== D.level1[c - 1])
      rows.push([c - 0.5, c + 0.5, D.level1[c], rows.length % 2]);
    else rows[rows.length - 1][1] = c + 0.5;
  }
  return rows;
}

function drawBands(colours, p) {
  return plotBands().flatMap(([from, to, name, odd]) => {
    const left = Math.max(p.x(from), p.area.left),
      right = Math.min(p.x(to), p.area.right);
    if (right <= left) return [];
    const marks = odd
      ? [
          svg("rect", {
            x: left,
            y: p.area.top,
            width: right - left,
            height: p.area.bottom - p.area.top,
            fill: colours.soft,
          }),
        ]
      : [];
    if (right - left > 56)
      marks.push(
        svg(
          "text",
          {x: left + 2, y: p.area.top - 10, class: "small"},
          fitted(D.values.names.level1[name], right - left - 8, 11),
        ),
      );
    return marks;
  });
}

// The categories in view, by their places.
const inView = () =>
  plot.order.subarray(
    Math.max(0, Math.ceil(plot.from)),
    Math.min(plot.order.length, Math.floor(plot.to) + 1),
  );

// A line from stage 1, adjusted, to both stages for each category, where few enough are in view to
// tell them apart.
function drawChanges(colours, p) {
  const step = p.x(1) - p.x(0);
  if (plot.shown !== "change" || step < 2.2) return [];
  const paths = {right: "", wrong: ""};
  for (const c of inView()) {
    const [before, after] = [plot.before[c], plot.after[c]];
    if (!missing(before) && !missing(after) && before !== after)
      paths[after > before ? "right" : "wrong"] +=
        `M${p.x(plot.place[c]).toFixed(1)} ${p.y(before).toFixed(1)}V${p.y(after).toFixed(1)}`;
  }
  return Object.entries(paths).map(([kind, d]) =>
    svg("path", {d, stroke: colours[kind], "stroke-width": step > 6 ? 2.5 : 1.2, opacity: 0.75}),
  );
}

// Points of one system and band of support are one path of dots: 10,000 of them draw in
// milliseconds.
function drawPoints(colours, p) {
  return plotted().flatMap((system) => {
    const values = plot.values[system],
      last = system === "two_stage",
      paths = Array(BANDS).fill("");
    for (const c of inView())
      if (!missing(values[c]))
        paths[bandOf(plot.support[c])] +=
          `M${p.x(plot.place[c]).toFixed(1)} ${p.y(values[c]).toFixed(1)}h0`;
    return paths.map((d, band) =>
      svg("path", {
        d,
        class: "dots",
        stroke: last ? colours.accent : colours.before,
        "stroke-width": RADII[band] * 2 * plotScale(),
        opacity: last ? 0.62 : 0.45,
      }),
    );
  });
}

function drawPlot(colours, width, height) {
  const p = plane(colours, width, height, {
    left: 46,
    right: 14,
    top: 26,
    bottom: 16,
    x: {min: plot.from, max: plot.to, ticks: []},
    y: shares,
  });
  const picked = plot.picked >= 0 ? plot.place[plot.picked] : -1;
  plot.plane = p;
  return [
    ...drawBands(colours, p),
    ...p.axes,
    ...drawChanges(colours, p),
    ...drawPoints(colours, p),
    ...(picked >= plot.from && picked >= 0 && picked <= plot.to
      ? [
          line(
            [
              [picked, 0],
              [picked, 1],
            ],
            p,
            dashed(colours.ink),
          ),
        ]
      : []),
  ];
}

// The place of the point at most 26 pixels from (x, y), or -1.
function nearestPoint(x, y) {
  const {x: toX, y: toY} = plot.plane,
    middle = Math.round(plot.from + (x - toX(plot.from)) / (toX(1) - toX(0))),
    reach = Math.max(1, Math.ceil(14 / (toX(1) - toX(0))));
  let best = -1,
    least = 26 ** 2;
  for (
    let k = Math.max(0, middle - reach);
    k <= Math.min(plot.order.length - 1, middle + reach);
    k++
  ) {
    for (const system of plotted()) {
      const distance = (toX(k) - x) ** 2 + (toY(plot.values[system][plot.order[k]]) - y) ** 2;
      if (distance < least) [best, least] = [k, distance];
    }
  }
  return best;
}

function describe(c) {
  return [
    el("b", {}, nameOf(c)),
    el("small", {}, pathOf(c)),
    pairsOf([
      ...SYSTEMS.map((s) => [SYSTEM_NAMES[s], percent(plot.values[s][c])]),
      ["Stage 2’s change", points(plot.after[c] - plot.before[c])],
      [`Evaluated ${plot.unit}s`, whole(plot.support[c])],
      ["Trained on", plural(D.columns["category.train_images"][c], "image")],
      ["Id", idOf(c)],
    ]),
  ];
}

function zoomPlot(factor, shift = 0) {
  const middle = (plot.from + plot.to) / 2 + shift * (plot.to - plot.from),
    half = Math.max(4, ((plot.to - plot.from) / 2) * factor);
  showPlot(middle - half, middle + half);
}

function showPlot(from = -0.5, to = plot.order.length - 0.5) {
  const n = plot.order.length,
    width = Math.min(n, to - from),
    start = Math.min(Math.max(-0.5, from), n - 0.5 - width);
  Object.assign(plot, {from: start, to: start + width});
  plot.slider.hidden = width >= n;
  plot.slider.max = Math.round(n - width);
  plot.slider.value = Math.round(start + 0.5);
  plot.chart.redraw();
}

function plotEvents(chart) {
  const inside = (event) => {
    const box = chart.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let drag = null;
  chart.addEventListener("pointerdown", (event) => {
    drag = {x: event.clientX, from: plot.from, to: plot.to, moved: false};
  });
  addEventListener("pointerup", () => {
    setTimeout(() => {
      drag = null;
    });
  });
  chart.addEventListener("pointermove", (event) => {
    if (drag && Math.abs(event.clientX - drag.x) > 4) drag.moved = true;
    if (drag?.moved) {
      const step =
        ((drag.x - event.clientX) * (drag.to - drag.from)) /
        (plot.plane.area.right - plot.plane.area.left);
      tip.hide();
      return showPlot(drag.from + step, drag.to + step);
    }
    const k = nearestPoint(...inside(event));
    chart.style.cursor = k < 0 ? "" : "pointer";
    if (k >= 0) tip.show(event.clientX, event.clientY, ...describe(plot.order[k]));
  });
  chart.addEventListener("click", (event) => {
    const k = nearestPoint(...inside(event));
    if (k >= 0 && !drag?.moved) {
      tip.hide();
      location.hash = "category/" + idOf(plot.order[k]);
    }
  });
  chart.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey) {
        event.preventDefault();
        zoomPlot(event.deltaY < 0 ? 0.7 : 1.4);
      }
    },
    {passive: false},
  );
  chart.addEventListener("keydown", (event) => {
    const action = {ArrowLeft: [1, -0.25], ArrowRight: [1, 0.25], "+": [0.5], "-": [2]}[event.key];
    if (action) {
      zoomPlot(...action);
      event.preventDefault();
    }
  });
}

// Of many categories bands in hierarchy order are stripes: they are sorted into one curve instead.
const MANY = 1000;

function renderPlot(host) {
  plot.unit = D.unit;
  if (D.classes > MANY) Object.assign(plot, {sorting: "value", shown: "two_stage"});
  arrangePlot();
  const chart = makeChart(
    "Accuracy of every category before and after stage 2; the table of all " +
      "categories holds the same numbers",
    360,
    drawPlot,
  );
  const slider = el("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": "Part of the categories in view",
    oninput: () => showPlot(slider.value - 0.5, slider.value - 0.5 + plot.to - plot.from),
  });
  Object.assign(plot, {chart, slider});
  plotEvents(chart);
  const key = el("span", {class: "keys"}),
    few = el("span", {class: "key"});
  const paint = () => {
    key.replaceChildren(
      ...plotted().map((s) =>
        el(
          "span",
          {class: "key"},
          el("i", {class: s === "two_stage" ? "after" : ""}),
          SYSTEM_NAMES[s].toLowerCase(),
        ),
      ),
    );
    few.textContent = plot.few
      ? `the last ${whole(plot.few)} have fewer than ${D.minSupport} ${plot.unit}s`
      : "";
  };
  const again = (change) => {
    Object.assign(plot, change);
    arrangePlot();
    showPlot();
    paint();
  };
  const units = Object.keys(D.values.metrics);
  chart.tabIndex = 0;
  const pick = (c) => {
    plot.picked = c;
    const x = c >= 0 ? plot.place[c] : -1;
    if (x >= 0) showPlot(x - 30, x + 30);
    else showPlot();
  };
  const find = categoryPicker({
    label: "Show a category in the plot",
    placeholder: "Show a category",
    keep: true,
    choose: pick,
    clear: () => pick(-1),
  });
  host.append(
    el("h2", {}, "Accuracy of every category"),
    el(
      "p",
      {class: "note"},
      `Each point is a category; larger points have more evaluated items. ` +
        "A line joins stage 1, adjusted, to both stages: green where stage 2 " +
        "helps, orange where it harms. Drag to pan, Ctrl + wheel or the buttons " +
        "to zoom, click to open a category.",
    ),
    el(
      "div",
      {class: "tools"},
      toggle("Measure", MEASURES, plot.measure, (measure) => again({measure})),
      toggle("Shown", SHOWN, plot.shown, (shown) => again({shown})),
      chooser(
        "Sort by",
        [
          ["hierarchy", "hierarchy"],
          ["value", "value"],
          ["support", "evaluated items"],
          ["change", "change by stage 2"],
        ],
        plot.sorting,
        (sorting) => again({sorting}),
      ),
      units.length > 1
        ? chooser(
            "Per",
            units.map((u) => [u, u]),
            plot.unit,
            (unit) => again({unit}),
          )
        : null,
      find,
    ),
    chart,
    slider,
    el(
      "div",
      {class: "tools"},
      key,
      few,
      el("span", {class: "grow"}),
      el("button", {type: "button", "aria-label": "Zoom in", onclick: () => zoomPlot(0.5)}, "+"),
      el("button", {type: "button", "aria-label": "Zoom out", onclick: () => zoomPlot(2)}, "−"),
      el("button", {type: "button", onclick: () => showPlot()}, "Whole"),
    ),
  );
  paint();
  showPlot();
}

// How accurate the categories of each department (level 1) are: the middle half of them as a bar,
// the median as a point.
function departmentRows() {
  const accuracy = scoreOf("two_stage", "recall"),
    of = D.values.names.level1.map(() => []);
  for (let c = 0; c < D.classes; c++) {
    if (D.support[c] && !missing(accuracy[c])) of[D.level1[c]].push(accuracy[c]);
  }
  const quantile = (sorted, q) => sorted[Math.round(q * (sorted.length - 1))];
  return of
    .map((values, k) => {
      const sorted = values.sort((a, b) => a - b);
      const [low, median, high] = [0.25, 0.5, 0.75].map((q) => quantile(sorted, q));
      return {
        k,
        name: D.values.names.level1[k] || "(no name)",
        n: sorted.length,
        low,
        median,
        high,
      };
    })
    .filter(({n}) => n)
    .sort((a, b) => a.median - b.median || a.k - b.k);
}

function renderDepartments(host) {
  const rows = departmentRows();
  host.hidden = rows.length < 4; // of few the table of the hierarchy says as much
  if (host.hidden) return;
  const chart = makeChart(
    "Accuracy of the categories of each department; the table of the hierarchy holds the figures",
    44 + 22 * rows.length,
    (colours, width, height) => {
      const p = plane(colours, width, height, {
        left: Math.min(260, width * 0.4),
        top: 8,
        bottom: 26,
        x: shares,
        y: {min: -0.5, max: rows.length - 0.5, ticks: []},
      });
      const mark = (row, k) => {
        const y = rows.length - 1 - k,
          label = {x: p.area.left - 8, y: p.y(y) + 4, class: "end"};
        const hit = {
          class: "hit node",
          x: 0,
          width,
          y: p.y(y + 0.5),
          height: p.y(y - 0.5) - p.y(y + 0.5),
        };
        const box = hinted(svg("rect", hit), () => [
          el("b", {}, row.name),
          pairsOf([
            ["Categories", whole(row.n)],
            ["Median accuracy", percent(row.median)],
            ["Middle half", `${percent(row.low)} – ${percent(row.high)}`],
          ]),
        ]);
        box.addEventListener("click", () => {
          tip.hide();
          location.hash = "hierarchy/1-" + row.k;
        });
        return [
          svg("text", label, fitted(row.name, p.area.left - 14)),
          line(
            [
              [row.low, y],
              [row.high, y],
            ],
            p,
            {stroke: colours.before, "stroke-width": 6},
          ),
          svg("circle", {cx: p.x(row.median), cy: p.y(y), r: 5, fill: colours.accent}),
          box,
        ];
      };
      return [...p.axes, ...rows.flatMap(mark)];
    },
  );
  host.append(
    el("h2", {}, "Departments"),
    el(
      "p",
      {class: "note"},
      "Accuracy of the categories of each level-1 name, both stages: the bar holds the middle " +
        "half of them, the point is the median. A department opens its families.",
    ),
    chart,
  );
}
