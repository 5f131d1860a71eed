// Small building blocks: elements, number formats, downloads. Names from a dump only ever pass
// through textContent.

const $ = (id) => document.getElementById(id);

function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && !key.startsWith("aria") && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const missing = (x) => x === null || x === undefined || Number.isNaN(x);
const percent = (x, digits = 1) => (missing(x) ? "–" : (100 * x).toFixed(digits) + "%");
const whole = (x) => (missing(x) ? "–" : x.toLocaleString("en"));
const signed = (x, text) =>
  missing(x) ? "–" : (x > 0 ? "+" : x < 0 ? "−" : "±") + text(Math.abs(x));
const points = (x) => signed(x, (v) => (100 * v).toFixed(1));
const decimal = (x, digits = 2) => (missing(x) ? "–" : x.toFixed(digits));
const ends = (m) => `${percent(m.low)} – ${percent(m.high)}`;
const interval = (m) => (m && !missing(m.value) ? `${percent(m.value)} [${ends(m)}]` : "–");
const pointsInterval = (m) =>
  m && !missing(m.value) ? `${points(m.value)} [${points(m.low)} to ${points(m.high)}]` : "–";
const plural = (n, word) =>
  `${whole(n)} ${n === 1 ? word : word.endsWith("y") ? word.slice(0, -1) + "ies" : word + "s"}`;
const changed = (x, text) =>
  el("span", {class: x > 0 ? "up" : x < 0 ? "down" : ""}, signed(x, text));

function card(title, note, ...children) {
  return el(
    "div",
    {class: "card"},
    title ? el("h2", {}, title) : null,
    note ? el("p", {class: "note"}, note) : null,
    ...children,
  );
}

const empty = (text) => el("p", {class: "empty"}, text);

function statistics(rows) {
  return el(
    "dl",
    {class: "stats"},
    rows.map(([name, value, extra]) =>
      el(
        "div",
        {},
        el("dt", {}, name),
        el("dd", {}, value, extra ? el("small", {}, " " + extra) : null),
      ),
    ),
  );
}

// A row of buttons of which one is pressed.
function toggle(label, options, chosen, onchange) {
  const box = el("div", {class: "switch", role: "group", "aria-label": label});
  const paint = () => {
    for (const b of box.children) b.setAttribute("aria-pressed", b.dataset.value === chosen);
  };
  box.append(
    ...options.map(([value, text]) => {
      const button = el(
        "button",
        {
          type: "button",
          onclick: () => {
            chosen = value;
            paint();
            onchange(value);
          },
        },
        text,
      );
      button.dataset.value = value;
      return button;
    }),
  );
  paint();
  return box;
}

function chooser(label, options, chosen, onchange) {
  const select = el(
    "select",
    {onchange: () => onchange(select.value)},
    options.map(([value, text]) => el("option", {value}, text)),
  );
  select.value = chosen;
  return el("label", {class: "field"}, label, select);
}

// `attributes`: value, min, max, step.
function numberField(label, attributes, onchange) {
  const input = el("input", {
    type: "number",
    ...attributes,
    onchange: () => onchange(input.value),
  });
  return el("label", {class: "field"}, label, input);
}

// A spreadsheet would run a text that starts like a formula.
function csvField(value) {
  if (typeof value === "number") return Number.isNaN(value) ? "" : String(value);
  const text = missing(value) ? "" : /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
  return csvQuoted(text);
}

const csvQuoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function download(name, text, type = "text/csv") {
  const address = URL.createObjectURL(new Blob([text], {type: type + ";charset=utf-8"}));
  const link = el("a", {href: address, download: name});
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 5000);
}

function downloadTable(name, titles, rows) {
  const lines = [titles, ...rows].map((row) => row.map(csvField).join(","));
  download(name + ".csv", "\ufeff" + lines.join("\r\n") + "\r\n");
}

const tip = {
  show(x, y, ...children) {
    const box = $("tip");
    box.replaceChildren(...children);
    box.hidden = false;
    const {width, height} = box.getBoundingClientRect();
    box.style.left = Math.max(6, Math.min(x + 14, innerWidth - width - 6)) + "px";
    box.style.top = (y + 18 + height > innerHeight ? Math.max(6, y - height - 12) : y + 18) + "px";
  },
  hide() {
    $("tip").hidden = true;
  },
};

const pairsOf = (rows) =>
  el(
    "div",
    {class: "pairs"},
    rows.map(([name, value]) => [el("span", {}, name), el("span", {}, value)]).flat(),
  );
