// A table that sorts, filters, pages and exports, over row numbers: it holds no copy of the rows.
//
// columns: {title, value(i) -> number or text, text(i) -> text shown, cell(i) -> node instead, numeric}
// match(query) -> (i) => boolean; by default any column's text holds the query.

const PAGE = 20;

function makeTable({name, label, rows, columns, sort, match, filter = true, page = PAGE, extra = []}) {
  const seen = columns.filter((column) => !column.hidden); // hidden ones are exported only
  const state = {sort, order: null, page: 0, query: ""};
  const all = typeof rows === "number" ? Uint32Array.from({length: rows}, (_, i) => i) : Uint32Array.from(rows);
  const textOf = (column, i) => (column.text ? column.text(i) : String(column.value(i) ?? ""));
  const matcher = match || ((query) => (i) => seen.some((column) => textOf(column, i).toLowerCase().includes(query)));
  const head = el("tr", {}), body = el("tbody", {}), said = el("span", {"aria-live": "polite"});
  const previous = el("button", {type: "button", onclick: () => show(state.page - 1)}, "Previous");
  const next = el("button", {type: "button", onclick: () => show(state.page + 1)}, "Next");

  function arrange() {
    const query = state.query.trim().toLowerCase();
    const order = query ? all.filter(matcher(query)) : all.slice();
    if (state.sort) sortRows(order, seen[state.sort[0]], state.sort[1]);
    state.order = order;
    show(0);
  }
  function show(wanted) {
    const last = Math.max(0, Math.ceil(state.order.length / page) - 1);
    state.page = Math.min(Math.max(wanted, 0), last);
    const from = state.page * page, shown = state.order.subarray(from, from + page);
    body.replaceChildren(...Array.from(shown, (i) => el("tr", {}, seen.map((column) =>
      el("td", {class: column.numeric ? "number" : ""}, column.cell ? column.cell(i) : textOf(column, i))))));
    said.textContent = state.order.length ? `${whole(from + 1)}–${whole(from + shown.length)} of ${whole(state.order.length)}` : "nothing found";
    previous.disabled = state.page === 0;
    next.disabled = state.page === last;
    previous.hidden = next.hidden = all.length <= page;
  }
  seen.forEach((column, number) => {
    const cell = el("th", {scope: "col", class: column.numeric ? "number" : ""});
    cell.append(el("button", {type: "button", title: column.hint || "", onclick: () => {
      const down = state.sort && state.sort[0] === number ? !state.sort[1] : !!column.numeric;
      state.sort = [number, down];
      paintHead();
      arrange();
    }}, column.title));
    head.append(cell);
  });
  function paintHead() {
    [...head.children].forEach((cell, number) => {
      if (state.sort && state.sort[0] === number) cell.setAttribute("aria-sort", state.sort[1] ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
  }
  const input = el("input", {type: "search", placeholder: "Filter", "aria-label": "Filter " + label});
  let waiting = 0;
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = input.value; arrange(); }, all.length > 20000 ? 150 : 0);
  });
  const save = el("button", {type: "button", onclick: () => downloadTable(name, columns.map((c) => c.title),
    Array.from(state.order, (i) => columns.map((c) => c.value(i))))}, "Export CSV");
  const box = el("div", {class: "table", id: "table-" + name},
    el("div", {class: "tools"}, filter ? input : null, ...extra, el("span", {class: "grow"}), save),
    el("div", {class: "scroll"}, el("table", {"aria-label": label}, el("thead", {}, head), body)),
    el("div", {class: "pager"}, previous, next, said));
  paintHead();
  arrange();
  return box;
}

function sortRows(order, column, down) {
  const keys = new Map();
  for (const i of order) keys.set(i, column.value(i));
  const sign = down ? -1 : 1;
  order.sort((a, b) => {
    const x = keys.get(a), y = keys.get(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
    return (typeof x === "string" ? sign * x.localeCompare(y) : sign * (x - y)) || a - b;
  });
}

const categoryColumn = (title, of) => ({title, value: (i) => nameOf(of(i)), text: (i) => `${nameOf(of(i))} ${pathOf(of(i))} ${idOf(of(i))}`, cell: (i) => categoryLink(of(i))});
const idColumn = (title, of) => ({title, value: (i) => D.values.names.id[of(i)]});
