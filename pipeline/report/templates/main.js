// Views and the search: what the address names after # is shown, drawn when first asked for.

const VIEWS = {overview: (view) => { renderPlot($("plot-card")); renderLost($("lost-card")); renderMetrics($("metrics-card")); renderApart($("apart-card")); },
  categories: renderCategories, hierarchy: renderHierarchy, confusions: renderConfusions, confidence: renderConfidence,
  review: renderReview, items: renderItems, training: renderTraining};
const ARRIVED = {hierarchy: showNodes};
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
  scrollTo(0, 0);
  if (shown === "category") renderCategory($("view-category"), D.byId.get(id));
  else { render(shown); ARRIVED[shown]?.(id); }
  document.title = (shown === "category" ? titleOf(D.byId.get(id)) : D.values.name) + " · category report";
}

function setUpSearch() {
  const picker = categoryPicker({id: "search", label: "Find a category by name or id", placeholder: "Find a category by name or id", choose: (c) => { location.hash = "category/" + idOf(c); }});
  $("search-box").append(picker);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) { $("search").focus(); event.preventDefault(); }
  });
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

// Paper shows the view that is open, or all of them where the button asked for that.
let printAll = false;

addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printing");
  if (printAll) for (const name of Object.keys(VIEWS)) { $("view-" + name).hidden = false; render(name); ARRIVED[name]?.(); }
  redrawCharts();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  if (printAll) { printAll = false; go(); }
  redrawCharts();
});

function setUpPrinting() {
  $("print-all").addEventListener("click", () => { printAll = true; print(); });
}

async function start() {
  if (typeof DecompressionStream === "undefined") return problem("This browser is too old for the report: it can't unpack the data. Any Chrome, Edge, Firefox or Safari since 2023 can.");
  await load();
  // The photos stand at the end of the file; only the overview can do without them.
  if (location.hash.length > 1 && document.readyState === "loading") await new Promise((done) => { addEventListener("DOMContentLoaded", done); });
  setUpSearch();
  setUpViewer();
  setUpPrinting();
  loadMarks();
  addEventListener("hashchange", go);
  go();
}

start().catch((error) => { problem(`The report could not be drawn: ${error.message}`); throw error; });
