// Accuracy over the three levels: as figures, as a treemap to drill into, and as a table whose rows lead down to the categories.

// Right and all evaluated items under each node; the accuracy of a parent is that of its items.
function hierarchyTree(system) {
  const {level1, level2, parent} = D.values.names;
  const node = (level, k, name) => ({name: name || "(no name)", value: nodeOf("support", level, k), lost: nodeOf(system + "_lost", level, k), level, k});
  const tops = level1.map((name, k) => ({...node(1, k, name), children: []})), middles = level2.map((name, k) => ({...node(2, k, name), children: []}));
  parent.forEach((top, k) => { if (middles[k].value) tops[top].children.push(middles[k]); });
  for (let c = 0; c < D.classes; c++) if (D.support[c]) middles[D.level2[c]].children.push({...node(3, c, nameOf(c)), c});
  return tops.filter((top) => top.value > 0);
}

const accuracyOf = (node) => 1 - node.lost / node.value;

function paintTree(nodes, colours) {
  for (const node of nodes) {
    const fill = accuracyColour(colours, accuracyOf(node));
    node.itemStyle = {color: fill};
    node.label = {color: readable(fill)};
    if (node.children) paintTree(node.children, colours);
  }
  return nodes;
}

function treeOption(system) {
  const label = (gap) => (p) => (p.data && p.data.value ? `${p.name}${gap}${percent(accuracyOf(p.data), 0)}` : p.name);
  return (colours) => ({
    tooltip: tooltip((found) => (found.data && found.data.level ? [el("b", {}, found.data.name), found.data.c === undefined ? null : el("small", {}, pathOf(found.data.c)),
      pairsOf([["Accuracy", percent(accuracyOf(found.data))], [`Evaluated ${D.unit}s`, whole(found.data.value)], ["Lost", whole(found.data.lost)]])].filter(Boolean) : [el("b", {}, "All categories")]), {trigger: "item"}),
    series: [{type: "treemap", name: "All", data: paintTree(hierarchyTree(system), colours), leafDepth: 2, roam: false, nodeClick: "zoomToNode", left: 0, right: 0, top: 34, bottom: 0, visibleMin: 1,
      childrenVisibleMin: 1, squareRatio: 1, drillDownIcon: "",
      breadcrumb: {top: 0, left: 0, height: 24, itemStyle: {color: colours.soft, borderColor: colours.line, textStyle: {color: colours.ink, fontFamily: colours.sans}}, emphasis: {itemStyle: {color: colours.line}}},
      label: {fontFamily: colours.sans, fontSize: 12, overflow: "truncate", lineHeight: 16, formatter: label("\n")},
      itemStyle: {borderColor: colours.card, borderWidth: 1, gapWidth: 1}, upperLabel: {show: true, height: 22, color: colours.ink, fontFamily: colours.sans, fontSize: 12, fontWeight: 600, overflow: "truncate", formatter: label("  ")},
      levels: [{upperLabel: {show: false}, itemStyle: {gapWidth: 6}}, {itemStyle: {borderColor: colours.soft, borderWidth: 0, gapWidth: 1}}]}],
  });
}

function renderHierarchy(view) {
  const state = {system: "two_stage"};
  const chart = makeChart("Treemap of the categories, coloured by accuracy; the table below holds the same numbers", innerWidth < 560 ? 460 : 560, (colours) => treeOption(state.system)(colours), (made) => {
    made.on("click", (event) => { if (event.data && event.data.c !== undefined) location.hash = "category/" + idOf(event.data.c); });
  });
  view.append(levelsCard(), card("Where accuracy is lost", `Area is the number of evaluated ${D.unit}s, colour their accuracy. Click to go down a level; a category opens its page.`,
    el("div", {class: "tools"}, toggle("Answer", Object.entries(SYSTEM_NAMES), state.system, (system) => { state.system = system; chart.redraw(); }), el("span", {class: "grow"}), accuracyKey()), chart),
    el("div", {class: "card", id: "nodes"}));
}

function levelsCard() {
  const found = D.values.findings[D.unit], levels = [["level1", "Level 1"], ["level2", "Level 2 (family)"], ["level3", "Level 3 (category)"]], errors = found.two_stage.errors;
  const change = found.changes.two_stage_over_shifted.levels, gain = pointsInterval;
  const columns = [{title: "Right on", value: (i) => levels[i][1]}, ...["two_stage", "shifted", "stage1"].map((s) => intervalColumns(SYSTEM_NAMES[s], (i) => found[s].levels[levels[i][0]])).flat(),
    ...intervalColumns("Stage 2’s gain, points", (i) => change[levels[i][0]], gain)];
  return card("Accuracy on each level", errors.n ? `Of ${plural(errors.n, "wrong " + D.unit)}, ${percent(errors.same_level2 / errors.n, 0)} stay inside the right family (level 2) and ${percent(errors.same_level1 / errors.n, 0)} inside the right level 1: such a mistake costs less.` : null,
    makeTable({name: "levels", label: "Accuracy on each level", rows: levels.length, columns}));
}

// `place` is what the address names: "1-4" the families of the fifth name of level 1, "2-7" the categories of the eighth family.
function showNodes(place) {
  const {level1, level2, parent} = D.values.names, host = $("nodes");
  const [inside, k] = (place || "").split("-").map(Number);
  const level = inside === 1 || inside === 2 ? inside + 1 : host.level || 2;
  const top = inside === 2 ? parent[k] : k, all = Array.from({length: [0, level1.length, level2.length, D.classes][level]}, (_, i) => i);
  const rows = all.filter((i) => nodeOf("support", level, i) && (inside === 1 ? parent[i] === k : inside === 2 ? D.level2[i] === k : true));
  const crumbs = inside ? [el("a", {href: "#hierarchy"}, "Whole hierarchy"), " › ", inside === 2 ? el("a", {href: "#hierarchy/1-" + top}, level1[top] || "(no name)") : level1[top], ...(inside === 2 ? [" › ", level2[k] || "(no name)"] : [])] : null;
  host.replaceChildren(el("h2", {}, inside ? `Inside ${(inside === 2 ? level2 : level1)[k] || "(no name)"}` : "The hierarchy as a table"),
    crumbs ? el("p", {class: "crumbs"}, crumbs) : el("div", {class: "tools"}, toggle("Level", [["1", "Level 1"], ["2", "Families (level 2)"], ["3", "Categories (level 3)"]], String(level), (chosen) => { host.level = Number(chosen); showNodes(); })),
    el("p", {class: "note"}, level < 3 ? `Share of the evaluated ${D.unit}s of the test split whose category is right. A name leads down to what it holds. Brackets hold 95% intervals.` : `Share of the evaluated ${D.unit}s of the test split that are right. A name opens the category. Brackets hold 95% intervals.`), nodesTable(level, rows));
  if (inside) { host.scrollIntoView(); scrollBy(0, -110); }
}

function nodeCell(level, k) {
  if (level === 3) return categoryLink(k);
  const {level1, level2, parent} = D.values.names;
  return el("span", {class: "name"}, el("a", {href: `#hierarchy/${level}-${k}`}, (level === 1 ? level1 : level2)[k] || "(no name)"), level === 2 ? el("small", {}, level1[parent[k]]) : null);
}

function nodesTable(level, rows) {
  const {level1, level2, parent} = D.values.names, of = (name) => (i) => nodeOf(name, level, i), accuracy = (system) => (i) => nodeAccuracy(system, level, i);
  const name = (i) => (level === 1 ? level1[i] : level === 2 ? [level1[parent[i]], level2[i]].filter(Boolean).join(" › ") : `${pathOf(i)} › ${titleOf(i)}`);
  const bounded = (i) => nodeInterval("two_stage", level, i);
  const columns = [{title: ["", "Level 1", "Family", "Category"][level], value: name, cell: (i) => nodeCell(level, i)}, ...(level === 3 ? [{title: "category_id", hidden: true, value: (c) => D.values.names.id[c]}] : [countColumn("Categories", of("categories"))]),
    countColumn(D.unit === "product" ? "Products" : "Images", of("support"), `Evaluated ${D.unit}s`), countColumn("Lost", of("two_stage_lost"), "After both stages"), ...intervalColumns(SYSTEM_NAMES.two_stage, bounded),
    pointsColumn("Change", (i) => accuracy("two_stage")(i) - accuracy("shifted")(i), "Both stages less stage 1, adjusted, in points"),
    countColumn("Fixed", of("fixed"), "By stage 2"), countColumn("Broken", of("broken"), "By stage 2"), rateColumn(SYSTEM_NAMES.shifted, accuracy("shifted")), rateColumn(SYSTEM_NAMES.stage1, accuracy("stage1"))];
  return makeTable({name: "nodes", label: "The hierarchy", rows, columns, sort: [level === 3 ? 2 : 3, true], support: of("support")});
}
