// Health of the data: likely label errors to review, the same picture under two categories,
// rejects, blanks, small categories.

function renderReview(view) {
  const health = D.values.findings.health,
    rejected = Object.values(health.rejects || {}).reduce((a, b) => a + b, 0);
  view.append(
    el(
      "p",
      {class: "lead"},
      "Look at the photos, say of each label whether it is right, export the " +
        "corrections. Nothing leaves this page but the file you save. On a card " +
        "the keys r (right), s (take the suggestion), o (other category), b (bad " +
        "photo) and u (not sure) judge, and lead on to the next one.",
    ),
    el(
      "div",
      {class: "card"},
      statistics([
        ["Labels the model doubts", whole(health.doubtful_labels)],
        ["Same picture, other category", whole(health.conflicting_groups), "pictures"],
        ...(health.images !== undefined
          ? [
              ["Duplicate images", whole(health.duplicates)],
              ["Blank images", whole(health.blanks)],
              ["Rejected", whole(rejected)],
            ]
          : []),
        [
          "Small categories",
          whole(health.small_categories),
          `under ${D.values.findings.few_images} images`,
        ],
      ]),
    ),
    correctionsCard(),
    doubtsCard(),
    problemsCard(),
    conflictsCard(),
    el("div", {class: "columns"}, rejectsCard(health), blanksCard(health)),
    smallCard(),
  );
}

function pagedCards(rows, make, size = 12, kind = "photos") {
  const grid = el("div", {class: kind}),
    said = el("span", {"aria-live": "polite"});
  let at = 0;
  const show = (from) => {
    at = Math.max(0, Math.min(from, Math.floor((rows.length - 1) / size) * size));
    grid.replaceChildren(...rows.slice(at, at + size).map(make));
    said.textContent =
      `${whole(at + 1)}–${whole(Math.min(rows.length, at + size))} of ` + `${whole(rows.length)}`;
    previous.disabled = at === 0;
    next.disabled = at + size >= rows.length;
    previous.hidden = next.hidden = rows.length <= size;
  };
  const previous = el("button", {type: "button", onclick: () => show(at - size)}, "Previous"),
    next = el("button", {type: "button", onclick: () => show(at + size)}, "Next");
  show(0);
  return [grid, el("div", {class: "pager"}, previous, next, said)];
}

function reviewTable(kind, name, label) {
  const c = (key) => D.columns[`${kind}.${key}`];
  const columns = [
    {title: "Product", value: (i) => keyOf(c("product")[i])},
    {title: "Split", value: (i) => D.values.splits[c("split")[i]]},
    ...categoryColumns("Label", (i) => c("true")[i]),
    {
      title: "Answer",
      value: (i) => (c("suggested")[i] < 0 ? "" : titleOf(c("suggested")[i])),
      text: (i) => (c("suggested")[i] < 0 ? "not judged" : titleOf(c("suggested")[i])),
      cell: (i) => (c("suggested")[i] < 0 ? "not judged" : categoryLink(c("suggested")[i])),
    },
    {
      title: "Answer: category_id",
      hidden: true,
      value: (i) => (c("suggested")[i] < 0 ? "" : D.values.names.id[c("suggested")[i]]),
    },
    {
      title: "Label’s probability",
      numeric: true,
      value: (i) => shareOf(c("own"), i),
      text: (i) => percent(shareOf(c("own"), i)),
    },
    {
      title: "Answer’s probability",
      numeric: true,
      value: (i) => shareOf(c("confidence"), i),
      text: (i) => percent(shareOf(c("confidence"), i)),
    },
  ];
  return makeTable({name, label, rows: c("product").length, columns, page: 10});
}

function doubtsCard() {
  const {
    "doubt.product": product,
    "doubt.true": truth,
    "doubt.suggested": suggested,
    "doubt.own": own,
    "doubt.confidence": confidence,
    "doubt.split": split,
  } = D.columns;
  const {doubtful_labels: total, labels_judged: judged} = D.values.findings.health;
  const node = card(
    "Labels the model doubts",
    (judged === "all"
      ? "Labels of every split, each judged by a model that saw neither the " +
        "product nor its photos. "
      : "The run has no features of this store any more, so that only the test split is judged. ") +
      ("Those to whose label the model gives the lowest probability come first. Of " +
        "the first ten 7 or 8 are wrong on three demos, of all about half: look " +
        "before you correct.") +
      (total > product.length
        ? ` The first ${whole(product.length)} of ${whole(total)}; all stand in ` +
          "evaluation/review.parquet."
        : ""),
  );
  node.id = "doubts";
  if (!product.length) {
    node.append(empty("None."));
    return node;
  }
  const note = (i) =>
    `The model gives the label ${own[i] ? percent(shareOf(own, i)) : "less than 0.1%"}. ` +
    `Split: ${D.values.splits[split[i]]}.`;
  node.append(
    progressOf(product),
    ...pagedCards(Array.from(product.keys()), (i) =>
      photoCard(
        product[i],
        truth[i],
        [["Suggestion", openChip(truth[i], suggested[i], shareOf(confidence, i))]],
        suggested[i],
        note(i),
      ),
    ),
    el(
      "details",
      {},
      el("summary", {}, "As a table"),
      reviewTable("doubt", "doubts", "Labels the model doubts"),
    ),
  );
  return node;
}

// No suggestion: the model knows the picture under the other label, so that it doubts either.
function conflictsCard() {
  const {
    "conflict.product": product,
    "conflict.group": group,
    "conflict.true": truth,
    "conflict.suggested": answer,
    "conflict.confidence": confidence,
  } = D.columns;
  const node = card(
    "Same picture, other category",
    "Products whose photos are identical to the byte but whose categories " +
      "differ. Often both labels are right, as a picture may show two things; " +
      "so nothing is suggested. Those that the model believes least come first.",
  );
  node.id = "conflicts";
  if (!D.values.has_store) {
    node.append(empty("The run has no store, so pictures can’t be compared."));
    return node;
  }
  if (!product.length) {
    node.append(empty("None: no picture stands in two categories."));
    return node;
  }
  const groups = [...product.keys()].reduce((all, i) => ((all[group[i]] ||= []).push(i), all), []);
  const cards = (rows) =>
    el(
      "section",
      {class: "twins", "aria-label": `Picture ${group[rows[0]] + 1}`},
      el(
        "h3",
        {},
        `Picture ${whole(group[rows[0]] + 1)}: ` +
          `${[...new Set(rows.map((i) => titleOf(truth[i])))].join(" and ")}`,
      ),
      el(
        "div",
        {class: "photos"},
        rows.map((i) =>
          photoCard(
            product[i],
            truth[i],
            answer[i] < 0
              ? []
              : [["Answer", openChip(truth[i], answer[i], shareOf(confidence, i))]],
            -1,
          ),
        ),
      ),
    );
  node.append(
    progressOf(product),
    ...pagedCards(groups, cards, 6, "groups"),
    el(
      "details",
      {},
      el("summary", {}, "As a table"),
      reviewTable("conflict", "conflicts", "Same picture, other category"),
    ),
  );
  return node;
}

const REASONS = {
  undecodable: "can’t be decoded",
  not_an_image: "not an image",
  too_large: "too many pixels",
  too_long: "a side is too long",
  empty: "no bytes",
  no_picture: "no picture",
  unknown_category: "category not in the list",
  conflicting_product: "same id, other content",
};

function rejectsCard(health) {
  if (!health.rejects)
    return card("Rejected", null, empty("The run has no store; rejects are not known."));
  const reasons = Object.entries(health.rejects),
    rows = health.reject_rows;
  if (!reasons.length) return card("Rejected", null, empty("Nothing was rejected."));
  const columns = [
    {
      title: "Reason",
      value: (i) => rows[i].reason,
      text: (i) => REASONS[rows[i].reason] || rows[i].reason,
    },
    {title: "Product", value: (i) => rows[i].product_id},
    {
      title: "Image",
      numeric: true,
      value: (i) => rows[i].position + 1,
      text: (i) => (rows[i].position < 0 ? "all" : String(rows[i].position + 1)),
    },
    {title: "File", value: (i) => rows[i].source.split("/").pop()},
    {title: "Detail", value: (i) => rows[i].detail},
  ];
  return card(
    "Rejected",
    null,
    statistics(reasons.map(([reason, n]) => [REASONS[reason] || reason, whole(n)])),
    makeTable({name: "rejects", label: "Rejects", rows: rows.length, columns, page: 8}),
  );
}

function blanksCard(health) {
  if (!health.blank_rows)
    return card("Blank images", null, empty("The run has no store; blank images are not known."));
  const rows = health.blank_rows;
  if (!rows.length) return card("Blank images", null, empty("No image is blank."));
  const columns = [
    {title: "Product", value: (i) => keyOf(rows[i].product_id)},
    {title: "Image", hint: "Counted from 1", numeric: true, value: (i) => rows[i].position + 1},
    categoryColumn("Category", (i) => rows[i].class_index),
  ];
  return card(
    "Blank images",
    "One colour all over: kept in the store, neither trained on nor evaluated.",
    makeTable({name: "blanks", label: "Blank images", rows: rows.length, columns, page: 8}),
  );
}

function smallCard() {
  const few = D.values.findings.few_images,
    trained = D.columns["category.train_images"];
  const rows = Array.from({length: D.classes}, (_, c) => c).filter((c) => trained[c] < few);
  if (!rows.length)
    return card(
      "Small categories",
      null,
      empty(`Every category was trained on at least ${few} images.`),
    );
  const inCatalogue = D.columns["category.images"];
  const columns = [
    categoryColumn("Category", (c) => c),
    idColumn("Id", (c) => c),
    countColumn("Trained on", (c) => trained[c], "Images"),
    ...(inCatalogue ? [countColumn("In the catalogue", (c) => inCatalogue[c], "Images")] : []),
    countColumn(`Evaluated ${D.unit}s`, (c) => D.support[c]),
    rateColumn("Accuracy", (c) => scoreOf("two_stage", "recall")[c], "Both stages"),
  ];
  return card(
    "Small categories",
    `Trained on fewer than ${few} images: more photos, or a merge with a ` +
      "neighbour, help most here.",
    makeTable({
      name: "small",
      label: "Small categories",
      rows,
      columns,
      sort: [2, false],
      page: 10,
      support: (c) => D.support[c],
    }),
  );
}
