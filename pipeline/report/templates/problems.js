// Photos that need a look, by kind.

const PROBLEMS = {
  blurred: [
    "Blurred photos",
    "A tenth of the usual sharpness or less (variance of the Laplacian).",
    (v) => `Sharpness ${Number(v.toPrecision(2))}`,
  ],
  dark: [
    "Dark photos",
    "Mean brightness below 12% of white.",
    (v) => `Brightness ${percent(v, 0)}`,
  ],
  odd_size: [
    "Odd-sized photos",
    "Width by height, or the longer side, at least twice or half as large as usual.",
    (v) => `${decimal(v, 1)} times off`,
  ],
  outlying: [
    "Outlying photos",
    "Least like the other photos of their category, by the features of all views.",
    (v) => `Cosine to the category ${decimal(v)}`,
  ],
  near_duplicate: [
    "Near duplicates",
    "Nearly the same photo, not the same bytes, of two products of one " +
      "category: a cosine of at least 0.98 in every view.",
    (v) => `Cosine ${decimal(v, 3)}`,
  ],
};

function problemsCard() {
  const {problems: counts, photos} = D.values.findings.health,
    kind = D.columns["problem.kind"];
  const node = card(
    "Photos that need a look",
    photos
      ? `${plural(photos, "photo")} were looked at, ` +
          ("all of the test split and of the others, or a sample of them. Nothing " +
            "was left out of training or test for it.")
      : null,
  );
  node.id = "problems";
  if (!photos) {
    node.append(empty("The run has no store, so that there are no photos."));
    return node;
  }
  const kinds = D.values.problem_kinds;
  node.append(statistics(kinds.map((name) => [PROBLEMS[name][0], whole(counts[name] || 0)])));
  kinds.forEach((name, number) => {
    const rows = Array.from(kind.keys()).filter((i) => kind[i] === number);
    if (rows.length) node.append(problemGallery(name, rows, counts[name]));
  });
  return node;
}

function problemGallery(name, rows, all) {
  const [title, note, text] = PROBLEMS[name],
    {
      "problem.product": product,
      "problem.true": truth,
      "problem.position": position,
      "problem.value": value,
      "problem.other": other,
    } = D.columns;
  const make = (i) => {
    const pair =
      other[i] >= 0 ? strip(other[i], `product ${keyOf(other[i])}, nearly the same`) : null;
    const found = photoCard(
      product[i],
      truth[i],
      [],
      -1,
      `${text(value[i])}, photo ${position[i] + 1}` +
        (other[i] >= 0 ? `; beside it product ${keyOf(other[i])}.` : "."),
    );
    if (pair) found.firstElementChild.after(pair);
    return found;
  };
  const box = el(
    "details",
    {},
    el(
      "summary",
      {},
      `${title}: ${whole(all)}${rows.length < all ? `, the first ${whole(rows.length)} here` : ""}`,
    ),
    el("p", {class: "note"}, note),
  );
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 2) box.append(...pagedCards(rows, make));
  });
  return box;
}
