// Accuracy over the three levels: as figures, as a treemap to drill into, and as a table whose rows
// lead down to the categories.

// Right and all evaluated items under each node; the accuracy of a parent is that of its items.
function hierarchyTree(system) {
  const {level1, level2, parent} = D.values.names;
  const node = (level, k, name) => ({
    name: name || "(no name)",
    value: nodeOf("support", level, k),
    lost: nodeOf(system + "_lost", level, k),
    level,
    k,
  });
  const tops = level1.map((name, k) => ({...node(1, k, name), children: []})),
    middles = level2.map((name, k) => ({...node(2, k, name), children: []}));
  parent.forEach((top, k) => {
    if (middles[k].value) tops[top].children.push(middles[k]);
  });
  for (let c = 0; c < D.classes; c++)
    if (D.support[c]) middles[D.level2[c]].children.push({...node(3, c, nameOf(c)), c});
  return tops.filter((top) => top.value > 0);
}

const accuracyOf = (node) => 1 - node.lost / node.value;

// Rectangles of `nodes`, the largest first, each as square as can be (Bruls, Huizing and van Wijk,
// 2000).
function squarify(nodes, box) {
  const rest = nodes.slice().sort((a, b) => b.value - a.value),
    placed = [];
  let {x, y, width, height} = box,
    total = rest.reduce((sum, node) => sum + node.value, 0);
  while (rest.length && width > 0.5 && height > 0.5) {
    const short = Math.min(width, height),
      scale = (width * height) / total;
    const worst = (n, sum) => {
      const side = (sum * scale) / short;
      return Math.max(
        ...[rest[0], rest[n - 1]].map((node) => {
          const other = (node.value * scale) / side;
          return Math.max(side / other, other / side);
        }),
      );
    };
    let n = 1,
      sum = rest[0].value;
    while (n < rest.length && worst(n + 1, sum + rest[n].value) <= worst(n, sum))
      sum += rest[n++].value;
    const side = (sum * scale) / short,
      row = rest.splice(0, n);
    let at = 0;
    for (const node of row) {
      const length = (short * node.value) / sum;
      placed.push(
        width < height
          ? {node, x: x + at, y, width: length, height: side}
          : {node, x, y: y + at, width: side, height: length},
      );
      at += length;
    }
    if (width < height) [y, height] = [y + side, height - side];
    else [x, width] = [x + side, width - side];
    total -= sum;
  }
  return placed;
}

function treeHint(node) {
  return [
    el("b", {}, node.name),
    node.c === undefined ? null : el("small", {}, pathOf(node.c)),
    pairsOf([
      ["Accuracy", percent(accuracyOf(node))],
      [`Evaluated ${D.unit}s`, whole(node.value)],
      ["Errors", whole(node.lost)],
    ]),
  ].filter(Boolean);
}

// Two levels below `nodes`: each node is a frame with its name around its children.
function drawTree(nodes, colours, width, height, open) {
  const mark = (box, node, colour) => {
    const rect = hinted(
      svg("rect", {
        class: "node",
        x: box.x,
        y: box.y,
        width: Math.max(0, box.width - 1),
        height: Math.max(0, box.height - 1),
        fill: colour,
      }),
      () => treeHint(node),
    );
    rect.addEventListener("click", () => open(node));
    return rect;
  };
  const leaf = (box) => {
    const colour = accuracyColour(colours, accuracyOf(box.node)),
      rect = mark(box, box.node, colour),
      name = fitted(box.node.name, box.width - 8);
    if (box.height < 20 || name.length < 3) return [rect];
    const style = `fill: ${readable(colour)}`,
      text = (at, line) =>
        svg(
          "text",
          {
            class: "middle through",
            x: box.x + box.width / 2,
            y: box.y + box.height / 2 + at,
            style,
          },
          line,
        );
    return box.height < 36
      ? [rect, text(4, name)]
      : [rect, text(-4, name), text(12, percent(accuracyOf(box.node), 0))];
  };
  return squarify(nodes, {x: 0, y: 0, width, height}).flatMap((box) => {
    if (!box.node.children || box.height < 40) return leaf(box);
    const inner = {x: box.x + 2, y: box.y + 22, width: box.width - 6, height: box.height - 26},
      head = `${box.node.name}  ${percent(accuracyOf(box.node), 0)}`;
    return [
      mark(box, box.node, colours.soft),
      svg(
        "text",
        {class: "head through", x: box.x + 5, y: box.y + 15},
        fitted(head, box.width - 10),
      ),
      ...squarify(box.node.children, inner).flatMap(leaf),
    ];
  });
}

// The nodes under `open`: the whole tree, or a node of level 1 or 2 that was clicked.
function treeUnder(tree, open) {
  if (!open) return tree;
  const all = [...tree, ...tree.flatMap((top) => top.children)];
  return all.find((node) => node.level === open.level && node.k === open.k)?.children || tree;
}

function treeTrail(state, show) {
  const {level1, level2, parent} = D.values.names,
    {open} = state;
  const step = (text, to) =>
    el("button", {type: "button", class: "crumb", onclick: () => show(to)}, text || "(no name)");
  const steps = [step("All", null)];
  if (open)
    steps.push(
      step(level1[open.level === 1 ? open.k : parent[open.k]], {
        level: 1,
        k: open.level === 1 ? open.k : parent[open.k],
      }),
    );
  if (open?.level === 2) steps.push(step(level2[open.k], open));
  return steps;
}

function renderHierarchy(view) {
  const state = {system: "two_stage", open: null},
    trail = el("span", {});
  const show = (open) => {
    if (open?.c !== undefined) {
      tip.hide();
      location.hash = "category/" + idOf(open.c);
      return;
    }
    state.open = open;
    trail.replaceChildren(...treeTrail(state, show));
    chart.redraw();
  };
  const chart = makeChart(
    "Treemap of the categories, coloured by accuracy; the table below holds the same numbers",
    innerWidth < 560 ? 460 : 560,
    (colours, width, height) =>
      drawTree(treeUnder(hierarchyTree(state.system), state.open), colours, width, height, show),
  );
  view.append(
    levelsCard(),
    card(
      "Where the errors are",
      `Area is the number of evaluated ${D.unit}s, colour their accuracy. ` +
        "Click to go down a level; a category opens its page.",
      el(
        "div",
        {class: "tools"},
        toggle("Answer", Object.entries(SYSTEM_NAMES), state.system, (system) => {
          state.system = system;
          chart.redraw();
        }),
        trail,
        el("span", {class: "grow"}),
        accuracyKey(),
      ),
      chart,
    ),
    el("div", {class: "card", id: "nodes"}),
  );
  show(null);
}

function levelsCard() {
  const found = D.values.findings[D.unit],
    levels = [
      ["level1", "Level 1"],
      ["level2", "Level 2 (family)"],
      ["level3", "Level 3 (category)"],
    ],
    errors = found.two_stage.errors;
  const change = found.changes.two_stage_over_shifted.levels,
    gain = pointsInterval;
  const columns = [
    {title: "Right on", value: (i) => levels[i][1]},
    ...["two_stage", "shifted", "stage1"]
      .map((s) => intervalColumns(SYSTEM_NAMES[s], (i) => found[s].levels[levels[i][0]]))
      .flat(),
    ...intervalColumns("Stage 2’s gain, percentage points", (i) => change[levels[i][0]], gain),
  ];
  return card(
    "Accuracy on each level",
    errors.n
      ? `Of ${plural(errors.n, "wrong " + D.unit)}, ` +
          `${percent(errors.same_level2 / errors.n, 0)} stay inside the right ` +
          `family (level 2) and ${percent(errors.same_level1 / errors.n, 0)} ` +
          "inside the right level 1: such a mistake costs less."
      : null,
    makeTable({name: "levels", label: "Accuracy on each level", rows: levels.length, columns}),
  );
}

// `place` is what the address names: "1-4" the families of the fifth name of level 1, "2-7" the
// categories of the eighth family.
function showNodes(place) {
  const {level1, level2, parent} = D.values.names,
    host = $("nodes");
  const [inside, k] = (place || "").split("-").map(Number);
  const level = inside === 1 || inside === 2 ? inside + 1 : host.level || 2;
  const top = inside === 2 ? parent[k] : k,
    all = Array.from({length: [0, level1.length, level2.length, D.classes][level]}, (_, i) => i);
  const rows = all.filter(
    (i) =>
      nodeOf("support", level, i) &&
      (inside === 1 ? parent[i] === k : inside === 2 ? D.level2[i] === k : true),
  );
  const crumbs = inside
    ? [
        el("a", {href: "#hierarchy"}, "Whole hierarchy"),
        " › ",
        inside === 2
          ? el("a", {href: "#hierarchy/1-" + top}, level1[top] || "(no name)")
          : level1[top],
        ...(inside === 2 ? [" › ", level2[k] || "(no name)"] : []),
      ]
    : null;
  host.replaceChildren(
    el(
      "h2",
      {},
      inside
        ? `Inside ${(inside === 2 ? level2 : level1)[k] || "(no name)"}`
        : "The hierarchy as a table",
    ),
    crumbs
      ? el("p", {class: "crumbs"}, crumbs)
      : el(
          "div",
          {class: "tools"},
          toggle(
            "Level",
            [
              ["1", "Level 1"],
              ["2", "Families (level 2)"],
              ["3", "Categories (level 3)"],
            ],
            String(level),
            (chosen) => {
              host.level = Number(chosen);
              showNodes();
            },
          ),
        ),
    el(
      "p",
      {class: "note"},
      level < 3
        ? `Share of the evaluated ${D.unit}s of the test split whose category is ` +
            "right. A name leads down to what it holds. Brackets hold 95% intervals."
        : `Share of the evaluated ${D.unit}s of the test split that are right. A ` +
            "name opens the category. Brackets hold 95% intervals.",
    ),
    nodesTable(level, rows),
  );
  if (inside) {
    host.scrollIntoView();
    scrollBy(0, -110);
  }
}

function nodeCell(level, k) {
  if (level === 3) return categoryLink(k);
  const {level1, level2, parent} = D.values.names;
  return el(
    "span",
    {class: "name"},
    el("a", {href: `#hierarchy/${level}-${k}`}, (level === 1 ? level1 : level2)[k] || "(no name)"),
    level === 2 ? el("small", {}, level1[parent[k]]) : null,
  );
}

function nodesTable(level, rows) {
  const {level1, level2, parent} = D.values.names,
    of = (name) => (i) => nodeOf(name, level, i),
    accuracy = (system) => (i) => nodeAccuracy(system, level, i);
  const name = (i) =>
    level === 1
      ? level1[i]
      : level === 2
        ? [level1[parent[i]], level2[i]].filter(Boolean).join(" › ")
        : `${pathOf(i)} › ${titleOf(i)}`;
  const bounded = (i) => nodeInterval("two_stage", level, i);
  const columns = [
    {
      title: ["", "Level 1", "Family", "Category"][level],
      value: name,
      cell: (i) => nodeCell(level, i),
    },
    ...(level === 3
      ? [{title: "category_id", hidden: true, value: (c) => D.values.names.id[c]}]
      : [countColumn("Categories", of("categories"))]),
    countColumn(
      D.unit === "product" ? "Products" : "Images",
      of("support"),
      `Evaluated ${D.unit}s`,
    ),
    countColumn("Errors", of("two_stage_lost"), "After both stages"),
    ...intervalColumns(SYSTEM_NAMES.two_stage, bounded),
    pointsColumn(
      "Change",
      (i) => accuracy("two_stage")(i) - accuracy("shifted")(i),
      "Both stages less stage 1, adjusted, in percentage points",
    ),
    countColumn("Fixed", of("fixed"), "By stage 2"),
    countColumn("Broken", of("broken"), "By stage 2"),
    rateColumn(SYSTEM_NAMES.shifted, accuracy("shifted")),
    rateColumn(SYSTEM_NAMES.stage1, accuracy("stage1")),
  ];
  return makeTable({
    name: "nodes",
    label: "The hierarchy",
    rows,
    columns,
    sort: [level === 3 ? 2 : 3, true],
    support: of("support"),
  });
}
