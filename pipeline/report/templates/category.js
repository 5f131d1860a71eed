// The page of one category, drawn when it is opened.

function renderCategory(view, c) {
  const support = D.support[c],
    trained = D.columns["category.train_images"][c],
    names = D.values.names;
  const share = (system, measure) => percent(scoreOf(system, measure)[c]);
  const row = (title, measure) => [
    title,
    share("two_stage", measure),
    `from ${share("shifted", measure)} adjusted, ${share("stage1", measure)} alone`,
  ];
  const neighbours = [c - 1, c + 1].filter((n) => n >= 0 && n < D.classes),
    lost = (system) => whole(D.lost[system][c]);
  const crumbs = [
    [names.level1[D.level1[c]], `#hierarchy/1-${D.level1[c]}`],
    [names.level2[D.level2[c]], `#hierarchy/2-${D.level2[c]}`],
  ].filter(([name]) => name);
  view.replaceChildren(
    el(
      "p",
      {class: "crumbs"},
      crumbs.map(([name, href], k) => [k ? " › " : "", el("a", {href}, name)]).flat(),
    ),
    el("h1", {}, nameOf(c)),
    el(
      "p",
      {class: "lead"},
      `Category ${idOf(c)}. Beside it in the hierarchy: `,
      neighbours
        .map((n, k) => [k ? ", " : "", el("a", {href: "#category/" + idOf(n)}, nameIn(n, c))])
        .flat(),
    ),
    el(
      "div",
      {class: "card"},
      statistics([
        row("Accuracy (recall)", "recall"),
        row("Precision", "precision"),
        row("F1", "f1"),
        [`Evaluated ${D.unit}s`, whole(support)],
        ["Errors", lost("two_stage"), `from ${lost("shifted")} adjusted, ${lost("stage1")} alone`],
        ["Trained on", whole(trained), trained === 1 ? "image" : "images"],
        ...(D.columns["category.images"]
          ? [["In the catalogue", whole(D.columns["category.images"][c]), "images"]]
          : []),
      ]),
      el(
        "p",
        {class: "note"},
        support
          ? `With both stages ${whole(support - D.lost.two_stage[c])} of ` +
              `${plural(support, D.unit)} are right; the 95% interval of that accuracy ` +
              `is ${ends(nodeInterval("two_stage", 3, c))}. “Adjusted” and “alone” are ` +
              "stage 1 with and without the mix of the catalogue."
          : `Nothing of this category was evaluated, so nothing can be said about it.`,
      ),
    ),
    el("div", {class: "columns"}, mistakenCard(c, true), mistakenCard(c, false)),
    opinionCard(c),
    ...galleryCards(c),
  );
}

function mistakenCard(c, asTruth) {
  const pairs = (asTruth ? D.pairsOfTrue : D.pairsOfPredicted)[c],
    other = D.columns[asTruth ? "pair.predicted" : "pair.true"];
  const columns = [...categoryColumns("Category", (i) => other[i]), ...pairCountColumns()];
  const title = asTruth ? "It is mistaken for" : "Mistaken for it";
  if (!pairs.length)
    return card(
      title,
      null,
      empty(
        asTruth ? `None of its ${D.unit}s was sorted elsewhere.` : "Nothing else was sorted here.",
      ),
    );
  return card(
    title,
    asTruth
      ? `Where its own ${D.unit}s went, the strongest first.`
      : `Which categories’ ${D.unit}s came here, the strongest first.`,
    makeTable({
      name: (asTruth ? "mistaken-for-" : "taken-for-") + idOf(c),
      label: title,
      rows: pairs,
      columns,
      sort: [1, true],
      page: 10,
    }),
  );
}

// Who answers where the pool of experts (or stage 1, adjusted, without one) names this category,
// why, and what that changed.
function opinionCard(c) {
  const title = "Second opinion";
  if (!D.values.has_stage2) return card(title, null, empty("This run has no stage 2."));
  const set = D.set.get(c),
    {fixed, broken, chance} = effectOf(3, c),
    pool = D.values.default_answer === "pool",
    other = pool ? "the pool of experts" : "stage 1";
  const who = {
    own: "its own model answers",
    pool: "the pool of experts answers",
    stage1: "stage 1’s answer stands",
  }[answererOf(c)];
  return card(
    title,
    null,
    el(
      "p",
      {},
      el("span", {class: "chip " + (answererOf(c) === "own" ? "right" : "plain")}, who),
      " ",
      set
        ? opinionReason(set, other)
        : `No model of its own: ${other} takes too few ${D.unit}s of other ` +
            "categories for this one for one to be trained. ",
      pool ? "The pool weighs stage 1 with other experts in all categories." : "",
    ),
    el(
      "p",
      {},
      `Of this category’s ${plural(D.support[c], "evaluated " + D.unit)} stage ` +
        `2 fixed ${whole(fixed)} and broke ${whole(broken)}.`,
      chance ? " So small a change may be chance." : "",
    ),
    ...(set
      ? [
          el(
            "h3",
            {},
            answererOf(c) === "own"
              ? `When ${other} names this category, its model chooses among`
              : "Confused with it (its confusion set)",
          ),
          el(
            "p",
            {},
            set.members
              .map((m, k) => [
                k ? " · " : "",
                el("a", {href: "#category/" + idOf(m), title: pathOf(m)}, nameIn(m, c)),
              ])
              .flat(),
          ),
        ]
      : []),
  );
}

function opinionReason({decision, heldout}, other) {
  if (heldout.products === 0)
    return (
      "Its own model is not used: no held-out product came out as this " +
      "category, so it could not prove itself. "
    );
  const found =
    `on ${plural(heldout.products, "held-out product")} that came out as ` +
    `this category it fixed ${whole(heldout.fixed)} and broke ` +
    `${whole(heldout.broken)} more than ${other} did`;
  return decision === "own"
    ? `Its own model is used: ${found}. `
    : `Its own model is not used: ${found}, which is no clear gain. `;
}

function galleryCards(c) {
  const from = D.firstItem[c],
    rows = Array.from({length: D.firstItem[c + 1] - from}, (_, k) => from + k);
  const answer = D.columns["item.two_stage"],
    own = D.columns["item.own"],
    confidence = D.columns["item.two_stage.confidence"];
  const pictured = (i) => (thumbnailsOf(D.columns["item.product"][i]).length ? 0 : 1);
  const wrong = rows
    .filter((i) => answer[i] !== c)
    .sort((a, b) => pictured(a) - pictured(b) || own[a] - own[b]);
  const unsure = rows
    .slice()
    .sort((a, b) => pictured(a) - pictured(b) || confidence[a] - confidence[b]);
  return [
    galleryCard(
      `Wrong ${D.unit}s`,
      "First those to whose label the model gives least. Green ✓ is right, " +
        "yellow ≈ is wrong within the same family (level 2), red ✗ is wrong.",
      wrong,
      D.lost.two_stage[c],
      "None was sorted wrong.",
    ),
    galleryCard(
      "Most uncertain",
      "The answers with the lowest confidence, right or wrong.",
      unsure,
      D.support[c],
      "Nothing of this category was evaluated.",
    ),
  ];
}

function galleryCard(title, note, rows, all, none, batch = 12) {
  const grid = el("div", {class: "photos"}),
    more = el("button", {
      type: "button",
      onclick: () => {
        const first = grid.children.length;
        add();
        grid.children[first]?.querySelector("button, a")?.focus();
      },
    });
  let shown = 0;
  const add = () => {
    grid.append(...rows.slice(shown, shown + batch).map(itemCard));
    shown = Math.min(rows.length, shown + batch);
    more.hidden = shown === rows.length;
    more.textContent = `Show more (${whole(rows.length - shown)} left)`;
  };
  add();
  return card(
    `${title} · ${rows.length < all ? whole(rows.length) + " of " : ""}${whole(all)}`,
    note,
    rows.length ? grid : empty(none),
    el("div", {class: "pager"}, more),
  );
}

function itemCard(i) {
  const item = (name) => D.columns["item." + name][i],
    shown = (name, answer, confidence) => [name, chip(item("true"), answer, confidence)],
    answer = (system) =>
      shown(SYSTEM_NAMES[system], item(system), shareOf(D.columns[`item.${system}.confidence`], i));
  const others = D.values.runs.slice(1).flatMap(({name}, k) => {
    const other = D.columns[`item.run${k + 1}`]?.[i];
    return other ? [shown(name, other - 1, NaN)] : [];
  });
  return photoCard(
    item("product"),
    item("true"),
    [...SYSTEMS.map(answer), ...others],
    item("two_stage"),
  );
}
