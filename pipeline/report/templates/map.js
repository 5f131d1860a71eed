// A map of the evaluated products by what the networks see: draw around some, look at their photos,
// judge their labels.

const MAP_COLOURS = [
  ["outcome", "right or wrong"],
  ["level1", "level 1"],
  ["confidence", "confidence"],
];
const LASSO_SHOWN = 48;

function mapItems() {
  const at = new Map();
  D.columns["item.product"].forEach((product, i) => {
    if (!at.has(product)) at.set(product, i);
  });
  const {"map.product": product, "map.x": x, "map.y": y} = D.columns;
  return Array.from(product.keys())
    .filter((k) => at.has(product[k]))
    .map((k) => ({item: at.get(product[k]), x: x[k], y: y[k]}));
}

// Even-odd rule: whether (x, y) lies in the polygon of points [x, y].
function inside(polygon, x, y) {
  let odd = false;
  polygon.forEach(([ax, ay], k) => {
    const [bx, by] = polygon[(k + 1) % polygon.length];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  });
  return odd;
}

function mapColour(colours, {item}, by) {
  const c = (name) => D.columns["item." + name][item];
  if (by === "confidence")
    return accuracyColour(colours, shareOf(D.columns["item.two_stage.confidence"], item));
  if (by === "level1") return level1Colour(D.level1[c("true")]);
  return verdictColours(colours)[verdict(c("true"), c("two_stage"))];
}

const level1Colour = (k) => `hsl(${(k * 137) % 360} 55% 50%)`;
const verdictColours = ({accent, near, wrong}) => ({right: accent, near, wrong});

// What the colours mean; of many level 1 the hints say it.
function mapLegend(colours, by, width) {
  const names = {
    outcome: Object.entries(verdictColours(colours)).map(([kind, c]) => [verdictText[kind], c]),
    confidence: [0, 0.5, 1].map((share) => [percent(share, 0), accuracyColour(colours, share)]),
    level1: D.values.names.level1.map((name, k) => [name, level1Colour(k)]),
  }[by];
  const wide = names.reduce((sum, [name]) => sum + 36 + 6.7 * name.length, 0);
  return wide < width ? legend(colours, names, 12) : [];
}

function mapHint({item}) {
  const c = (name) => D.columns["item." + name][item],
    [photo] = thumbnailsOf(c("product"));
  return [
    photo ? el("img", {src: photo, alt: "", class: "hint-photo"}) : null,
    el("b", {}, titleOf(c("true"))),
    pairsOf([
      ["Answer", titleOf(c("two_stage"))],
      ["Product", String(keyOf(c("product")))],
    ]),
  ].filter(Boolean);
}

function renderMap(view) {
  const points = mapItems(),
    state = {by: "outcome", polygon: [], chosen: []};
  if (!points.length) {
    view.append(empty("The run has no features of this store, so that there is no map."));
    return;
  }
  const found = el("div", {id: "map-found"});
  const choose = (chosen) => {
    state.chosen = chosen;
    found.replaceChildren(...lassoed(chosen));
  };
  const chart = makeChart(
    `Map of ${plural(points.length, D.unit)}: alike ones lie side by side; ` +
      `the table of all items holds the same ${D.unit}s`,
    560,
    (colours, width, height) => {
      const x = (v) => 12 + v * (width - 24),
        y = (v) => 36 + v * (height - 48);
      Object.assign(state, {x, y});
      return [
        ...mapLegend(colours, state.by, width),
        ...points.map((point) =>
          hinted(
            svg("circle", {
              class: "node",
              cx: x(point.x),
              cy: y(point.y),
              r: 4,
              fill: mapColour(colours, point, state.by),
              opacity: 0.8,
            }),
            () => mapHint(point),
          ),
        ),
        svg("polygon", {
          class: "lasso",
          points: state.polygon.map((p) => p.join(",")).join(" "),
          fill: colours.accent,
          "fill-opacity": 0.12,
          stroke: colours.accent,
        }),
      ];
    },
  );
  lassoEvents(chart, state, () =>
    choose(
      points
        .filter(({x, y}) => inside(state.polygon, state.x(x), state.y(y)))
        .map(({item}) => item),
    ),
  );
  view.append(
    el(
      "p",
      {class: "lead"},
      "A sample of the test split. " +
        `${D.unit === "product" ? "Products" : "Images"} that look alike to the ` +
        "networks lie side by side; distances between far groups mean nothing. " +
        "Draw around some to see their photos and to judge their labels.",
    ),
    el(
      "div",
      {class: "card"},
      el(
        "div",
        {class: "tools"},
        chooser("Coloured by", MAP_COLOURS, state.by, (by) => {
          state.by = by;
          chart.redraw();
        }),
        el(
          "button",
          {
            type: "button",
            id: "map-wrong",
            onclick: () =>
              choose(
                points
                  .map(({item}) => item)
                  .filter((i) => D.columns["item.true"][i] !== D.columns["item.two_stage"][i]),
              ),
          },
          "All wrong ones",
        ),
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              state.polygon = [];
              choose([]);
              chart.redraw();
            },
          },
          "Clear",
        ),
      ),
      chart,
    ),
    found,
  );
  choose([]);
}

function lassoEvents(chart, state, done) {
  const at = (event) => {
    const box = chart.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let drawing = false;
  chart.classList.add("map");
  chart.addEventListener("pointerdown", (event) => {
    drawing = true;
    state.polygon = [at(event)];
    chart.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  chart.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    tip.hide();
    state.polygon.push(at(event));
    chart
      .querySelector(".lasso")
      .setAttribute("points", state.polygon.map((p) => p.join(",")).join(" "));
  });
  chart.addEventListener("pointerup", () => {
    drawing = false;
    if (state.polygon.length > 2) done();
  });
}

function lassoed(items) {
  if (!items.length) return [empty("Nothing is chosen.")];
  const own = D.columns["item.own"],
    rows = items.slice().sort((a, b) => own[a] - own[b]);
  const wrong = items.filter(
    (i) => D.columns["item.true"][i] !== D.columns["item.two_stage"][i],
  ).length;
  return [
    galleryCard(
      "Chosen on the map",
      `${plural(items.length, D.unit)}, ${whole(wrong)} of them wrong; first ` +
        "those to whose label the model gives least. The judgements stand on the " +
        "page “Data review”, which exports them.",
      rows,
      rows.length,
      "Nothing is chosen.",
      LASSO_SHOWN,
    ),
    el("p", {}, el("a", {href: "#review", class: "button"}, "To the export of corrections")),
  ];
}
