// Views and the search: what the address names after # is shown, drawn when first asked for.

const VIEWS = {
  overview: () => {
    renderPlot($("plot-card"));
    renderDepartments($("departments-card"));
    renderLost($("lost-card"));
    renderMetrics($("metrics-card"));
    renderApart($("apart-card"));
  },
  categories: renderCategories,
  hierarchy: renderHierarchy,
  confusions: renderConfusions,
  confidence: renderConfidence,
  slices: renderSlices,
  map: renderMap,
  review: renderReview,
  items: renderItems,
  training: renderTraining,
};
const ARRIVED = {hierarchy: showNodes, items: showItems, confidence: showThreshold};
const rendered = new Set();

function render(name) {
  if (rendered.has(name)) return;
  rendered.add(name);
  VIEWS[name]($("view-" + name));
}

// The address without a new entry in the history: filters, threshold, sorting.
function setAddress(address) {
  history.replaceState(history.state, "", "#" + address);
}

// Each entry of the history keeps its place on the page, so that Back leads to where one was.
const scrolled = new Map();
let entry = 0;

function keepPlace() {
  history.scrollRestoration = "manual";
  addEventListener(
    "scroll",
    () => {
      if (history.state?.entry === entry) scrolled.set(entry, scrollY);
    },
    {passive: true},
  );
}

function arrive(focus) {
  const returning = history.state?.entry !== undefined;
  entry = returning ? history.state.entry : Math.max(0, ...scrolled.keys()) + 1;
  if (!returning) {
    history.replaceState({entry}, "");
    scrolled.set(entry, 0);
  }
  scrollTo(0, scrolled.get(entry) || 0);
  if (focus && !returning) $("content").focus({preventScroll: true});
}

function go(event) {
  const address = location.hash.slice(1),
    name = address.split("/")[0],
    rest = address.slice(name.length + 1);
  const id = name === "items" ? rest : decodeURIComponent(rest);
  const shown =
    name === "category" && D.byId.has(id) ? "category" : name in VIEWS ? name : "overview";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== "view-" + shown;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === "#" + shown) {
      link.setAttribute("aria-current", "page");
      link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 2;
    } else link.removeAttribute("aria-current");
  }
  tip.hide();
  if (shown === "category") renderCategory($("view-category"), D.byId.get(id));
  else {
    render(shown);
    ARRIVED[shown]?.(id);
  }
  document.title =
    (shown === "category" ? titleOf(D.byId.get(id)) : D.values.name) + " · category report";
  if (!(name === "hierarchy" && id)) arrive(event instanceof HashChangeEvent);
}

function setUpSearch() {
  const picker = categoryPicker({
    id: "search",
    label: "Find a category by name or id",
    placeholder: "Find a category by name or id",
    choose: (c) => {
      location.hash = "category/" + idOf(c);
    },
  });
  $("search-box").append(picker);
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      $("search").focus();
      event.preventDefault();
    }
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
  if (printAll)
    for (const name of Object.keys(VIEWS)) {
      $("view-" + name).hidden = false;
      render(name);
      ARRIVED[name]?.();
    }
  redrawCharts();
});
addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printing");
  if (printAll) {
    printAll = false;
    go();
  }
  redrawCharts();
});

function setUpPrinting() {
  $("print-all").addEventListener("click", () => {
    printAll = true;
    print();
  });
}

async function start() {
  if (typeof DecompressionStream === "undefined")
    return problem(
      "This browser is too old for the report: it can't unpack the data. Any " +
        "Chrome, Edge, Firefox or Safari since 2023 can.",
    );
  await load();
  // The photos stand at the end of the file; only the overview can do without them.
  if (location.hash.length > 1 && document.readyState === "loading")
    await new Promise((done) => {
      addEventListener("DOMContentLoaded", done);
    });
  setUpSearch();
  setUpViewer();
  setUpPrinting();
  loadMarks();
  keepPlace();
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("content").focus();
    $("content").scrollIntoView();
  });
  addEventListener("hashchange", go);
  go();
}

start().catch((error) => {
  problem(`The report could not be drawn: ${error.message}`);
  throw error;
});
