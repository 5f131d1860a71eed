// Photos of products.

const photos = {bytes: null, addresses: new Map(), places: null};

function thumbnailsOf(product) {
  if (!photos.places) photos.places = new Map(Array.from(D.photos.product, (id, k) => [id, k]));
  const k = photos.places.get(product);
  if (k === undefined) return [];
  photos.bytes ||= bytesOf("photos");
  const {starts, offsets} = D.photos;
  return Array.from({length: starts[k + 1] - starts[k]}, (_, n) => starts[k] + n).map((n) => {
    if (!photos.addresses.has(n))
      photos.addresses.set(
        n,
        URL.createObjectURL(
          new Blob([photos.bytes.subarray(offsets[n], offsets[n + 1])], {type: "image/webp"}),
        ),
      );
    return photos.addresses.get(n);
  });
}

function strip(product, name) {
  const found = thumbnailsOf(product);
  const why = D.values.has_store ? "photo not in this file" : "no photos in this run";
  return el(
    "div",
    {class: "strip"},
    found.length
      ? found.map((src, n) =>
          el(
            "button",
            {
              type: "button",
              class: "thumb",
              title: n ? "Another photo of the same product" : "Enlarge",
              "aria-label": `Enlarge photo ${n + 1} of ${name}`,
              onclick: () => openViewer(found, n, name),
            },
            el("img", {src, alt: ""}),
          ),
        )
      : el("span", {class: "none"}, why),
  );
}

function chip(truth, answer, confidence) {
  const kind = verdict(truth, answer);
  return el(
    "span",
    {class: "chip " + kind, title: verdictText[kind]},
    `${verdictSign[kind]} ${nameIn(answer, truth)}` + sureness(confidence),
  );
}

// An answer where the label is in question, so that it is neither right nor wrong.
const openChip = (label, answer, confidence) =>
  el("span", {class: "chip open"}, nameIn(answer, label) + sureness(confidence));
const sureness = (confidence) => (missing(confidence) ? "" : ` · ${percent(confidence)}`);

// A product with its photos, its label, the answers ([name, chip]), and the buttons of the review.
// `suggested`: the class to correct the label to, or -1.
function photoCard(product, truth, answers, suggested, note = null) {
  const card = el(
    "article",
    {class: "photo"},
    strip(product, `product ${keyOf(product)}, ${titleOf(truth)}`),
    el(
      "dl",
      {},
      el("dt", {}, "Product"),
      el("dd", {}, String(keyOf(product))),
      el("dt", {}, "Label"),
      el(
        "dd",
        {},
        el("a", {href: "#category/" + idOf(truth), title: pathOf(truth)}, titleOf(truth)),
      ),
      answers.map(([name, shown]) => [el("dt", {}, name), el("dd", {}, shown)]).flat(),
    ),
    note ? el("span", {class: "note"}, note) : null,
  );
  const beside = evidenceBox(product, truth, suggested);
  if (beside) card.append(beside);
  card.append(reviewButtons(card, product, truth, suggested));
  return card;
}
