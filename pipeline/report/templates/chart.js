// Charts as SVG in the page's own colours, which scale on paper and need no library; drawn again
// when
// the width or the colours change. What they show stands in a table as well.

const hints = new WeakMap(); // mark -> () => what its tooltip says

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children.flat());
  return node;
}

function hinted(node, content) {
  hints.set(node, content);
  return node;
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = [
    "ink",
    "muted",
    "faint",
    "line",
    "card",
    "soft",
    "accent",
    "before",
    "right",
    "near",
    "wrong",
    "low",
    "mid",
    "high",
  ];
  return Object.fromEntries(
    names.map((name) => [name, style.getPropertyValue("--" + name).trim()]),
  );
}

// `draw(colours, width, height)` gives the marks. The chart is drawn when it comes into view.
function makeChart(label, height, draw) {
  const host = el("div", {class: "chart", role: "img", "aria-label": label});
  let drawnAt = 0;
  host.style.minHeight = height + "px";
  host.redraw = () => {
    drawnAt = host.clientWidth;
    if (!drawnAt) return;
    host.replaceChildren(
      svg("svg", {viewBox: `0 0 ${drawnAt} ${height}`}, draw(palette(), drawnAt, height)),
    );
    requestAnimationFrame(() => {
      document.documentElement.dataset.firstChart ||= Math.round(performance.now());
    });
  };
  new ResizeObserver(() => {
    if (host.clientWidth !== drawnAt) host.redraw();
  }).observe(host);
  host.addEventListener("pointermove", (event) => {
    const content = hints.get(event.target);
    if (content) tip.show(event.clientX, event.clientY, ...content());
    else tip.hide();
  });
  host.addEventListener("pointerleave", () => tip.hide());
  return host;
}

function redrawCharts() {
  for (const host of document.querySelectorAll(".chart")) host.redraw();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawCharts);

// About five round numbers; on a logarithmic axis the powers of ten.
function ticksOf({min, max, log, ticks}) {
  if (ticks) return ticks;
  if (log)
    return Array.from(
      {length: Math.floor(Math.log10(max)) - Math.ceil(Math.log10(min)) + 1},
      (_, k) => 10 ** (Math.ceil(Math.log10(min)) + k),
    );
  const rough = (max - min) / 5 || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  return Array.from(
    {length: Math.floor((max - min) / step + 1e-9) + 1},
    (_, k) => (Math.ceil(min / step - 1e-9) + k) * step,
  ).filter((tick) => tick <= max + 1e-9 * step);
}

function scale({min, max, log}, from, to) {
  const of = log ? Math.log10 : (v) => v,
    low = of(min),
    span = of(max) - low || 1;
  return (v) => from + ((of(v) - low) / span) * (to - from);
}

// x and y: {min, max, log, ticks, text(tick), name}. Gives x(v) and y(v) in pixels, the area's
// edges, and the axes to draw.
function plane(colours, width, height, {x, y, left = 50, right = 16, top = 14, bottom = 46}) {
  const area = {left, right: width - right, top, bottom: height - bottom};
  const toX = scale(x, area.left, area.right),
    toY = scale(y, area.bottom, area.top);
  const label = (tick, {text}) => (text ? text(tick) : whole(Number(tick.toPrecision(6))));
  const axes = [
    ...ticksOf(y).map((tick) =>
      svg("line", {
        x1: area.left,
        x2: area.right,
        y1: toY(tick),
        y2: toY(tick),
        stroke: colours.line,
      }),
    ),
    ...ticksOf(y).map((tick) =>
      svg("text", {x: area.left - 8, y: toY(tick) + 4, class: "end"}, label(tick, y)),
    ),
    ...ticksOf(x).map((tick) =>
      svg("text", {x: toX(tick), y: area.bottom + 17, class: "middle"}, label(tick, x)),
    ),
  ];
  if (x.name)
    axes.push(
      svg("text", {x: (area.left + area.right) / 2, y: height - 6, class: "middle"}, x.name),
    );
  return {x: toX, y: toY, area, axes};
}

const shares = {min: 0, max: 1, text: (v) => Math.round(100 * v) + "%"};

function line(points, {x, y}, attributes) {
  const found = points
    .filter(([, v]) => !missing(v))
    .map(([u, v]) => `${x(u).toFixed(1)} ${y(v).toFixed(1)}`);
  return svg("path", {
    d: found.length ? "M" + found.join("L") : "",
    fill: "none",
    "stroke-width": 2.5,
    "stroke-linejoin": "round",
    ...attributes,
  });
}

const dashed = (colour) => ({stroke: colour, "stroke-width": 1, "stroke-dasharray": "4 4"});

// A column above each of `values`, from halfway to its neighbours, that has a tooltip.
function columnsOf(values, {x, area}, content) {
  return values.map((value, k) => {
    const from = k ? x((values[k - 1] + value) / 2) : area.left,
      to = k + 1 < values.length ? x((value + values[k + 1]) / 2) : area.right;
    return hinted(
      svg("rect", {
        class: "hit",
        x: from,
        width: Math.max(0, to - from),
        y: area.top,
        height: area.bottom - area.top,
      }),
      () => content(k),
    );
  });
}

function legend(colours, names, left) {
  let at = left;
  return names
    .map(([name, colour]) => {
      const from = at;
      at += 36 + 6.7 * name.length;
      return [
        svg("rect", {x: from, y: 7, width: 16, height: 4, rx: 2, fill: colour}),
        svg("text", {x: from + 21, y: 13}, name),
      ];
    })
    .flat();
}

// One bar for each of `rows`; parts: [name, colour, value(row)], stacked.
function barChart(label, height, rowsOf, {name, text, parts, content, every = 1}) {
  return makeChart(label, height, (colours, width) => {
    const rows = rowsOf(),
      top = parts.length > 1 ? 32 : 14;
    const most = Math.max(
      1,
      ...rows.map((row) => parts.reduce((sum, [, , value]) => sum + value(row), 0)),
    );
    const shown = Math.max(every, Math.ceil(rows.length / Math.max(2, (width - 70) / 44)));
    const p = plane(colours, width, height, {
      left: 56,
      top,
      x: {
        min: -0.5,
        max: Math.max(0.5, rows.length - 0.5),
        ticks: [...rows.keys()].filter((k) => k % shown === 0),
        text: (k) => text(rows[k]),
        name,
      },
      y: {min: 0, max: most},
    });
    const step = Math.abs(p.x(1) - p.x(0)),
      bars = rows
        .map((row, k) => {
          let base = 0;
          return parts.map(([, colour, value]) => {
            const n = value(row),
              bar = svg("rect", {
                x: p.x(k) - 0.44 * step,
                width: 0.88 * step,
                y: p.y(base + n),
                height: Math.max(0, p.y(base) - p.y(base + n)),
                fill: colours[colour],
              });
            base += n;
            return bar;
          });
        })
        .flat();
    const hits = rows.map((row, k) =>
      hinted(
        svg("rect", {
          class: "hit",
          x: p.x(k) - step / 2,
          width: step,
          y: p.area.top,
          height: p.area.bottom - p.area.top,
        }),
        () => content(row),
      ),
    );
    return [
      ...p.axes,
      ...(parts.length > 1
        ? legend(
            colours,
            parts.map(([part, colour]) => [part, colours[colour]]),
            56,
          )
        : []),
      ...bars,
      ...hits,
    ];
  });
}

// Ink that can be read on a filling "rgb(r,g,b)".
function readable(fill) {
  const [r, g, b] = (fill.match(/\d+/g) || [255, 255, 255]).map((v) => (v / 255) ** 2.2),
    light = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return light > 0.2 ? "#1c1e22" : "#ffffff";
}

function mix(from, to, t) {
  const parse = (c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16));
  const [a, b] = [parse(from), parse(to)];
  return "rgb(" + a.map((v, i) => Math.round(v + (b[i] - v) * t)).join(",") + ")";
}

// From orange over neutral to blue, which every common kind of colour blindness tells apart.
function accuracyColour(colours, x, middle = 0.6) {
  if (missing(x)) return colours.soft;
  return x < middle
    ? mix(colours.low, colours.mid, x / middle)
    : mix(colours.mid, colours.high, (x - middle) / (1 - middle));
}

function accuracyKey() {
  const bar = el("span", {class: "accuracy-key", "aria-hidden": "true"});
  return el("span", {class: "key"}, "0%", bar, "100%");
}

// A name cut to what fits `width` pixels in the charts' font.
function fitted(name, width, size = 12) {
  const most = Math.floor(width / (0.56 * size));
  return most < 2 ? "" : name.length <= most ? name : name.slice(0, most - 1) + "…";
}
