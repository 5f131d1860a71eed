// A table that sorts, filters, pages and exports, over row numbers: it holds no copy of the rows.
//
// columns: {title, value(i) -> number or text, text(i) -> text shown, cell(i) -> node instead,
// numeric, rate, head (a shorter title to show), hidden (only exported)}
// stack: in a narrow window each row is a small list, so that nothing needs to be scrolled for.
// support(i): products (or what `unit` names) behind row i; sorted by a rate, rows with few come
// last, so that a 0% of one product drowns nothing.
// match(query) -> (i) => boolean; by default any column's text holds the query.

const PAGE = 20;
// So many rows are seen at a glance, without a filter.
const FEW = 5;

function makeTable({
  name,
  label,
  rows,
  columns,
  sort,
  match,
  save = true,
  page = PAGE,
  extra = [],
  support = null,
  stack = false,
  unit = D.unit,
  onsort = null,
}) {
  const seen = columns.filter((column) => !column.hidden); // hidden ones are exported only
  const state = {sort, order: null, page: 0, query: "", least: 0};
  const all =
    typeof rows === "number"
      ? Uint32Array.from({length: rows}, (_, i) => i)
      : Uint32Array.from(rows);
  const textOf = (column, i) => (column.text ? column.text(i) : String(column.value(i) ?? ""));
  const matcher =
    match ||
    ((query) => (i) => seen.some((column) => textOf(column, i).toLowerCase().includes(query)));
  const head = el("tr", {}),
    body = el("tbody", {}),
    said = el("span", {"aria-live": "polite"}),
    last = el("span", {});
  const first = el("button", {type: "button", onclick: () => show(0)}, "First"),
    final = el("button", {type: "button", onclick: () => show(Infinity)}, "Last");
  const sizes = chooser(
    "Rows",
    [...new Set([page, 10, 25, 100])].sort((a, b) => a - b).map((n) => [String(n), String(n)]),
    String(page),
    (n) => {
      page = Number(n);
      show(0);
    },
  );
  const previous = el("button", {type: "button", onclick: () => show(state.page - 1)}, "Previous");
  const next = el("button", {type: "button", onclick: () => show(state.page + 1)}, "Next");

  function arrange() {
    const query = state.query.trim().toLowerCase();
    let order = query ? all.filter(matcher(query)) : all.slice();
    if (state.least) order = order.filter((i) => support(i) >= state.least);
    if (state.sort) sortRows(order, seen[state.sort[0]], state.sort[1], support);
    const few =
      support && state.sort && seen[state.sort[0]].rate
        ? order.reduce((n, i) => n + (support(i) < D.minSupport), 0)
        : 0;
    last.textContent = few
      ? `${whole(few)} with fewer than ${D.minSupport} ${unit}s stand last`
      : "";
    state.order = order;
    show(0);
  }
  function show(wanted) {
    const end = Math.max(0, Math.ceil(state.order.length / page) - 1);
    state.page = Math.min(Math.max(wanted, 0), end);
    const from = state.page * page,
      shown = state.order.subarray(from, from + page);
    body.replaceChildren(
      ...Array.from(shown, (i) =>
        el(
          "tr",
          {},
          seen.map((column) =>
            el(
              "td",
              {class: column.numeric ? "number" : "", "data-title": column.title},
              column.cell ? column.cell(i) : textOf(column, i),
            ),
          ),
        ),
      ),
    );
    said.textContent = state.order.length
      ? `${whole(from + 1)}–${whole(from + shown.length)} of ${whole(state.order.length)}`
      : "nothing found";
    said.hidden = all.length <= page && state.order.length === all.length;
    first.disabled = previous.disabled = state.page === 0;
    next.disabled = final.disabled = state.page === end;
    sizes.hidden = all.length <= 10;
    input.hidden = all.length <= FEW;
    for (const button of [first, previous, next, final]) button.hidden = all.length <= page;
  }
  seen.forEach((column, number) => {
    const cell = el("th", {scope: "col", class: column.numeric ? "number" : ""});
    cell.append(
      el(
        "button",
        {
          type: "button",
          title: column.hint || "",
          onclick: () => {
            const down = state.sort && state.sort[0] === number ? !state.sort[1] : !!column.numeric;
            state.sort = [number, down];
            onsort?.(number, down);
            paintHead();
            arrange();
          },
        },
        column.head || column.title,
      ),
    );
    head.append(cell);
  });
  function paintHead() {
    [...head.children].forEach((cell, number) => {
      if (state.sort && state.sort[0] === number)
        cell.setAttribute("aria-sort", state.sort[1] ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }
  const input = el("input", {
    type: "search",
    placeholder: "Filter",
    "aria-label": "Filter " + label,
  });
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(
      () => {
        state.query = input.value;
        arrange();
      },
      all.length > 20000 ? 150 : 0,
    );
  });
  const button = el(
    "button",
    {
      type: "button",
      "aria-label": `Export CSV: ${label}`,
      onclick: () =>
        downloadTable(
          name,
          columns.map((c) => c.title),
          Array.from(state.order, (i) => columns.map((c) => c.value(i))),
        ),
    },
    "Export CSV",
  );
  const box = el(
    "div",
    {class: stack ? "table stack" : "table", id: "table-" + name},
    el(
      "div",
      {class: "tools"},
      input,
      ...extra,
      support
        ? leastChooser(
            0,
            (least) => {
              state.least = least;
              arrange();
            },
            unit,
          )
        : null,
      el("span", {class: "grow"}),
      save ? button : null,
    ),
    el(
      "div",
      {class: "scroll", tabIndex: 0, role: "region", "aria-label": label},
      el("table", {"aria-label": label}, el("thead", {}, head), body),
    ),
    el("div", {class: "pager"}, first, previous, next, final, said, sizes, last),
  );
  paintHead();
  arrange();
  return box;
}

// Only rows with at least so many evaluated products.
function leastChooser(chosen, onchange, unit) {
  return chooser(
    `At least`,
    [
      [0, `any number of ${unit}s`],
      ...[D.minSupport, 20, 100].map((n) => [n, plural(n, unit)]),
    ].map(([n, text]) => [String(n), text]),
    String(chosen),
    (n) => onchange(Number(n)),
  );
}

function sortRows(order, column, down, support) {
  const keys = new Map(),
    few = (i) => (support && column.rate && support(i) < D.minSupport ? 1 : 0);
  for (const i of order) keys.set(i, column.value(i));
  const sign = down ? -1 : 1;
  order.sort((a, b) => {
    const x = keys.get(a),
      y = keys.get(b);
    if (few(a) !== few(b)) return few(a) - few(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
    return (typeof x === "string" ? sign * x.localeCompare(y) : sign * (x - y)) || a - b;
  });
}

// A category, and for the export its id beside the name.
const categoryColumns = (title, of) => [
  categoryColumn(title, of),
  {title: `${title}: category_id`, hidden: true, value: (i) => D.values.names.id[of(i)]},
];
const categoryColumn = (title, of) => ({
  title,
  value: (i) => titleOf(of(i)),
  text: (i) => `${nameOf(of(i))} ${pathOf(of(i))} ${idOf(of(i))}`,
  cell: (i) => categoryLink(of(i)),
});
const rateColumn = (title, value, hint = "") => ({
  title,
  hint,
  numeric: true,
  rate: true,
  value,
  text: (i) => percent(value(i)),
});
const countColumn = (title, value, hint = "") => ({
  title,
  hint,
  numeric: true,
  value,
  text: (i) => whole(value(i)),
});
const decimalColumn = (title, value, {digits = 2, hint = "", absent = "–"} = {}) => ({
  title,
  hint,
  numeric: true,
  value,
  text: (i) => (missing(value(i)) ? absent : decimal(value(i), digits)),
});
// A change of shares, in points; of counts, of which fewer are better.
const pointsColumn = (title, value, hint = "") => ({
  title,
  hint,
  numeric: true,
  rate: true,
  value,
  cell: (i) => changed(value(i), (v) => (100 * v).toFixed(1)),
});
const fewerColumn = (title, value, hint = "") => ({
  title,
  hint,
  numeric: true,
  value,
  cell: (i) =>
    el("span", {class: value(i) < 0 ? "up" : value(i) > 0 ? "down" : ""}, signed(value(i), whole)),
});
// A share with its interval, whose ends are exported.
const intervalColumns = (title, of, show = interval) => [
  {title, numeric: true, rate: true, value: (i) => of(i)?.value, text: (i) => show(of(i))},
  ...["low", "high"].map((end) => ({
    title: `${title}: ${end} end`,
    hidden: true,
    value: (i) => of(i)?.[end],
  })),
];
const idColumn = (title, of) => ({title, value: (i) => D.values.names.id[of(i)]});
