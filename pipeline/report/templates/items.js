// The evaluated items, filtered by conditions that stand in the address, as a table or as photos: a
// link shows what its sender saw. A cell of the matrix, a pair and a count lead here.

const OUTCOMES = [
  ["all", "any"],
  ["errors", "wrong"],
  ["fixed", "fixed by stage 2"],
  ["broken", "broken by stage 2"],
  ["wrong", "wrong before and after"],
  ["right", "right before and after"],
];
const ANY_ITEM = {
  true: "",
  answer: "",
  family: "",
  outcome: "all",
  low: "0",
  high: "100",
  refined: "",
  run: "",
  sort: "",
  show: "table",
};

function outcomeOf(i) {
  const truth = D.columns["item.true"][i],
    before = D.columns["item.shifted"][i] === truth,
    after = D.columns["item.two_stage"][i] === truth;
  return before ? (after ? "right" : "broken") : after ? "fixed" : "wrong";
}

// `which` is "" for any item, or "2-gained" and "2-lost" for those that only the second of the
// compared runs gets right, or only this one.
function movedIn(which, i) {
  if (!which) return true;
  const [number, kind] = which.split("-"),
    other = D.columns[`item.run${number}`]?.[i];
  if (!other) return false;
  const truth = D.columns["item.true"][i],
    right = other - 1 === truth;
  return right !== (D.columns["item.two_stage"][i] === truth) && right === (kind === "gained");
}

function runOptions() {
  const runs = D.values.runs.slice(1).filter((_, k) => D.columns[`item.run${k + 1}`]);
  return runs.flatMap(({name}, k) => [
    [`${k + 1}-gained`, `right in ${name} only`],
    [`${k + 1}-lost`, `wrong in ${name} only`],
  ]);
}

function itemsAddress(state) {
  const given = Object.entries(state).filter(([key, value]) => value !== ANY_ITEM[key]);
  return "items" + (given.length ? "/" + new URLSearchParams(given) : "");
}

// The items of category `truth` that both stages sorted into `answer`, as photos.
const itemsOf = (truth, answer) =>
  "#" + itemsAddress({...ANY_ITEM, true: idOf(truth), answer: idOf(answer), show: "photos"});
const countLink = (truth, answer, n) =>
  n
    ? el(
        "a",
        {href: itemsOf(truth, answer), "aria-label": `${plural(n, D.unit)}: show photos`},
        whole(n),
      )
    : "0";

function itemsWhere(state) {
  const {
    "item.true": truth,
    "item.two_stage": answer,
    "item.two_stage.confidence": confidence,
    "item.refined": refined,
  } = D.columns;
  const wanted = D.byId.get(state.true),
    got = D.byId.get(state.answer),
    family = state.family === "" ? -1 : Number(state.family),
    low = 10 * Number(state.low),
    high = 10 * Number(state.high);
  return Uint32Array.from(truth.keys()).filter(
    (i) =>
      (wanted === undefined || truth[i] === wanted) &&
      (got === undefined || answer[i] === got) &&
      (family < 0 || D.level2[truth[i]] === family) &&
      confidence[i] >= low &&
      confidence[i] <= high &&
      (state.refined === "" || refined[i] === Number(state.refined)) &&
      movedIn(state.run, i) &&
      (state.outcome === "all" ||
        (state.outcome === "errors" ? truth[i] !== answer[i] : outcomeOf(i) === state.outcome)),
  );
}

function itemColumns() {
  const c = (name) => D.columns["item." + name],
    position = c("position");
  const answers = (system) => {
    const title = SYSTEM_NAMES[system],
      hidden = system !== "two_stage";
    return [
      {title, value: (i) => titleOf(c(system)[i]), cell: (i) => chip(c("true")[i], c(system)[i])},
      {title: `${title}: category_id`, hidden: true, value: (i) => D.values.names.id[c(system)[i]]},
      {
        title: `${title}: confidence`,
        head: "Confidence",
        hidden,
        numeric: true,
        value: (i) => shareOf(c(system + ".confidence"), i),
        text: (i) => percent(shareOf(c(system + ".confidence"), i)),
      },
      {
        title: `${title}: rank of the truth`,
        head: "Rank of the truth",
        hidden,
        hint: "1: the truth comes first",
        numeric: true,
        value: (i) => c(system + ".rank")[i] + 1,
      },
    ];
  };
  return [
    {title: "product_id", value: (i) => keyOf(c("product")[i])},
    ...(position
      ? [{title: "image", hint: "Counted from 1", numeric: true, value: (i) => position[i] + 1}]
      : []),
    ...categoryColumns("Label", (i) => c("true")[i]),
    ...answers("two_stage"),
    {title: "Outcome", hint: "What stage 2 made of stage 1, adjusted", value: outcomeOf},
    ...answers("shifted"),
    ...answers("stage1"),
    {title: "Stage 2 asked", value: (i) => (c("refined")[i] ? "yes" : "no")},
  ];
}

function itemsTable(state, rows, change) {
  const c = (name) => D.columns["item." + name],
    [number, way] = state.sort.split("-");
  const match = (query) => {
    const found = new Uint8Array(D.classes);
    for (const k of findClasses(query)) found[k] = 1;
    return (i) =>
      found[c("true")[i]] ||
      SYSTEMS.some((s) => found[c(s)[i]]) ||
      String(keyOf(c("product")[i])).includes(query);
  };
  return makeTable({
    name: "items",
    label: `Evaluated ${D.unit}s`,
    rows,
    columns: itemColumns(),
    match,
    page: 25,
    sort: number ? [Number(number), way === "down"] : undefined,
    onsort: (column, down) => change({sort: `${column}-${down ? "down" : "up"}`}, false),
  });
}

function categoryFilter(label, key, state, change) {
  const picker = categoryPicker({
    label,
    placeholder: "any category",
    keep: true,
    choose: (c) => change({[key]: idOf(c)}),
    clear: () => change({[key]: ""}),
  });
  if (D.byId.has(state[key])) picker.querySelector("input").value = titleOf(D.byId.get(state[key]));
  return el("label", {class: "field"}, label, picker);
}

function itemFilters(state, change) {
  const {level1, level2, parent} = D.values.names,
    families = level2.map((name, f) => [
      String(f),
      [level1[parent[f]], name].filter(Boolean).join(" › ") || "All",
    ]);
  const percentField = (label, key) =>
    numberField(label, {min: 0, max: 100, step: 1, value: state[key]}, (value) =>
      change({[key]: value || ANY_ITEM[key]}),
    );
  return el(
    "div",
    {class: "tools", role: "group", "aria-label": "Filters"},
    categoryFilter("Label", "true", state, change),
    categoryFilter("Answer", "answer", state, change),
    chooser("Family", [["", "any"], ...families], state.family, (family) => change({family})),
    chooser("Outcome", OUTCOMES, state.outcome, (outcome) => change({outcome})),
    percentField("Confidence from, %", "low"),
    percentField("to, %", "high"),
    chooser(
      "Stage 2 asked",
      [
        ["", "either"],
        ["1", "yes"],
        ["0", "no"],
      ],
      state.refined,
      (refined) => change({refined}),
    ),
    runOptions().length
      ? chooser("Compared", [["", "any"], ...runOptions()], state.run, (run) => change({run}))
      : null,
    toggle(
      "Shown as",
      [
        ["table", "Table"],
        ["photos", "Photos"],
      ],
      state.show,
      (show) => change({show}),
    ),
    el("button", {type: "button", onclick: () => change({...ANY_ITEM, show: state.show})}, "Clear"),
  );
}

function renderItems(view) {
  const all = D.support.reduce((sum, count) => sum + count, 0),
    n = D.columns["item.true"].length;
  const listed =
    n < all
      ? `Listed are ${whole(n)} of ${plural(all, D.unit)}: of each category the ` +
        "wrong ones and the least certain; evaluation/items.parquet has all. "
      : "";
  view.append(
    el(
      "p",
      {class: "lead"},
      listed +
        ("The label is the catalogue’s category. The outcome compares both stages " +
          "with stage 1, adjusted. The export holds every answer’s id, confidence " +
          "and rank. The address of this page holds the filters: send it to show " +
          "the same."),
    ),
    el(
      "div",
      {class: "card"},
      el("div", {id: "item-filters"}),
      el("p", {class: "note", id: "items-found", "aria-live": "polite"}),
      el("div", {id: "items-shown"}),
    ),
  );
}

function showItems(address) {
  const state = {...ANY_ITEM, ...Object.fromEntries(new URLSearchParams(address || ""))};
  const change = (part, again = true) => {
    Object.assign(state, part);
    setAddress(itemsAddress(state));
    if (again) draw();
  };
  const draw = () => {
    const rows = itemsWhere(state),
      own = D.columns["item.own"],
      pictured = (i) => (thumbnailsOf(D.columns["item.product"][i]).length ? 0 : 1);
    const focused = document.activeElement?.closest("#item-filters")
      ? [...$("item-filters").querySelectorAll("input, select, button")].indexOf(
          document.activeElement,
        )
      : -1;
    $("item-filters").replaceChildren(itemFilters(state, change));
    $("item-filters").querySelectorAll("input, select, button")[focused]?.focus();
    $("items-found").textContent = `${plural(rows.length, D.unit)} match.`;
    $("items-shown").replaceChildren(
      state.show === "photos"
        ? galleryCard(
            "Photos",
            "Those to whose label the model gives least come first.",
            Array.from(rows).sort((a, b) => pictured(a) - pictured(b) || own[a] - own[b]),
            rows.length,
            `No ${D.unit} matches the filters.`,
          )
        : itemsTable(state, rows, change),
    );
  };
  draw();
}
