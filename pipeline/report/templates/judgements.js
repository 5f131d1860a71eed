// The review loop: what a person says of a label, kept in the browser, and exported as
// corrections.csv.

const JUDGEMENTS = {
  right: "label is right",
  wrong: "label is wrong",
  photo: "photo is bad",
  unsure: "not sure",
};
// product id (text) -> {state, old, category}: category ids as text, `category` only of a wrong
// label
const marks = new Map();

// Keys on a card: r, s, o, b, u. Each judgement leads on to the next card.
function reviewButtons(card, product, truth, answer) {
  // A twin's picture stands in that category too, so that the model knows it there.
  const suggested = D.twins.has(product) ? -1 : answer;
  const box = el("div", {class: "do"}),
    old = idOf(truth);
  const focus = () => box.querySelector("button")?.focus();
  const judge = (state, category = null) => {
    setMark(product, {state, old, category});
    const next = card.nextElementSibling?.querySelector(".do button");
    if (next) next.focus();
    else focus();
  };
  const button = (key, text, act, kind = "") =>
    el("button", {type: "button", class: kind, title: `Key ${key}`, onclick: act}, text);
  const choose = () => {
    const picker = categoryPicker({
      label: "Right category of product " + keyOf(product),
      placeholder: "Category name or id",
      choose: (c) => (c === truth ? judge("right") : judge("wrong", idOf(c))),
    });
    box.replaceChildren(
      picker,
      el(
        "button",
        {
          type: "button",
          onclick: () => {
            paint();
            focus();
          },
        },
        "Cancel",
      ),
    );
    picker.querySelector("input").focus();
  };
  const actions = {
    r: () => judge("right"),
    s: () => suggested >= 0 && suggested !== truth && judge("wrong", idOf(suggested)),
    o: choose,
    b: () => judge("photo"),
    u: () => judge("unsure"),
  };
  const paint = () => {
    const mark = marks.get(String(product));
    card.classList.toggle("marked", mark !== undefined);
    if (mark) {
      const c = D.byId.get(mark.category),
        text =
          mark.state === "wrong"
            ? "→ " + (c === undefined ? mark.category : titleOf(c))
            : "✓ " + JUDGEMENTS[mark.state];
      box.replaceChildren(
        el("span", {class: "said"}, text),
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              setMark(product, null);
              focus();
            },
          },
          "Undo",
        ),
      );
      return;
    }
    box.replaceChildren(
      ...[
        button("r", "Label is right", actions.r, "right-label"),
        suggested >= 0 && suggested !== truth
          ? button("s", `Correct to ${nameIn(suggested, truth)}`, actions.s, "use")
          : null,
        button("o", "Other category…", choose, "other"),
        button("b", "Bad photo", actions.b),
        button("u", "Not sure", actions.u),
      ].filter(Boolean),
    );
  };
  card.addEventListener("keydown", (event) => {
    if (
      event.target.tagName === "INPUT" ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      marks.has(String(product)) ||
      !(event.key in actions)
    )
      return;
    event.preventDefault();
    actions[event.key]();
  });
  box.repaint = () => {
    if (card.classList.contains("marked") !== marks.has(String(product))) paint();
  };
  paint();
  return box;
}

const storageKey = () => "shelfsort labels " + D.values.key;

function setMark(product, mark) {
  if (mark === null) marks.delete(String(product));
  else marks.set(String(product), mark);
  saveMarks();
}

function saveMarks() {
  try {
    localStorage.setItem(storageKey(), JSON.stringify([...marks]));
  } catch {
    marks.unsaved = true;
  }
  showMarks();
}

// Judgements outlive the page where the browser lets a local file store them.
function loadMarks() {
  try {
    for (const [product, mark] of JSON.parse(localStorage.getItem(storageKey()) || "[]"))
      marks.set(product, mark);
  } catch {
    marks.unsaved = true;
  }
  showMarks();
}

function showMarks() {
  $("marks").hidden = marks.size === 0;
  $("marks").textContent = plural(marks.size, "judged label");
  $("corrections")?.replaceWith(correctionsCard());
  for (const host of document.querySelectorAll(".progress")) paintProgress(host);
  for (const box of document.querySelectorAll(".photo .do")) box.repaint();
}

// How many of `products` have been judged, and how.
function progressOf(products) {
  const host = el("p", {class: "progress note", "aria-live": "polite"});
  host.products = [...new Set(Array.from(products, String))];
  paintProgress(host);
  return host;
}

function paintProgress(host) {
  const states = host.products.map((product) => marks.get(product)?.state).filter(Boolean);
  const counts = Object.entries(JUDGEMENTS)
    .map(([state, text]) => [states.filter((s) => s === state).length, text])
    .filter(([n]) => n);
  host.replaceChildren(
    el("progress", {
      max: Math.max(1, host.products.length),
      value: states.length,
      "aria-label": "Judged labels",
    }),
    ` ${whole(states.length)} of ${whole(host.products.length)} judged`,
    counts.length ? ": " + counts.map(([n, text]) => `${whole(n)} ${text}`).join(", ") : "",
  );
}

// Keys as they are, for ingest to know them again.
const csvOf = (titles, rows) =>
  [titles, ...rows].map((row) => row.map((v) => csvQuoted(String(v))).join(",")).join("\n") + "\n";

function correctionsCard() {
  const rows = [...marks].map(([product, mark]) => ({
      product,
      key: keyOf(Number(product)),
      ...mark,
    })),
    wrong = rows.filter((row) => row.state === "wrong");
  const node = card(
    "Your judgements",
    "Judge labels below, or on a category’s page, and export the " +
      "corrections. “shelfsort ingest … --corrections corrections.csv” takes " +
      "the file, says how many labels it changed, and prints the commands that " +
      "bring the run up to date." +
      (marks.unsaved
        ? " This browser doesn’t keep judgements of a local file: " +
          "export before you close the page."
        : " This browser keeps them until you remove them."),
  );
  node.id = "corrections";
  if (!rows.length) {
    node.append(empty("No label is judged yet."));
    return node;
  }
  const title = (id) => (D.byId.has(id) ? titleOf(D.byId.get(id)) : (id ?? ""));
  const columns = [
    {title: "product_id", value: (i) => rows[i].key, text: (i) => String(rows[i].key)},
    {title: "Judgement", value: (i) => JUDGEMENTS[rows[i].state]},
    {title: "Label", value: (i) => title(rows[i].old)},
    {title: "Correct category", value: (i) => title(rows[i].category)},
    {title: "category_id", value: (i) => rows[i].category ?? ""},
    {
      title: "Undo",
      value: () => "",
      cell: (i) =>
        el("button", {type: "button", onclick: () => setMark(rows[i].product, null)}, "Remove"),
    },
  ];
  const test = wrong.filter((row) => D.testProducts.has(Number(row.product))).length;
  node.append(
    el(
      "div",
      {class: "tools"},
      el(
        "button",
        {
          type: "button",
          class: "main",
          id: "export-corrections",
          disabled: !wrong.length,
          onclick: () =>
            download(
              "corrections.csv",
              csvOf(
                ["product_id", "category_id", "old_category_id"],
                wrong.map((row) => [row.key, row.category, row.old]),
              ),
            ),
        },
        `Export corrections.csv (${whole(wrong.length)})`,
      ),
      el(
        "button",
        {
          type: "button",
          id: "export-judgements",
          onclick: () =>
            download(
              "judgements.csv",
              csvOf(
                ["product_id", "judgement", "old_category_id", "category_id"],
                rows.map((row) => [row.key, row.state, row.old, row.category ?? ""]),
              ),
            ),
        },
        "Export all judgements",
      ),
      el(
        "button",
        {
          type: "button",
          id: "remove-corrections",
          onclick: () => {
            if (
              confirm(
                "Remove " +
                  `${rows.length === 1 ? "the one judgement" : `all ${rows.length} judgements`}? ` +
                  "This can’t be undone.",
              )
            ) {
              marks.clear();
              saveMarks();
            }
          },
        },
        "Remove all",
      ),
    ),
    test
      ? el(
          "p",
          {class: "notice", id: "test-corrections"},
          `${plural(test, "correction")} ${test === 1 ? "is" : "are"} of the test ` +
            "split. Correcting labels towards the model’s answers raises the " +
            "measured accuracy by itself: say beside a later figure how many test " +
            "labels were corrected.",
        )
      : null,
    makeTable({
      name: "corrections-list",
      label: "Judgements",
      rows: rows.length,
      columns,
      save: false,
    }),
  );
  return node;
}
