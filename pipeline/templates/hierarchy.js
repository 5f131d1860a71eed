// Accuracy over the three levels, as a treemap to drill into and as figures.

// Right and all evaluated items under each node; the accuracy of a parent is that of its items.
function hierarchyTree(stage) {
  const {level1, level2, parent} = D.values.names, right = D.rightly[stage];
  const node = (name) => ({name: name || "(no name)", value: 0, right: 0, children: []});
  const tops = level1.map(node), middles = level2.map(node);
  parent.forEach((top, k) => tops[top].children.push(middles[k]));
  for (let c = 0; c < D.classes; c++) {
    if (!D.support[c]) continue;
    middles[D.level2[c]].children.push({name: nameOf(c), value: D.support[c], right: right[c], c});
  }
  for (const inner of [...middles, ...tops]) {
    inner.children = inner.children.filter((child) => child.value > 0);
    for (const child of inner.children) { inner.value += child.value; inner.right += child.right; }
  }
  return tops.filter((top) => top.value > 0);
}

function paintTree(nodes, colours) {
  for (const node of nodes) {
    node.itemStyle = {color: accuracyColour(colours, node.right / node.value)};
    if (node.children) paintTree(node.children, colours);
  }
  return nodes;
}

function treeOption(stage) {
  return (colours, width) => ({
    tooltip: tooltip((found) => [el("b", {}, found.data.name), pairsOf([["Accuracy", percent(found.data.right / found.data.value)], [`Evaluated ${D.unit}s`, whole(found.data.value)],
      ["Lost", whole(found.data.value - found.data.right)]])], {trigger: "item", formatter: undefined}),
    series: [{type: "treemap", name: "All", data: paintTree(hierarchyTree(stage), colours), leafDepth: 2, roam: false, nodeClick: "zoomToNode", left: 0, right: 0, top: 34, bottom: 0, visibleMin: 1,
      childrenVisibleMin: 1, squareRatio: 1, drillDownIcon: "",
      breadcrumb: {top: 0, left: 0, height: 24, itemStyle: {color: colours.soft, borderColor: colours.line, textStyle: {color: colours.ink, fontFamily: colours.sans}}, emphasis: {itemStyle: {color: colours.line}}},
      label: {color: "#1c1e22", fontFamily: colours.sans, fontSize: 12, overflow: "truncate", lineHeight: 16, formatter: (p) => (p.data.value ? `${p.name}\n${percent(p.data.right / p.data.value, 0)}` : p.name)},
      itemStyle: {borderColor: colours.card, borderWidth: 1, gapWidth: 1}, upperLabel: {show: true, height: 22, color: colours.ink, fontFamily: colours.sans, fontSize: 12, fontWeight: 600, overflow: "truncate", formatter: (p) => (p.data && p.data.value ? `${p.name}  ${percent(p.data.right / p.data.value, 0)}` : p.name)},
      levels: [{upperLabel: {show: false}, itemStyle: {gapWidth: 6}}, {itemStyle: {borderColor: colours.soft, borderWidth: 0, gapWidth: 1}}]}],
  });
}

function renderHierarchy(view) {
  const found = D.values.findings[D.unit], levels = [["level1", "Level 1"], ["level2", "Level 2"], ["level3", "Level 3"]];
  const rows = levels.map(([key, title]) => el("tr", {}, el("th", {scope: "row"}, title), ["stage1", "two_stage"].map((s) => el("td", {class: "number"}, interval(found[s].levels[key]))),
    el("td", {class: "number"}, changed(found.two_stage.levels[key].value - found.stage1.levels[key].value, (v) => (100 * v).toFixed(1)))));
  const errors = found.two_stage.errors;
  view.append(card("Accuracy on each level", `Of ${plural(errors.n, "wrong " + D.unit)}, ${percent(errors.same_level2 / errors.n, 0)} stay inside the right level-2 family and ${percent(errors.same_level1 / errors.n, 0)} inside the right level 1: such a mistake costs less.`,
    el("div", {class: "scroll"}, el("table", {"aria-label": "Accuracy on each level"}, el("thead", {}, el("tr", {}, ["", "Stage 1", "Two-stage", "Change, points"].map((t, i) => el("th", {scope: "col", class: i ? "number" : ""}, t)))), el("tbody", {}, rows)))));
  const state = {stage: "two_stage"};
  const chart = makeChart("Treemap of the categories, coloured by accuracy", innerWidth < 560 ? 460 : 560, (colours, width) => treeOption(state.stage)(colours, width), (made) => {
    made.on("click", (event) => { if (event.data && event.data.c !== undefined) location.hash = "category/" + idOf(event.data.c); });
  });
  view.append(card("Where accuracy is lost", `Area is the number of evaluated ${D.unit}s, colour their accuracy. Click to go down a level; a category opens its page.`,
    el("div", {class: "tools"}, toggle("Stage", STAGES.slice(1), state.stage, (stage) => { state.stage = stage; chart.redraw(); }), el("span", {class: "grow"}), accuracyKey()), chart), familiesCard());
}

// The tree's numbers as a table, for the keyboard and for sorting.
function familiesCard() {
  const trees = {stage1: hierarchyTree("stage1"), two_stage: hierarchyTree("two_stage")}, rows = [];
  trees.two_stage.forEach((top, a) => top.children.forEach((family, b) => rows.push({top: top.name, family, before: trees.stage1[a].children[b]})));
  const columns = [
    {title: "Level 1", value: (i) => rows[i].top}, {title: "Level 2", value: (i) => rows[i].family.name},
    {title: "Categories", numeric: true, value: (i) => rows[i].family.children.length}, {title: `${D.unit}s`.replace(/^./, (x) => x.toUpperCase()), numeric: true, value: (i) => rows[i].family.value, text: (i) => whole(rows[i].family.value)},
    {title: "Lost", numeric: true, value: (i) => rows[i].family.value - rows[i].family.right, text: (i) => whole(rows[i].family.value - rows[i].family.right)},
    {title: "Stage 1", numeric: true, value: (i) => rows[i].before.right / rows[i].before.value, text: (i) => percent(rows[i].before.right / rows[i].before.value)},
    {title: "Two-stage", numeric: true, value: (i) => rows[i].family.right / rows[i].family.value, text: (i) => percent(rows[i].family.right / rows[i].family.value)},
  ];
  return card("Families (level 2)", null, makeTable({name: "families", label: "Level-2 families", rows: rows.length, columns, sort: [4, true]}));
}
