// The overview's tables, and the table of all categories.

function mostlyTaken(c, most = 3) {
  const pairs = D.pairsOfTrue[c].filter((i) => D.columns["pair.two_stage"][i] > 0)
    .sort((a, b) => D.columns["pair.two_stage"][b] - D.columns["pair.two_stage"][a]);
  return pairs.slice(0, most).map((i) => [D.columns["pair.predicted"][i], D.columns["pair.two_stage"][i]]);
}

function renderLost(host) {
  const losing = Array.from({length: D.classes}, (_, c) => c).filter((c) => D.lost.two_stage[c] > 0 || D.lost.stage1[c] > 0);
  const total = losing.reduce((sum, c) => sum + D.lost.two_stage[c], 0);
  const most = Math.max(1, ...losing.map((c) => D.lost.two_stage[c]));
  const columns = [
    categoryColumn("Category", (c) => c),
    {title: "Lost", numeric: true, value: (c) => D.lost.two_stage[c], cell: (c) => {
      const bar = el("span", {class: "bar-cell"});
      bar.style.width = Math.round(64 * D.lost.two_stage[c] / most) + "px";
      return el("span", {}, bar, whole(D.lost.two_stage[c]));
    }},
    {title: "of", numeric: true, hint: `Evaluated ${D.unit}s`, value: (c) => D.support[c], text: (c) => whole(D.support[c])},
    {title: "Lost by stage 1", numeric: true, value: (c) => D.lost.stage1[c], text: (c) => whole(D.lost.stage1[c])},
    {title: "Stage 2 won back", numeric: true, value: (c) => D.lost.stage1[c] - D.lost.two_stage[c], cell: (c) => changed(D.lost.stage1[c] - D.lost.two_stage[c], whole)},
    {title: "Mostly taken for", value: (c) => mostlyTaken(c).map(([p, n]) => `${nameIn(p, c)}: ${n}`).join("; "), cell: (c) =>
      el("span", {class: "name wide"}, mostlyTaken(c).map(([p, n], k) => [k ? ", " : "", el("a", {href: "#category/" + idOf(p), title: pathOf(p)}, nameIn(p, c)), ` ${whole(n)}`]).flat())},
  ];
  host.append(el("h2", {}, `Where ${D.unit}s are lost`),
    el("p", {class: "note"}, `${plural(total, D.unit)} of the evaluated ones stand in a wrong category after both stages. The categories at the top lose most of them.`),
    makeTable({name: "lost", label: `Categories that lose most ${D.unit}s`, rows: losing, columns, sort: [1, true], page: 10}));
}

const SYSTEM_NAMES = {stage1: "Stage 1", shifted: "Stage 1, class mix corrected", two_stage: "Two-stage"};
const HEADLINE_NAMES = {...SYSTEM_NAMES, published: "Published second stage"};

function renderMetrics(host) {
  const state = {unit: D.unit, mix: "natural"}, box = el("div", {class: "scroll"}), said = el("p", {class: "note"});
  const show = () => {
    const found = D.values.metrics[state.unit][state.mix];
    const cells = (m) => ["top1", "top5", "macro_f1"].map((key) => el("td", {class: "number"}, interval(m[key])));
    const rows = Object.entries(HEADLINE_NAMES).filter(([system]) => found[system]).map(([system, name]) =>
      el("tr", {}, el("th", {scope: "row"}, name), cells(found[system]), el("td", {})));
    const gain = (m) => `${points(m.value)} [${points(m.low)} to ${points(m.high)}]`;
    const changes = Object.entries(found.changes).map(([key, m]) => {
      const [now, then] = key.split("_over_").map((s) => HEADLINE_NAMES[s]), moved = D.values.findings[state.unit].changes[key];
      return el("tr", {}, el("th", {scope: "row"}, `${now} over ${then.toLowerCase()}, points`), ["top1", "top5", "macro_f1"].map((metric) => el("td", {class: "number"}, gain(m[metric]))),
        el("td", {class: "number"}, moved ? `${whole(moved.fixed)} fixed, ${whole(moved.broken)} broken` : ""));
    });
    box.replaceChildren(el("table", {"aria-label": "All headline figures"}, el("thead", {}, el("tr", {}, ["", "Accuracy", "Among first five", "Macro F1", ""].map((t, i) =>
      el("th", {scope: "col", class: i ? "number" : ""}, t)))), el("tbody", {}, rows, changes)));
    said.textContent = `${plural(found.two_stage.top1.n, state.unit)}; ` + (state.mix === "natural" ? "weighted to the class mix of the whole catalogue." : "every category counts the same.");
  };
  show();
  host.append(el("h2", {}, "All headline figures"), said, el("div", {class: "tools"},
    toggle("Unit", Object.keys(D.values.metrics).map((u) => [u, "Per " + u]), state.unit, (unit) => { state.unit = unit; show(); }),
    toggle("Class mix", [["natural", "Natural mix"], ["balanced", "Balanced"]], state.mix, (mix) => { state.mix = mix; show(); })), box);
}

function reclassifierOf(c) {
  const set = D.set.get(c);
  return !D.values.has_stage2 ? "no stage 2" : !set ? "no confusion set" : set.decision === "own" ? "active" : "inactive";
}

function renderCategories(view) {
  const score = (stage, measure) => scoreOf(stage, measure);
  const measured = MEASURES.map(([measure, title]) => ({title, numeric: true, value: (c) => score("two_stage", measure)[c], text: (c) => percent(score("two_stage", measure)[c])}));
  const trained = D.columns["category.train_images"];
  const columns = [
    categoryColumn("Category", (c) => c), idColumn("Id", (c) => c),
    {title: `${D.unit === "product" ? "Products" : "Images"}`, hint: `Evaluated ${D.unit}s`, numeric: true, value: (c) => D.support[c], text: (c) => whole(D.support[c])},
    {title: "Stage 1 accuracy", numeric: true, value: (c) => score("stage1", "recall")[c], text: (c) => percent(score("stage1", "recall")[c])},
    ...measured,
    {title: "Change", hint: "Accuracy, two-stage less stage 1, in points", numeric: true, value: (c) => score("two_stage", "recall")[c] - score("stage1", "recall")[c],
      cell: (c) => changed(score("two_stage", "recall")[c] - score("stage1", "recall")[c], (v) => (100 * v).toFixed(1))},
    {title: "Lost", numeric: true, value: (c) => D.lost.two_stage[c], text: (c) => whole(D.lost.two_stage[c])},
    {title: "Trained on", hint: "Images", numeric: true, value: (c) => trained[c], text: (c) => whole(trained[c])},
    {title: "Reclassifier", value: reclassifierOf},
  ];
  view.append(el("div", {class: "card"}, makeTable({name: "categories", label: "All categories", rows: D.classes, columns, sort: [7, true],
    match: (query) => { const found = new Set(findClasses(query)); return (c) => found.has(c); }})));
}
