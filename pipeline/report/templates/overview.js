// The overview's tables, and the table of all categories.

function mostlyTaken(c, most = 3) {
  const after = D.columns["pair.two_stage"];
  return D.pairsOfTrue[c]
    .filter((i) => after[i] > 0)
    .sort((a, b) => after[b] - after[a])
    .slice(0, most);
}

// How many categories are surely better or worse off, and what could have been noticed at all.
function powerOf({better, worse, moved, needed, noticeable}) {
  return (
    `Significantly better with stage 2: ${plural(better.length, "category")}, ` +
    `worse: ${whole(worse.length)} (paired sign test over products, false ` +
    "discovery rate 5%). " +
    (`Of the ${whole(moved)} categories in which anything changed, one would ` +
      `have been called worse from ${whole(needed)} of ${whole(needed)} ` +
      `products broken; ${plural(noticeable, "category")} of the test split ` +
      `${noticeable === 1 ? "has" : "have"} so many.`)
  );
}

// What stage 2 fixed and broke at a node, and whether chance could do the same (sign test of
// evaluation/metrics.json).
function effectOf(level, k) {
  const [fixed, broken] = ["fixed", "broken"].map((name) => nodeOf(name, level, k));
  const moved = D.values.metrics[D.unit].categories_changed;
  const sure = level === 3 && moved && (moved.better.includes(k) || moved.worse.includes(k));
  return {fixed, broken, chance: level === 3 && moved && !sure && fixed + broken > 0};
}

function wonBack(c) {
  const {fixed, broken, chance} = effectOf(3, c);
  return el(
    "span",
    {},
    changed(fixed - broken, whole),
    fixed + broken
      ? el(
          "small",
          {},
          `${whole(fixed)} fixed, ${whole(broken)} broken`,
          chance ? el("span", {class: "chance"}, " · may be chance") : null,
        )
      : null,
  );
}

function takenCell(c) {
  const {"pair.predicted": answer, "pair.shifted": before, "pair.two_stage": after} = D.columns;
  return el(
    "span",
    {class: "name wide"},
    mostlyTaken(c)
      .map((i, k) => [
        k ? ", " : "",
        el(
          "a",
          {href: "#category/" + idOf(answer[i]), title: pathOf(answer[i])},
          nameIn(answer[i], c),
        ),
        " ",
        countLink(c, answer[i], after[i]),
        after[i] === before[i]
          ? ""
          : el("small", {class: "beside"}, ` (${whole(before[i])} → ${whole(after[i])})`),
      ])
      .flat(),
  );
}

function renderLost(host) {
  const losing = Array.from({length: D.classes}, (_, c) => c).filter((c) =>
    SYSTEMS.some((s) => D.lost[s][c] > 0),
  );
  const total = losing.reduce((sum, c) => sum + D.lost.two_stage[c], 0);
  const most = Math.max(1, ...losing.map((c) => D.lost.two_stage[c]));
  const {"pair.predicted": answer, "pair.two_stage": after} = D.columns;
  const columns = [
    ...categoryColumns("Category", (c) => c),
    {
      title: "Errors",
      numeric: true,
      value: (c) => D.lost.two_stage[c],
      cell: (c) => {
        const bar = el("span", {class: "bar-cell"});
        bar.style.width = Math.round((64 * D.lost.two_stage[c]) / most) + "px";
        return el("span", {}, bar, whole(D.lost.two_stage[c]));
      },
    },
    {
      ...countColumn(`Evaluated ${D.unit}s`, (c) => D.support[c]),
      head: "Evaluated",
      hint: `Evaluated ${D.unit}s`,
    },
    {
      title: "Mostly taken for",
      value: (c) =>
        mostlyTaken(c)
          .map((i) => `${nameIn(answer[i], c)}: ${after[i]}`)
          .join("; "),
      cell: takenCell,
    },
    {
      title: "Stage 2 won back",
      hint: "Fixed less broken, over stage 1, adjusted",
      numeric: true,
      value: (c) => effectOf(3, c).fixed - effectOf(3, c).broken,
      cell: wonBack,
    },
    countColumn("Errors of stage 1, adjusted", (c) => D.lost.shifted[c]),
    countColumn("Errors of stage 1 alone", (c) => D.lost.stage1[c]),
  ];
  host.append(
    el("h2", {}, `Where the errors are`),
    el(
      "p",
      {class: "note"},
      `After both stages ${plural(total, D.unit)} of ` +
        `${whole(D.support.reduce((a, b) => a + b, 0))} stand in a wrong ` +
        "category. “Stage 2 won back” is what stage 2 fixed less what it broke, " +
        "counted from stage 1, adjusted; “(5 → 2)” is the count by that stage " +
        "and after both, a name in brackets another family. “May be chance” marks a change " +
        "too small to be sure of.",
    ),
    el("p", {class: "note", id: "power"}, powerOf(D.values.metrics[D.unit].categories_changed)),
    makeTable({
      name: "lost",
      label: "Categories with most errors",
      rows: losing,
      columns,
      sort: [1, true],
      page: 10,
      stack: true,
    }),
  );
}

const HEADLINE_NAMES = {...SYSTEM_NAMES, published: "Published second stage"};

function renderMetrics(host) {
  const state = {unit: D.unit, mix: "natural"},
    box = el("div", {}),
    said = el("p", {class: "note"});
  const show = () => {
    const found = D.values.metrics[state.unit][state.mix];
    const rows = Object.entries(HEADLINE_NAMES)
      .filter(([system]) => found[system])
      .map(([system, name]) => ({name, figures: found[system], text: interval}));
    for (const [key, figures] of Object.entries(found.changes)) {
      const [now, then] = key.split("_over_").map((s) => HEADLINE_NAMES[s]);
      rows.push({
        name: `${now} over ${then.toLowerCase()}, percentage points`,
        figures,
        text: pointsInterval,
        moved: D.values.findings[state.unit].changes[key],
      });
    }
    const measures = [
      ["top1", "Accuracy"],
      ["top5", "Among first five"],
      ["macro_f1", "Macro F1"],
    ].map(([key, title]) => {
      const [shown, ...ends] = intervalColumns(title, (i) => rows[i].figures[key]);
      return [{...shown, text: (i) => rows[i].text(rows[i].figures[key])}, ...ends];
    });
    const columns = [
      {title: "Answer", value: (i) => rows[i].name, text: (i) => rows[i].name},
      ...measures.flat(),
      ...[
        ["Fixed", "fixed"],
        ["Broken", "broken"],
      ].map(([title, name]) => ({
        title,
        numeric: true,
        value: (i) => rows[i].moved?.[name] ?? NaN,
        text: (i) => (rows[i].moved ? whole(rows[i].moved[name]) : ""),
      })),
    ];
    box.replaceChildren(
      makeTable({name: "headline", label: "All headline figures", rows: rows.length, columns}),
    );
    const {n, categories} = found.counts;
    said.textContent =
      `${plural(n, state.unit)} of the test split; ` +
      (state.mix === "natural"
        ? "weighted to the catalogue mix; macro F1 is over the " +
          `categories with at least ${D.minSupport} independent products.`
        : `each of the ${plural(categories, "category")} with at least ` +
          `${D.minSupport} independent products counts the same.`) +
      " Products that share a picture are not independent.";
  };
  show();
  host.append(
    el("h2", {}, "All headline figures"),
    said,
    el(
      "div",
      {class: "tools"},
      toggle(
        "Unit",
        Object.keys(D.values.metrics).map((u) => [u, "Per " + u]),
        state.unit,
        (unit) => {
          state.unit = unit;
          show();
        },
      ),
      toggle(
        "Mix of categories",
        [
          ["natural", "Mixed as the catalogue"],
          ["balanced", "Every category alike"],
        ],
        state.mix,
        (mix) => {
          state.mix = mix;
          show();
        },
      ),
    ),
    box,
  );
}

function twinsNote({cosine, networks, share, suspicious, top1_with: near, top1_without: far}) {
  return el(
    "p",
    {class: suspicious ? "notice" : "note", id: "near-twins"},
    `${interval(share)} of ${plural(share.n, "sampled test photo")} have a ` +
      "near twin: a fitted photo of another product of the category with a " +
      `cosine above ${decimal(cosine, 3)} in the features of ` +
      `${plural(networks, "network")}. Accuracy of both stages per image: ` +
      `${interval(near)} with a near twin (n ${whole(near.n)}), ` +
      `${interval(far)} without (n ${whole(far.n)}).` +
      (suspicious
        ? " If near twins show one thing, or come from one round through the shop, " +
          "new products will be sorted less well than the figures on this page say."
        : ""),
  );
}

// How far the test split stands apart from what was fitted, and what was left out of it.
function renderApart(host) {
  const {without_photo: missed, near_twins: twins} = D.values.apart,
    {linked} = D.values.metrics[D.unit];
  const rows = [
    ["without", `Share no picture with a product outside of the test split`],
    ["with", "Share one"],
  ].filter(([key]) => linked[key].two_stage.n);
  const columns = [
    {title: "Test " + D.unit + "s that", value: (i) => rows[i][1]},
    countColumn("Evaluated", (i) => linked[rows[i][0]].two_stage.n),
    ...SYSTEMS.slice()
      .reverse()
      .flatMap((s) => intervalColumns(SYSTEM_NAMES[s], (i) => linked[rows[i][0]][s])),
  ];
  host.append(
    el("h2", {}, "How far the test split stands apart"),
    el(
      "p",
      {class: "note"},
      "A picture that stands in test and elsewhere is fitted nowhere, but the " +
        "other photos of the product that shares it are. The first row is free " +
        "of that.",
    ),
    makeTable({
      name: "linked",
      label: "Accuracy with and without shared pictures",
      rows: rows.length,
      columns,
    }),
    twins ? twinsNote(twins) : null,
    missed
      ? el(
          "p",
          {class: "note", id: "without-photo"},
          `${plural(missed, "test product")} ${missed === 1 ? "is" : "are"} not ` +
            "counted: none of their photos can be read and shows something.",
        )
      : null,
  );
}

// Who answers where the pool of experts (or stage 1, adjusted, without one) names a category.
const OPINIONS = {own: "own model", pool: "pool", stage1: "stage 1"};
const answererOf = (c) =>
  !D.values.has_stage2 ? null : (D.set.get(c)?.decision ?? D.values.default_answer);

function renderCategories(view) {
  const score = (system, measure) => (c) => scoreOf(system, measure)[c];
  const trained = D.columns["category.train_images"];
  const columns = [
    categoryColumn("Category", (c) => c), // a phone shows two or three more
    rateColumn("Accuracy", score("two_stage", "recall"), "Both stages"),
    pointsColumn(
      "Change",
      (c) => score("two_stage", "recall")(c) - score("shifted", "recall")(c),
      "Accuracy, both stages less stage 1, adjusted, in percentage points",
    ),
    countColumn(
      D.unit === "product" ? "Products" : "Images",
      (c) => D.support[c],
      `Evaluated ${D.unit}s`,
    ),
    countColumn("Errors", (c) => D.lost.two_stage[c], "After both stages"),
    rateColumn("Stage 1, adjusted", score("shifted", "recall"), "Accuracy"),
    rateColumn("Stage 1 alone", score("stage1", "recall"), "Accuracy"),
    rateColumn("Precision", score("two_stage", "precision"), "Both stages"),
    rateColumn("F1", score("two_stage", "f1"), "Both stages"),
    countColumn("Trained on", (c) => trained[c], "Images"),
    ...(D.columns["category.images"]
      ? [
          countColumn(
            "In the catalogue",
            (c) => D.columns["category.images"][c],
            "Images of train and reserve",
          ),
        ]
      : []),
    {
      title: "Second opinion",
      hint: "Who answers: the pool of experts, the category’s own reclassifier, or stage 1",
      value: (c) => OPINIONS[answererOf(c)] || "no stage 2",
    },
    idColumn("Id", (c) => c),
  ];
  view.append(
    el(
      "div",
      {class: "card"},
      makeTable({
        name: "categories",
        label: "All categories",
        rows: D.classes,
        columns,
        sort: [4, true],
        support: (c) => D.support[c],
        match: (query) => {
          const found = new Set(findClasses(query));
          return (c) => found.has(c);
        },
      }),
    ),
  );
}
