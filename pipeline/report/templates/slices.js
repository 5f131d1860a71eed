// Accuracy of parts of the test split, by any column that is known of the products.

const VERDICTS = {worse: "worse than all", better: "better than all", alike: "no sure difference"};

function renderSlices(view) {
  const found = D.values.findings.slices,
    all = D.values.metrics[D.unit].natural.two_stage.top1;
  view.append(
    el(
      "p",
      {class: "lead"},
      `Accuracy of both stages per ${D.unit}, weighted to the catalogue mix, ` +
        `with 95% intervals. All: ${interval(all)}. ` +
        ("A slice is marked where its interval lies below or above that. Of many " +
          "slices a few are marked by chance. “shelfsort report --slices FILE.csv” " +
          "adds columns of your own (product_id and any others)."),
    ),
  );
  if (!found.length) view.append(empty("Nothing is known of the products but their category."));
  view.append(...found.map(sliceCard));
}

function sliceCard({column, slices: rows}) {
  const columns = [
    {title: "Slice", value: (i) => rows[i].name},
    countColumn(`Evaluated ${D.unit}s`, (i) => rows[i].accuracy.n),
    ...intervalColumns("Accuracy", (i) => rows[i].accuracy),
    {
      title: "Verdict",
      value: (i) => VERDICTS[rows[i].verdict],
      cell: (i) =>
        el(
          "span",
          {class: "chip " + {worse: "wrong", better: "right", alike: "plain"}[rows[i].verdict]},
          VERDICTS[rows[i].verdict],
        ),
    },
  ];
  const chart = makeChart(
    `Accuracy by ${column}`,
    40 + 26 * rows.length,
    (colours, width, height) => {
      const all = D.values.metrics[D.unit].natural.two_stage.top1.value,
        p = plane(colours, width, height, {
          left: Math.min(220, width * 0.35),
          top: 8,
          bottom: 26,
          x: shares,
          y: {min: -0.5, max: rows.length - 0.5, ticks: []},
        });
      return [
        ...p.axes,
        line(
          [
            [all, -0.5],
            [all, rows.length - 0.5],
          ],
          p,
          dashed(colours.ink),
        ),
        ...rows.flatMap(({name, accuracy: a}, k) => {
          const y = rows.length - 1 - k;
          return missing(a.value)
            ? []
            : [
                svg(
                  "text",
                  {x: p.area.left - 8, y: p.y(y) + 4, class: "end"},
                  fitted(name, p.area.left - 14),
                ),
                line(
                  [
                    [a.low, y],
                    [a.high, y],
                  ],
                  p,
                  {stroke: colours.before},
                ),
                hinted(
                  svg("circle", {cx: p.x(a.value), cy: p.y(y), r: 5, fill: colours.accent}),
                  () => [
                    el("b", {}, name),
                    pairsOf([
                      ["Accuracy", interval(a)],
                      ["Evaluated", whole(a.n)],
                    ]),
                  ],
                ),
              ];
        }),
      ];
    },
  );
  return card(
    column[0].toUpperCase() + column.slice(1),
    null,
    chart,
    makeTable({
      name: "slice-" + column.replace(/\W+/g, "-"),
      label: `Accuracy by ${column}`,
      rows: rows.length,
      columns,
    }),
  );
}
