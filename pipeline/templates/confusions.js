// The strongest pairs, as a table and as a matrix of one family.

function renderConfusions(view) {
  const {"pair.true": truth, "pair.predicted": answer, "pair.stage1": before, "pair.two_stage": after} = D.columns;
  const rows = Array.from(truth.keys()).filter((i) => truth[i] !== answer[i]);
  const columns = [categoryColumn("True category", (i) => truth[i]), categoryColumn("Sorted into", (i) => answer[i]),
    {title: "Stage 1", numeric: true, value: (i) => before[i]}, {title: "Two-stage", numeric: true, value: (i) => after[i]},
    {title: "Change", numeric: true, value: (i) => after[i] - before[i], cell: (i) => el("span", {class: after[i] < before[i] ? "up" : after[i] > before[i] ? "down" : ""}, signed(after[i] - before[i], whole))},
    {title: "Share of its " + D.unit + "s", numeric: true, value: (i) => after[i] / D.support[truth[i]], text: (i) => percent(after[i] / D.support[truth[i]], 0)}];
  const match = (query) => { const found = new Set(findClasses(query)); return (i) => found.has(truth[i]) || found.has(answer[i]); };
  view.append(card("Pairs", `Every pair of true and answered category; counts are evaluated ${D.unit}s. A falling number means that stage 2 helped.`,
    makeTable({name: "confusions", label: "Confused pairs", rows, columns, sort: [3, true], match})), matrixCard());
}

function matrixCard() {
  const families = familyOptions(), state = {family: families[0][0], stage: "two_stage"};
  const box = el("div", {}), said = el("p", {class: "note", "aria-live": "polite"});
  const show = () => {
    forget(box);
    const members = membersOf(state.family);
    const chart = makeChart("Confusion matrix of the selected family", 140 + Math.min(620, Math.max(180, members.length * 26)), (colours, width) => matrixOption(members, state.stage, colours, width));
    box.replaceChildren(chart);
    const inside = cellsOf(members, state.stage), all = members.reduce((sum, c) => sum + D.support[c], 0);
    const lost = members.reduce((sum, c) => sum + D.lost[state.stage][c], 0), within = inside.reduce((sum, [x, y, n]) => sum + (x === y ? 0 : n), 0);
    said.textContent = `${plural(all, D.unit)} of these categories; ${whole(lost)} lost, of which ${whole(within)} to another category of this matrix.`;
  };
  const save = () => {
    const members = membersOf(state.family), table = members.map(() => members.map(() => 0));
    for (const [x, y, n] of cellsOf(members, state.stage)) table[y][x] = n;
    downloadTable("confusion-matrix", ["true \\ answered", ...members.map((c) => `${nameOf(c)} (${idOf(c)})`)], table.map((row, y) => [`${nameOf(members[y])} (${idOf(members[y])})`, ...row]));
  };
  show();
  return card("Matrix of a family", "Rows are true categories, columns the answers; the diagonal is right.",
    el("div", {class: "tools"}, chooser("Family", families, state.family, (family) => { state.family = family; show(); }),
      toggle("Stage", STAGES.slice(1), state.stage, (stage) => { state.stage = stage; show(); }), el("span", {class: "grow"}), el("button", {type: "button", onclick: save}, "Export CSV")), said, box);
}

// Families by how many products they lose, the most first.
function familyOptions() {
  const {level1, level2, parent} = D.values.names, lost = new Uint32Array(level2.length);
  for (let c = 0; c < D.classes; c++) lost[D.level2[c]] += D.lost.two_stage[c];
  return Array.from(level2.keys()).sort((a, b) => lost[b] - lost[a]).map((f) => [String(f), `${[level1[parent[f]], level2[f]].filter(Boolean).join(" › ") || "All"} (${lost[f]} lost)`]);
}

// At most 40 categories fit a matrix that can be read: those that lose most.
function membersOf(family) {
  const members = Array.from({length: D.classes}, (_, c) => c).filter((c) => D.level2[c] === Number(family));
  return members.sort((a, b) => D.lost.two_stage[b] - D.lost.two_stage[a]).slice(0, 40).sort((a, b) => a - b);
}

function cellsOf(members, stage) {
  const place = new Map(members.map((c, k) => [c, k])), counts = D.columns["pair." + stage], other = D.columns["pair.predicted"], cells = [];
  members.forEach((c, y) => {
    if (D.rightly[stage][c]) cells.push([y, y, D.rightly[stage][c]]);
    for (const i of D.pairsOfTrue[c]) if (place.has(other[i]) && counts[i]) cells.push([place.get(other[i]), y, counts[i]]);
  });
  return cells;
}

function matrixOption(members, stage, colours, width) {
  const cells = cellsOf(members, stage), wide = width > 620, names = members.map(nameOf), labels = {interval: 0, overflow: "truncate", width: wide ? 190 : 96, fontSize: 11};
  const row = members.map((c) => Math.max(1, D.support[c]));
  const data = cells.map(([x, y, n]) => ({value: [x, y, n], itemStyle: {color: x === y ? mix(colours.mid, colours.high, Math.min(1, n / row[y])) : mix(colours.mid, colours.low, Math.min(1, 0.12 + 1.6 * n / row[y]))},
    label: {color: n / row[y] > 0.6 && x === y ? "#ffffff" : "#1c1e22"}}));
  return {
    grid: {left: wide ? 204 : 108, right: 8, top: 6, bottom: 124},
    tooltip: tooltip((found) => { const [x, y, n] = found.data.value; return [el("b", {}, `${plural(n, D.unit)}, ${percent(n / row[y], 0)} of the row`), pairsOf([["True", names[y]], ["Answer", names[x]]])]; }, {trigger: "item"}),
    xAxis: axis(colours, {type: "category", data: names, splitLine: {show: false}, axisLabel: {...labels, width: 112, rotate: 55}}),
    yAxis: axis(colours, {type: "category", data: names, inverse: true, splitLine: {show: false}, axisLabel: labels}),
    series: [{type: "heatmap", data, label: {show: members.length <= 24 && wide, fontFamily: colours.sans, fontSize: 11, formatter: (p) => p.data.value[2]}, itemStyle: {borderColor: colours.card, borderWidth: 1}}],
  };
}
