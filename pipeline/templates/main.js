// Views and the search: what the address names after # is shown, drawn when first asked for.

const VIEWS = {overview: (view) => { renderPlot($("plot-card")); renderLost($("lost-card")); renderMetrics($("metrics-card")); },
  categories: renderCategories, hierarchy: renderHierarchy, confusions: renderConfusions, confidence: renderConfidence,
  review: renderReview, items: renderItems, training: renderTraining};
const rendered = new Set();

function render(name) {
  if (rendered.has(name)) return;
  rendered.add(name);
  VIEWS[name]($("view-" + name));
}

function go() {
  const [name, id] = decodeURIComponent(location.hash.slice(1)).split("/");
  const shown = name === "category" && D.byId.has(id) ? "category" : name in VIEWS ? name : "overview";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== "view-" + shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === "#" + shown) {
      link.setAttribute("aria-current", "page");
      link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 2;
    }
    else link.removeAttribute("aria-current");
  }
  tip.hide();
  if (shown === "category") renderCategory($("view-category"), D.byId.get(id));
  else render(shown);
  document.title = (shown === "category" ? nameOf(D.byId.get(id)) : D.values.name) + " · category report";
  scrollTo(0, 0);
}

function setUpSearch() {
  const input = $("search"), list = $("found");
  let found = [], chosen = -1;
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const open = (c) => { input.value = ""; close(); location.hash = "category/" + idOf(c); };
  const mark = (k) => {
    chosen = k;
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === k)));
    if (k >= 0) { list.children[k].scrollIntoView({block: "nearest"}); input.setAttribute("aria-activedescendant", "found-" + k); }
  };
  input.addEventListener("input", () => {
    found = input.value.trim() ? findClasses(input.value, 30) : [];
    list.replaceChildren(...found.map((c, k) => el("li", {role: "option", id: "found-" + k, onmousedown: (e) => { e.preventDefault(); open(c); }},
      nameOf(c), el("small", {}, `${pathOf(c)} · ${idOf(c)}`))));
    if (input.value.trim() && !found.length) list.replaceChildren(el("li", {role: "option", "aria-disabled": "true"}, "No category has this in its name or id"));
    list.hidden = !input.value.trim();
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(found.length ? 0 : -1);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && found.length) { mark((chosen + 1) % found.length); event.preventDefault(); }
    else if (event.key === "ArrowUp" && found.length) { mark((chosen - 1 + found.length) % found.length); event.preventDefault(); }
    else if (event.key === "Enter" && chosen >= 0 && !list.hidden) open(found[chosen]);
    else if (event.key === "Escape") close();
  });
  input.addEventListener("blur", close);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { input.focus(); event.preventDefault(); }
  });
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

// Paper shows every view.
addEventListener("beforeprint", () => {
  for (const name of Object.keys(VIEWS)) { $("view-" + name).hidden = false; render(name); }
});
addEventListener("afterprint", go);

async function start() {
  if (typeof DecompressionStream === "undefined") return problem("This browser is too old for the report: it can't unpack the data. Any Chrome, Edge, Firefox or Safari since 2023 can.");
  await load();
  // The photos stand at the end of the file; only the overview can do without them.
  if (location.hash.length > 1 && document.readyState === "loading") await new Promise((done) => { addEventListener("DOMContentLoaded", done); });
  setUpSearch();
  loadMarks();
  addEventListener("hashchange", go);
  go();
}

start().catch((error) => { problem(`The report could not be drawn: ${error.message}`); throw error; });
