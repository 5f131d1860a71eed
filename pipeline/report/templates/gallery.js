// Photos, and the review loop: marking a wrong label, and exporting the marks as corrections.csv.

const photos = {bytes: null, addresses: new Map(), places: null};
const marks = new Map(); // product id -> category id, both text

function thumbnailsOf(product) {
  if (!photos.places) photos.places = new Map(Array.from(D.photos.product, (id, k) => [id, k]));
  const k = photos.places.get(product);
  if (k === undefined) return [];
  photos.bytes ||= bytesOf("photos");
  const {starts, offsets} = D.photos;
  return Array.from({length: starts[k + 1] - starts[k]}, (_, n) => starts[k] + n).map((n) => {
    if (!photos.addresses.has(n)) photos.addresses.set(n, URL.createObjectURL(new Blob([photos.bytes.subarray(offsets[n], offsets[n + 1])], {type: "image/webp"})));
    return photos.addresses.get(n);
  });
}

function strip(product, name) {
  const found = thumbnailsOf(product);
  const why = D.values.has_store ? "photo not in this file" : "no photos in this run";
  return el("div", {class: "strip"}, found.length ? found.map((src, n) => el("button", {type: "button", class: "thumb", title: n ? "Another photo of the same product" : "Enlarge", "aria-label": `Enlarge photo ${n + 1} of ${name}`, onclick: () => openViewer(found, n, name)}, el("img", {src, alt: ""}))) : el("span", {class: "none"}, why));
}

function chip(truth, answer, confidence) {
  const kind = verdict(truth, answer);
  return el("span", {class: "chip " + kind, title: verdictText[kind]}, `${verdictSign[kind]} ${nameIn(answer, truth)}` + (missing(confidence) ? "" : ` · ${percent(confidence, 0)}`));
}

// A product with its photos, its label, the answers, and the buttons of the review.
function photoCard(product, truth, answers, suggested, note = null) {
  const card = el("article", {class: "photo"}, strip(product, `product ${product}, ${titleOf(truth)}`),
    el("dl", {}, el("dt", {}, "Product"), el("dd", {}, String(product)), el("dt", {}, "Label"), el("dd", {}, el("a", {href: "#category/" + idOf(truth), title: pathOf(truth)}, titleOf(truth))),
      answers.map(([name, answer, confidence]) => [el("dt", {}, name), el("dd", {}, chip(truth, answer, confidence))]).flat()),
    note ? el("span", {class: "note"}, note) : null);
  card.append(reviewButtons(card, product, truth, suggested));
  return card;
}

function reviewButtons(card, product, truth, suggested) {
  const box = el("div", {class: "do"});
  const paint = () => {
    const marked = marks.get(String(product));
    card.classList.toggle("marked", marked !== undefined);
    if (marked !== undefined) {
      const c = D.byId.get(marked);
      box.replaceChildren(el("span", {}, "→ " + (c === undefined ? marked : titleOf(c))), el("button", {type: "button", onclick: () => { setMark(product, null); paint(); box.querySelector("button").focus(); }}, "Undo"));
      return;
    }
    const choose = (c) => { setMark(product, idOf(c)); paint(); box.querySelector("button").focus(); };
    const other = el("button", {type: "button", onclick: () => {
      const picker = categoryPicker({label: "Right category of product " + product, placeholder: "Category name or id", choose});
      box.replaceChildren(picker, el("button", {type: "button", onclick: () => { paint(); box.querySelector("button").focus(); }}, "Cancel"));
      picker.querySelector("input").focus();
    }}, "Choose another category…");
    const use = suggested >= 0 && suggested !== truth ? el("button", {type: "button", class: "use", onclick: () => choose(suggested)}, `Correct to ${nameIn(suggested, truth)}`) : null;
    box.replaceChildren(...[use, other].filter(Boolean));
  };
  paint();
  return box;
}

function setMark(product, category) {
  if (category === null) marks.delete(String(product));
  else marks.set(String(product), category);
  try { localStorage.setItem("shelfsort " + D.values.key, JSON.stringify([...marks])); } catch { marks.unsaved = true; }
  showMarks();
}

// Marks outlive the page where the browser lets a local file store them.
function loadMarks() {
  try { for (const [product, category] of JSON.parse(localStorage.getItem("shelfsort " + D.values.key) || "[]")) marks.set(product, category); } catch { marks.unsaved = true; }
  showMarks();
}

function showMarks() {
  $("marks").hidden = marks.size === 0;
  $("marks").textContent = plural(marks.size, "correction");
  const panel = $("corrections");
  if (panel) panel.replaceWith(correctionsCard());
}

function correctionsCard() {
  const rows = [...marks];
  const node = card("Your corrections", "Correct wrong labels below or on a category’s page, export them, and hand the file to whoever runs shelfsort (“shelfsort ingest --corrections corrections.csv” takes it)." +
    (marks.unsaved ? " This browser doesn’t keep marks of a local file: export before you close the page." : " This browser keeps them until you remove them."));
  node.id = "corrections";
  if (!rows.length) { node.append(empty("No label is corrected yet.")); return node; }
  const columns = [
    {title: "product_id", value: (i) => Number(rows[i][0]), text: (i) => rows[i][0]},
    {title: "category_id", value: (i) => Number(rows[i][1]), text: (i) => rows[i][1]},
    {title: "Category", value: (i) => (D.byId.has(rows[i][1]) ? titleOf(D.byId.get(rows[i][1])) : "")},
    {title: "", value: () => "", cell: (i) => el("button", {type: "button", onclick: () => setMark(rows[i][0], null)}, "Remove")},
  ];
  node.append(el("div", {class: "tools"}, el("button", {type: "button", class: "main", id: "export-corrections", onclick: () =>
    download("corrections.csv", ["product_id,category_id", ...rows.map((row) => row.join(","))].join("\n") + "\n")}, "Export corrections.csv"),
    el("button", {type: "button", id: "remove-corrections", onclick: () => { if (confirm(`Remove ${rows.length === 1 ? "the one correction" : `all ${rows.length} corrections`}? This can’t be undone.`)) { marks.clear(); setMark("", null); } }}, "Remove all")),
    makeTable({name: "corrections-list", label: "Corrections", rows: rows.length, columns, save: false}));
  return node;
}
