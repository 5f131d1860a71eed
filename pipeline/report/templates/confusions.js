// The strongest pairs, as a table and as a matrix of one family.

// How many items of a pair there are after each stage.
function pairCountColumns() {
  const {
    "pair.true": truth,
    "pair.predicted": answer,
    "pair.stage1": alone,
    "pair.shifted": before,
    "pair.two_stage": after,
  } = D.columns;
  return [
    {
      ...countColumn("Both stages", (i) => after[i], "A number leads to the photos"),
      cell: (i) => countLink(truth[i], answer[i], after[i]),
    },
    fewerColumn(
      "Change by stage 2",
      (i) => after[i] - before[i],
      "Both stages less stage 1, adjusted",
    ),
    countColumn("Stage 1, adjusted", (i) => before[i]),
    countColumn("Stage 1 alone", (i) => alone[i]),
  ];
}

function renderConfusions(view) {
  const {"pair.true": truth, "pair.predicted": answer, "pair.two_stage": after} = D.columns;
  const rows = Array.from(truth.keys()).filter((i) => truth[i] !== answer[i]);
  const columns = [
    ...categoryColumns("True category", (i) => truth[i]),
    ...categoryColumns("Sorted into", (i) => answer[i]),
    ...pairCountColumns(),
    rateColumn(
      "Share",
      (i) => after[i] / D.support[truth[i]],
      `Of the true category’s ${D.unit}s, both stages`,
    ),
  ];
  const match = (query) => {
    const found = new Set(findClasses(query));
    return (i) => found.has(truth[i]) || found.has(answer[i]);
  };
  view.append(
    card(
      "Pairs",
      `How many ${D.unit}s of one category were sorted into another. Where ` +
        "stage 2 lowers a number, it helped.",
      makeTable({
        name: "confusions",
        label: "Confused pairs",
        rows,
        columns,
        sort: [2, true],
        match,
        support: (i) => D.support[truth[i]],
      }),
    ),
    matrixCard(),
    mergesCard(),
    ...[costsCard()].filter(Boolean),
  );
}

function matrixCard() {
  const families = familyOptions(),
    state = {family: families[0][0], stage: "two_stage"};
  const box = el("div", {}),
    said = el("p", {class: "note", "aria-live": "polite"});
  const show = () => {
    const members = membersOf(state.family);
    const chart = makeChart(
      "Confusion matrix of the selected family",
      140 + Math.min(620, Math.max(180, members.length * 26)),
      (colours, width, height) => matrix(members, state.stage, colours, width, height),
    );
    box.replaceChildren(chart);
    const total = D.level2.reduce((n, f) => n + (f === Number(state.family)), 0),
      inside = cellsOf(members, state.stage),
      all = members.reduce((sum, c) => sum + D.support[c], 0);
    const lost = members.reduce((sum, c) => sum + D.lost[state.stage][c], 0),
      within = inside.reduce((sum, [x, y, n]) => sum + (x === y ? 0 : n), 0);
    said.textContent =
      `${plural(all, D.unit)} of ` +
      (members.length === total
        ? `all ${total} `
        : `the ${members.length} categories with most errors, of ${total}, `) +
      `categories of the family; ${plural(lost, "error")}, of which ${whole(within)} ` +
      "to another category of this matrix.";
  };
  const save = () => {
    const members = membersOf(state.family),
      table = members.map(() => members.map(() => 0));
    for (const [x, y, n] of cellsOf(members, state.stage)) table[y][x] = n;
    downloadTable(
      "confusion-matrix",
      ["true \\ answered", ...members.map((c) => `${nameOf(c)} (${idOf(c)})`)],
      table.map((row, y) => [`${nameOf(members[y])} (${idOf(members[y])})`, ...row]),
    );
  };
  show();
  return card(
    "Matrix of a family",
    "Rows are true categories, columns the answers; the diagonal is right. A " +
      "cell leads to its photos.",
    el(
      "div",
      {class: "tools"},
      chooser("Family", families, state.family, (family) => {
        state.family = family;
        show();
      }),
      toggle("Answer", Object.entries(SYSTEM_NAMES), state.stage, (stage) => {
        state.stage = stage;
        show();
      }),
      el("span", {class: "grow"}),
      el("button", {type: "button", onclick: save}, "Export the matrix"),
    ),
    said,
    box,
  );
}

// Families by how many products they lose, the most first.
function familyOptions() {
  const {level1, level2, parent} = D.values.names,
    lost = new Uint32Array(level2.length);
  for (let c = 0; c < D.classes; c++) lost[D.level2[c]] += D.lost.two_stage[c];
  return Array.from(level2.keys())
    .sort((a, b) => lost[b] - lost[a])
    .map((f) => [
      String(f),
      ([level1[parent[f]], level2[f]].filter(Boolean).join(" › ") || "All") +
        ` (${plural(lost[f], "error")})`,
    ]);
}

// At most 40 categories fit a matrix that can be read: those that lose most.
function membersOf(family) {
  const members = Array.from({length: D.classes}, (_, c) => c).filter(
    (c) => D.level2[c] === Number(family),
  );
  return members
    .sort((a, b) => D.lost.two_stage[b] - D.lost.two_stage[a])
    .slice(0, 40)
    .sort((a, b) => a - b);
}

function cellsOf(members, stage) {
  const place = new Map(members.map((c, k) => [c, k])),
    counts = D.columns["pair." + stage],
    other = D.columns["pair.predicted"],
    cells = [];
  members.forEach((c, y) => {
    if (D.support[c] > D.lost[stage][c]) cells.push([y, y, D.support[c] - D.lost[stage][c]]);
    for (const i of D.pairsOfTrue[c])
      if (place.has(other[i]) && counts[i]) cells.push([place.get(other[i]), y, counts[i]]);
  });
  return cells;
}

function matrix(members, stage, colours, width, height) {
  const wide = width > 620,
    left = wide ? 204 : 130,
    area = {top: 6, bottom: height - 124},
    names = members.map((c) => nameIn(c, c));
  const cell = (width - left - 8) / members.length,
    row = (area.bottom - area.top) / members.length,
    most = members.map((c) => Math.max(1, D.support[c]));
  const fill = (x, y, n) =>
    x === y
      ? mix(colours.mid, colours.high, Math.min(1, n / most[y]))
      : mix(colours.mid, colours.low, Math.min(1, 0.12 + (1.6 * n) / most[y]));
  const content = (x, y, n) => [
    el("b", {}, `${plural(n, D.unit)}, ${percent(n / most[y], 0)} of the row`),
    pairsOf([
      ["True", names[y]],
      ["Answer", names[x]],
    ]),
  ];
  const boxes = cellsOf(members, stage).map(([x, y, n]) => {
    const colour = fill(x, y, n),
      box = hinted(
        svg("rect", {
          class: "node",
          x: left + x * cell + 0.5,
          y: area.top + y * row + 0.5,
          width: Math.max(1, cell - 1),
          height: Math.max(1, row - 1),
          fill: colour,
        }),
        () => content(x, y, n),
      );
    box.addEventListener("click", () => {
      tip.hide();
      location.hash = itemsOf(members[y], members[x]);
    });
    return cell < 24
      ? [box]
      : [
          box,
          svg(
            "text",
            {
              class: "middle through",
              x: left + (x + 0.5) * cell,
              y: area.top + (y + 0.5) * row + 4,
              style: `fill: ${readable(colour)}`,
            },
            whole(n),
          ),
        ];
  });
  const labels = names.map((name, k) => [
    svg(
      "text",
      {class: "end", x: left - 8, y: area.top + (k + 0.5) * row + 4},
      fitted(name, left - 12),
    ),
    svg(
      "text",
      {
        class: "end",
        transform: `translate(${left + (k + 0.5) * cell + 4} ${area.bottom + 12}) rotate(-55)`,
      },
      fitted(name, 136),
    ),
  ]);
  return [
    svg("rect", {
      x: left,
      y: area.top,
      width: width - left - 8,
      height: area.bottom - area.top,
      fill: colours.soft,
    }),
    ...boxes.flat(),
    ...labels.flat(),
  ];
}
