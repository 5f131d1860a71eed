// Beside a doubt or an error: the fitted photos nearest to it under both categories, and photos
// that are typical of these.

let evidenceRows = null; // "product class" or "class" -> row numbers

function evidenceOf(key) {
  if (!evidenceRows) {
    evidenceRows = new Map();
    const {
      "evidence.typical": typical,
      "evidence.product": product,
      "evidence.class": c,
    } = D.columns;
    for (let i = 0; i < c.length; i++) {
      const name = typical[i] ? String(c[i]) : `${product[i]} ${c[i]}`;
      if (!evidenceRows.has(name)) evidenceRows.set(name, []);
      evidenceRows.get(name).push(i);
    }
  }
  return evidenceRows.get(key) || [];
}

function evidencePhoto(i, c, kind) {
  const product = D.columns["evidence.shown"][i],
    cosine = shareOf(D.columns["evidence.cosine"], i),
    likeness = missing(cosine) ? "" : `, cosine ${decimal(cosine)}`,
    name = `product ${keyOf(product)}, ${titleOf(c)}, ${kind}${likeness}`,
    [source] = thumbnailsOf(product);
  if (!source) return null;
  return el(
    "button",
    {
      type: "button",
      class: "thumb",
      title: name,
      "aria-label": `Enlarge: ${name}`,
      onclick: () => openViewer([source], 0, name),
    },
    el("img", {src: source, alt: ""}),
  );
}

function evidenceFor(product, c, role) {
  const near = evidenceOf(`${product} ${c}`).map((i) => evidencePhoto(i, c, "nearest"));
  const typical = evidenceOf(String(c)).map((i) => evidencePhoto(i, c, "typical"));
  const part = (title, found) =>
    found.filter(Boolean).length
      ? el("div", {}, el("small", {}, title), el("div", {class: "strip"}, found))
      : null;
  const parts = [part("Nearest fitted", near), part("Typical, right", typical)].filter(Boolean);
  return parts.length
    ? el(
        "div",
        {},
        el("p", {class: "role"}, `${role}: ${titleOf(c)}`),
        el("div", {class: "pair"}, parts),
      )
    : null;
}

// Folded, and made when it is unfolded; null where there is nothing to compare with.
function evidenceBox(product, truth, suggested) {
  const categories = [
    ["Label", truth],
    ...(suggested >= 0 && suggested !== truth ? [["Answer", suggested]] : []),
  ];
  if (categories.length < 2 || !categories.some(([, c]) => evidenceOf(`${product} ${c}`).length))
    return null;
  const box = el("details", {class: "evidence"}, el("summary", {}, "Compare with photos of both"));
  box.addEventListener("toggle", () => {
    if (box.open && box.children.length === 1) {
      const found = categories.map(([role, c]) => evidenceFor(product, c, role)).filter(Boolean);
      box.append(...(found.length ? found : [empty("None of these photos is in this file.")]));
    }
  });
  return box;
}
