// The page of one category, drawn when it is opened.

function renderCategory(view, c) {
  forget(view);
  const support = D.support[c], trained = D.columns["category.train_images"][c];
  const row = (title, measure) => [title, percent(scoreOf("two_stage", measure)[c]), `from ${percent(scoreOf("stage1", measure)[c])}`];
  const neighbours = [c - 1, c + 1].filter((n) => n >= 0 && n < D.classes);
  view.replaceChildren(
    el("p", {class: "crumbs"}, pathOf(c)), el("h1", {}, nameOf(c)),
    el("p", {class: "lead"}, `Category ${idOf(c)}, class ${c}. Neighbours: `, neighbours.map((n, k) => [k ? ", " : "", el("a", {href: "#category/" + idOf(n)}, nameOf(n))]).flat()),
    el("div", {class: "card"}, statistics([row("Accuracy (recall)", "recall"), row("Precision", "precision"), row("F1", "f1"),
      [`Evaluated ${D.unit}s`, whole(support)], ["Lost", whole(D.lost.two_stage[c]), `from ${whole(D.lost.stage1[c])}`], ["Trained on", whole(trained), trained === 1 ? "image" : "images"],
      ...(D.columns["category.images"] ? [["In the catalogue", whole(D.columns["category.images"][c]), "images"]] : [])]),
      support < 10 ? el("p", {class: "note"}, `Only ${plural(support, D.unit)} evaluated: these figures say little.`) : null),
    el("div", {class: "columns"}, mistakenCard(c, true), mistakenCard(c, false)), setCard(c), ...galleryCards(c));
}

function mistakenCard(c, asTruth) {
  const pairs = (asTruth ? D.pairsOfTrue : D.pairsOfPredicted)[c], other = D.columns[asTruth ? "pair.predicted" : "pair.true"];
  const before = D.columns["pair.stage1"], after = D.columns["pair.two_stage"];
  const rows = [...pairs].sort((a, b) => after[b] - after[a] || before[b] - before[a]).slice(0, 10);
  const columns = [categoryColumn("Category", (i) => other[i]),
    {title: "Stage 1", numeric: true, value: (i) => before[i]}, {title: "Two-stage", numeric: true, value: (i) => after[i]},
    {title: "Change", numeric: true, value: (i) => after[i] - before[i], cell: (i) => el("span", {class: after[i] < before[i] ? "up" : after[i] > before[i] ? "down" : ""}, signed(after[i] - before[i], whole))}];
  const title = asTruth ? "It is mistaken for" : "Mistaken for it";
  if (!rows.length) return card(title, null, empty(asTruth ? "None of its products was sorted elsewhere." : "Nothing else was sorted here."));
  return card(title, `The ten strongest of ${plural(pairs.length, asTruth ? "category" : "category")}; ${D.unit}s.`,
    makeTable({name: (asTruth ? "mistaken-for-" : "taken-for-") + idOf(c), label: title, rows, columns, sort: [2, true], filter: false}));
}

function setCard(c) {
  const title = "Second opinion";
  if (!D.values.has_stage2) return card(title, null, empty("This run has no stage 2."));
  const set = D.set.get(c);
  if (!set) return card(title, null, empty("No confusion set: stage 1 takes too few products of other categories for this one for a second opinion to be learnt."));
  const {items, fixed, broken, gain, ...more} = set.heldout, own = set.decision === "own";
  const why = items ? `On ${plural(items, "held-out product")} it fixed ${whole(fixed)} and broke ${whole(broken)}; the estimated gain is ${points(gain)} points.` : "No held-out product was taken for this category.";
  return card(title, null,
    el("p", {}, el("span", {class: "chip " + (own ? "right" : "plain")}, own ? "reclassifier active" : "reclassifier not used"), " ", why, own ? "" : " Stage 1’s answer stands."),
    el("h3", {}, "When stage 1 answers with this category, stage 2 chooses among"),
    el("p", {}, set.members.map((m, k) => [k ? " · " : "", el("a", {href: "#category/" + idOf(m), title: pathOf(m)}, nameIn(m, c))]).flat()));
}

function galleryCards(c) {
  const from = D.firstItem[c], rows = Array.from({length: D.firstItem[c + 1] - from}, (_, k) => from + k);
  const answer = D.columns["item.two_stage"], own = D.columns["item.own"], confidence = D.columns["item.two_stage.confidence"];
  const pictured = (i) => (thumbnailsOf(D.columns["item.product"][i]).length ? 0 : 1);
  const wrong = rows.filter((i) => answer[i] !== c).sort((a, b) => pictured(a) - pictured(b) || own[a] - own[b]);
  const unsure = rows.slice().sort((a, b) => pictured(a) - pictured(b) || confidence[a] - confidence[b]);
  return [galleryCard(`Wrong ${D.unit}s`, "Those that the model doubts most come first. Green is right, yellow is wrong within the same level-2 family, red is wrong.", wrong, "None was sorted wrong."),
    galleryCard("Most uncertain", "The answers with the lowest confidence, right or wrong.", unsure, "Nothing of this category was evaluated.")];
}

function galleryCard(title, note, rows, none, batch = 12) {
  const grid = el("div", {class: "photos"}), more = el("button", {type: "button", onclick: () => add()});
  let shown = 0;
  const add = () => {
    grid.append(...rows.slice(shown, shown + batch).map(itemCard));
    shown = Math.min(rows.length, shown + batch);
    more.hidden = shown === rows.length;
    more.textContent = `Show more (${whole(rows.length - shown)} left)`;
  };
  add();
  const node = card(`${title} · ${whole(rows.length)}`, note, rows.length ? grid : empty(none), el("div", {class: "pager"}, more));
  return node;
}

function itemCard(i) {
  const item = (name) => D.columns["item." + name][i];
  return photoCard(item("product"), item("true"), [["Stage 1", item("stage1"), item("stage1.confidence") / 10000], ["Two-stage", item("two_stage"), item("two_stage.confidence") / 10000]], item("two_stage"));
}
