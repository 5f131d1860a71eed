// Which threshold a wanted precision takes, on which levels, and what mistakes and looks cost, all
// on held-out products and by the rules of "shelfsort score --promise".

function whatIfCard() {
  const found = D.values.findings.what_if;
  const title = "Which threshold for which precision?";
  if (!found || !found.n)
    return card(
      title,
      null,
      empty(
        "The run has no current answers for held-out products. “shelfsort stage2 --run RUN " +
          "--rebuild” makes them, “shelfsort evaluate --run RUN --rebuild” follows, then report.",
      ),
    );
  const precisions = [...new Set(found.promises.map((row) => row.precision))];
  const state = {precision: 0.95, depth: 1},
    box = el("div", {"aria-live": "polite"});
  const depths = found.levels.map((_, k) => [
    String(k + 1),
    k ? `roll up to level ${found.levels[k]}` : "categories only",
  ]);
  const show = () => box.replaceChildren(...promiseOf(found, state));
  const node = card(
    title,
    "A promised precision is kept by at least 95 of 100 such choices. What " +
      "is not sure enough as a category may be " +
      ("answered with its family (level 2, then 1); the rest goes to a person. " +
        "Thresholds and counts are of held-out products of validation and " +
        "reserve, from which what answers them learnt nothing."),
    el(
      "div",
      {class: "tools"},
      chooser(
        "Wanted precision",
        precisions.map((p) => [String(p), percent(p, 0)]),
        String(state.precision),
        (p) => {
          state.precision = Number(p);
          show();
        },
      ),
      chooser("Levels", depths, String(state.depth), (depth) => {
        state.depth = Number(depth);
        show();
      }),
    ),
    box,
    costsOfThresholds(found),
  );
  node.id = "what-if";
  show();
  return node;
}

function promiseOf(found, {precision, depth}) {
  const {levels} = found.promises.find((row) => row.precision === precision && row.depth === depth);
  const accepted = levels.reduce((sum, level) => sum + level.accepted, 0),
    right = levels.reduce((sum, level) => sum + level.right, 0);
  const columns = [
    {title: "Level", numeric: true, value: (i) => levels[i].level},
    decimalColumn("Accept from", (i) => levels[i].threshold, {digits: 4, absent: "never"}),
    countColumn("Asked", (i) => levels[i].n, "Held-out products that the level above leaves over"),
    countColumn("Accepted", (i) => levels[i].accepted),
    countColumn("Right", (i) => levels[i].right),
    rateColumn("Right, at least", (i) => levels[i].low, "With its part of 95% confidence"),
    countColumn(
      "Products needed",
      (i) => levels[i].needed,
      "Below so many nothing can be promised",
    ),
  ];
  const needed = levels.every((level) => level.n < level.needed);
  const command = `shelfsort score FILE --run RUN --promise ${precision}`;
  const text = accepted
    ? `${percent(accepted / found.n)} of ${plural(found.n, "held-out product")} ` +
      `are accepted, ${whole(right)} of ${whole(accepted)} right (${percent(right / accepted)}); ` +
      `${percent(1 - accepted / found.n)} go to a person.`
    : needed
      ? `Too few held-out products to promise ${percent(precision, 0)}: that ` +
        `takes at least ${whole(levels[0].needed)}.`
      : `Even the surest answers are not right often enough for ${percent(precision, 0)}.`;
  return [
    el("p", {class: "sentence"}, text),
    el("p", {class: "note", id: "on-test"}, onTest(levels[0].threshold)),
    el("p", {class: "note", id: "unpromised"}, unpromised(found, precision)),
    el(
      "p",
      {class: "note"},
      depth === found.levels.length
        ? `“${command}” decides so.`
        : "“shelfsort score --promise” uses all levels.",
    ),
    makeTable({
      name: "promise",
      label: "Thresholds of the wanted precision",
      rows: levels.length,
      columns,
      save: false,
    }),
  ];
}

// What a threshold on the categories gave on the test split.
function onTest(threshold) {
  if (missing(threshold)) return "";
  const row = D.values.findings[D.unit].two_stage.coverage.find((r) => r.threshold >= threshold);
  if (!row || missing(row.accuracy)) return "";
  return (
    `On the test split, from ${decimal(row.threshold)} on: ${percent(row.coverage)} of all ` +
    `${D.unit}s as categories, ${percent(row.accuracy)} of them right [${ends(row)}] ` +
    `(n ${whole(row.n)}).`
  );
}

// From which threshold on the held-out categories were right so often, whatever chance did.
function unpromised(found, precision) {
  const [rows] = found.curves,
    kept = rows.filter((row) => !missing(row.accuracy)),
    below = kept.findLastIndex((row) => row.accuracy < precision),
    at = kept[below + 1];
  if (!at) return `No threshold had ${percent(precision, 0)} right on held-out products.`;
  return (
    `Without a promise: categories from ${decimal(at.threshold)} on were right in ` +
    `${percent(at.accuracy)} [${ends(at)}] of ${whole(at.n)} held-out products, ` +
    `${percent(at.coverage)} of all.`
  );
}

// What a threshold costs per 1,000 products, if a wrong answer and a person's look have a price.
function costsOfThresholds(found) {
  const prices = {wrong: D.values.findings[D.unit].costs ? meanCostOfErrors() : 1, look: 0.1},
    box = el("div", {"aria-live": "polite"});
  const field = (label, key) =>
    numberField(
      label,
      {min: 0, step: 0.05, value: String(Number(prices[key].toPrecision(3)))},
      (value) => {
        prices[key] = Number(value) || 0;
        show();
      },
    );
  const state = {level: 0};
  const cost = (row) =>
    1000 *
    (row.coverage * (missing(row.accuracy) ? 0 : 1 - row.accuracy) * prices.wrong +
      (1 - row.coverage) * prices.look);
  const show = () => {
    const rows = found.curves[state.level],
      best = rows.reduce((k, row, i) => (cost(row) < cost(rows[k]) ? i : k), 0);
    const columns = [
      decimalColumn("Accept from", (i) => rows[i].threshold),
      rateColumn("Accepted", (i) => rows[i].coverage),
      countColumn("n", (i) => rows[i].n),
      ...intervalColumns("Right among accepted", (i) => ({...rows[i], value: rows[i].accuracy})),
      decimalColumn("Cost per 1,000 products", (i) => cost(rows[i]), {digits: 1}),
    ];
    box.replaceChildren(
      el(
        "p",
        {class: "note", id: "cheapest"},
        `Cheapest: accept from ${decimal(rows[best].threshold)}, ` +
          `${decimal(cost(rows[best]), 1)} per 1,000 products; a person for all ` +
          `costs ${decimal(1000 * prices.look, 1)}, no person ` +
          `${decimal(cost(rows[0]), 1)}. The cheapest of many thresholds is a ` +
          "little flattered by chance.",
      ),
      makeTable({
        name: "threshold-costs",
        label: "Cost of each threshold",
        rows: rows.length,
        columns,
        page: 10,
        sort: [columns.length - 3, false],
      }),
    );
  };
  show();
  return el(
    "details",
    {},
    el("summary", {}, "What does it cost?"),
    el(
      "div",
      {class: "tools"},
      field("A wrong answer costs", "wrong"),
      field("A person’s look costs", "look"),
      chooser(
        "Answered on",
        found.levels.map((level, k) => [String(k), `level ${level}`]),
        "0",
        (level) => {
          state.level = Number(level);
          show();
        },
      ),
    ),
    box,
  );
}

function meanCostOfErrors() {
  const {pairs} = D.values.findings[D.unit].costs,
    wrong = pairs.filter(([t, p]) => t !== p);
  const n = D.lost.two_stage.reduce((a, b) => a + b, 0);
  return n ? wrong.reduce((sum, [, , cost]) => sum + cost, 0) / n : 1;
}

// What mistakes cost by the table that was given, and which categories could be one.
function costsCard() {
  const costs = D.values.findings[D.unit].costs;
  if (!costs) return null;
  const systems = [...SYSTEMS].reverse(),
    text = (m) =>
      missing(m.value)
        ? "–"
        : `${decimal(m.value, 1)} [${decimal(m.low, 1)} to ${decimal(m.high, 1)}]`;
  const rows = [
    ...systems.map((s) => [SYSTEM_NAMES[s], costs[s]]),
    ["Both stages less stage 1, adjusted", costs.change],
  ];
  const pairs = costs.pairs.slice().sort((a, b) => b[2] - a[2]);
  const columns = [
    {title: "Answer", value: (i) => rows[i][0]},
    ...intervalColumns(`Cost per ${whole(costs.per)} ${D.unit}s`, (i) => rows[i][1], text),
  ];
  const pairColumns = [
    ...categoryColumns("True category", (i) => pairs[i][0]),
    ...categoryColumns("Sorted into", (i) => pairs[i][1]),
    decimalColumn("Cost", (i) => pairs[i][2], {
      digits: 1,
      hint: "Of all such mistakes in the test split",
    }),
  ];
  return card(
    "What mistakes cost",
    `By the table that was given (${plural(costs.listed, "pair")}); a ` +
      "mistake that is not listed costs 1. Weighted to the catalogue mix.",
    makeTable({name: "costs", label: "What mistakes cost", rows: rows.length, columns}),
    makeTable({
      name: "cost-pairs",
      label: "The dearest mistakes",
      rows: pairs.length,
      columns: pairColumns,
      sort: [2, true],
      page: 10,
    }),
  );
}

function mergesCard() {
  const rows = D.values.findings[D.unit].merges;
  const node = card(
    "If two categories were one",
    "Mistakes between the two would be none: by so many percentage points " +
      "accuracy of both stages would rise, in the catalogue mix, with its 95% " +
      "interval. Shops often have such pairs by accident.",
  );
  node.id = "merges";
  if (!rows.length) {
    node.append(empty("No two categories are confused."));
    return node;
  }
  const gain = (m) =>
    `+${(100 * m.value).toFixed(2)} [${(100 * m.low).toFixed(2)} to ${(100 * m.high).toFixed(2)}]`;
  const columns = [
    ...categoryColumns("This category", (i) => rows[i].a),
    ...categoryColumns("and this one", (i) => rows[i].b),
    countColumn(`Mistaken ${D.unit}s`, (i) => rows[i].items, "In both directions, both stages"),
    ...intervalColumns("Merged: percentage points", (i) => rows[i].gain, gain),
  ];
  node.append(
    makeTable({
      name: "merges",
      label: "Pairs of categories that could be one",
      rows: rows.length,
      columns,
      page: 10,
    }),
  );
  return node;
}
