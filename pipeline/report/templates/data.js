// The embedded data: values (JSON) and columns (typed arrays), as packed by
// pipeline/report/columns.py, and what follows from them.

const D = {};

function bytesOf(id) {
  const text = atob($(id).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(id) {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const kinds = {Uint8Array, Uint16Array, Uint32Array, Int32Array, Float32Array, Float64Array};
  const columns = {};
  for (const [name, c] of Object.entries(header.columns))
    columns[name] = new kinds[c.kind](buffer, 4 + length + c.offset, c.length);
  $(id).remove();
  return {values: header.values, columns};
}

async function load() {
  const [{values, columns}, index] = await Promise.all([unpack("data"), unpack("photo-index")]);
  Object.assign(D, {values, columns, photos: index.columns});
  prepare(values.names);
}

function prepare(names) {
  D.classes = names.id.length;
  D.unit = D.values.unit;
  D.support = D.columns[D.unit + ".support"];
  D.minSupport = D.values.min_support;
  D.byId = new Map(names.id.map((id, c) => [String(id), c]));
  D.level1 = D.columns["category.level1"];
  D.level2 = D.columns["category.level2"];
  D.search = names.id.map((id, c) => `${id} ${nameOf(c)} ${pathOf(c)}`.toLowerCase());
  const truth = D.columns["item.true"];
  D.firstItem = new Uint32Array(D.classes + 1);
  for (const c of truth) D.firstItem[c + 1]++;
  for (let c = 0; c < D.classes; c++) D.firstItem[c + 1] += D.firstItem[c];
  D.nodeOffset = [0, 0, names.level1.length, names.level1.length + names.level2.length];
  countNames(names);
  D.set = new Map(D.values.sets.map((s) => [s.class_index, s]));
  countPairs();
  D.twins = new Set(D.columns["conflict.product"]);
  D.testProducts = new Set(D.columns["item.product"]);
  D.keys = new Map(D.values.keys);
}

// What the shop calls a product: its number, unless its key is another.
const keyOf = (product) => D.keys.get(product) ?? product;

// Level-3 names repeat, even within a family: how often each stands alone, and with its family.
function countNames(names) {
  const count = (keys) => {
    const found = new Map();
    for (const key of keys) found.set(key, (found.get(key) || 0) + 1);
    return keys.map((key) => found.get(key));
  };
  D.sameFamily = count(names.level2);
  D.sameName = count(names.level3);
  D.sameInFamily = count(names.level3.map((name, c) => D.level2[c] + " " + name));
}

// Lost products: evaluated ones of the category that were sorted elsewhere.
function countPairs() {
  const {"pair.true": t, "pair.predicted": p} = D.columns;
  D.lost = Object.fromEntries(
    SYSTEMS.map((s) => [s, D.columns[`node.${s}_lost`].subarray(D.nodeOffset[3])]),
  );
  D.pairsOfTrue = Array.from({length: D.classes}, () => []);
  D.pairsOfPredicted = Array.from({length: D.classes}, () => []);
  for (let i = 0; i < t.length; i++) {
    if (t[i] === p[i]) continue;
    D.pairsOfTrue[t[i]].push(i);
    D.pairsOfPredicted[p[i]].push(i);
  }
}

// Stage 2 starts from the adjusted answers, so that its effect is counted from them.
const SYSTEMS = ["stage1", "shifted", "two_stage"];
const SYSTEM_NAMES = {
  stage1: "Stage 1 alone",
  shifted: "Stage 1, adjusted",
  two_stage: "Both stages",
};

const nameOf = (c) => D.values.names.level3[c];
const idOf = (c) => String(D.values.names.id[c]);
const pathOf = (c) =>
  [
    D.values.names.level1[D.columns["category.level1"][c]],
    D.values.names.level2[D.columns["category.level2"][c]],
  ]
    .filter(Boolean)
    .join(" › ");
const familyOf = (c) =>
  D.sameFamily[D.level2[c]] > 1 ? pathOf(c) : D.values.names.level2[D.level2[c]];
const nodeOf = (name, level, k) => D.columns["node." + name][D.nodeOffset[level] + k];
// The accuracy of a node is worked out of its counts, so that it is rounded once, where it is
// printed.
const nodeAccuracy = (system, level, k) =>
  (nodeOf("support", level, k) - nodeOf(system + "_lost", level, k)) / nodeOf("support", level, k);
const nodeInterval = (system, level, k) => ({
  value: nodeAccuracy(system, level, k),
  low: nodeOf(system + "_low", level, k),
  high: nodeOf(system + "_high", level, k),
});
// The name; with its family and its id where it needs them to be told from others.
const named = (c, withFamily) => {
  const more = [withFamily ? familyOf(c) : "", D.sameInFamily[c] > 1 ? idOf(c) : ""].filter(
    Boolean,
  );
  return nameOf(c) + (more.length ? ` (${more.join(", ")})` : "");
};
const titleOf = (c) => named(c, D.sameName[c] > 1);
// Beside category c one of another family carries its family's name.
const nameIn = (other, c) => named(other, D.level2[other] !== D.level2[c]);
const scoreOf = (stage, measure, unit = D.unit) => D.columns[`${unit}.${stage}.${measure}`];
const shareOf = (column, i) => (column[i] === 65535 ? NaN : column[i] / 1000);
const verdict = (truth, answer) =>
  truth === answer ? "right" : D.level2[truth] === D.level2[answer] ? "near" : "wrong";
const verdictSign = {right: "✓", near: "≈", wrong: "✗"};
const verdictText = {right: "right", near: "wrong, same family", wrong: "wrong"};

function categoryLink(c) {
  return el(
    "span",
    {class: "name"},
    el("a", {href: "#category/" + idOf(c)}, nameOf(c)),
    el("small", {}, pathOf(c) + (D.sameInFamily[c] > 1 ? " · " + idOf(c) : "")),
  );
}

// Classes that hold every word of the query in their names or id.
function findClasses(query, most = Infinity) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (let c = 0; c < D.classes && found.length < most; c++)
    if (words.every((w) => D.search[c].includes(w))) found.push(c);
  return found;
}
