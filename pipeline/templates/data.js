// The embedded data: values (JSON) and columns (typed arrays), as packed by pipeline/report_pack.py, and what follows from them.

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
  for (const [name, c] of Object.entries(header.columns)) columns[name] = new kinds[c.kind](buffer, 4 + length + c.offset, c.length);
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
  D.byId = new Map(names.id.map((id, c) => [String(id), c]));
  D.level1 = D.columns["category.level1"];
  D.level2 = D.columns["category.level2"];
  D.search = names.id.map((id, c) => `${id} ${nameOf(c)} ${pathOf(c)}`.toLowerCase());
  const truth = D.columns["item.true"];
  D.firstItem = new Uint32Array(D.classes + 1);
  for (const c of truth) D.firstItem[c + 1]++;
  for (let c = 0; c < D.classes; c++) D.firstItem[c + 1] += D.firstItem[c];
  D.set = new Map(D.values.sets.map((s) => [s.class_index, s]));
  countPairs();
}

// Lost products: evaluated ones of the category that were sorted elsewhere.
function countPairs() {
  const {"pair.true": t, "pair.predicted": p, "pair.stage1": before, "pair.two_stage": after} = D.columns;
  D.lost = {stage1: new Uint32Array(D.classes), two_stage: new Uint32Array(D.classes)};
  D.pairsOfTrue = Array.from({length: D.classes}, () => []);
  D.pairsOfPredicted = Array.from({length: D.classes}, () => []);
  D.rightly = {stage1: new Uint32Array(D.classes), two_stage: new Uint32Array(D.classes)};
  for (let i = 0; i < t.length; i++) {
    if (t[i] === p[i]) {
      D.rightly.stage1[t[i]] = before[i];
      D.rightly.two_stage[t[i]] = after[i];
      continue;
    }
    D.lost.stage1[t[i]] += before[i];
    D.lost.two_stage[t[i]] += after[i];
    D.pairsOfTrue[t[i]].push(i);
    D.pairsOfPredicted[p[i]].push(i);
  }
}

const nameOf = (c) => D.values.names.level3[c];
const idOf = (c) => String(D.values.names.id[c]);
const pathOf = (c) => [D.values.names.level1[D.columns["category.level1"][c]], D.values.names.level2[D.columns["category.level2"][c]]].filter(Boolean).join(" › ");
// Level-3 names repeat, so beside category c one of another family carries its family's name.
const nameIn = (other, c) => (D.level2[other] === D.level2[c] ? nameOf(other) : `${nameOf(other)} (${D.values.names.level2[D.level2[other]]})`);
const scoreOf = (stage, measure, unit = D.unit) => D.columns[`${unit}.${stage}.${measure}`];
const shareOf = (column, i) => (column[i] === 65535 ? NaN : column[i] / 10000);
const verdict = (truth, answer) => (truth === answer ? "right" : D.level2[truth] === D.level2[answer] ? "near" : "wrong");
const verdictSign = {right: "✓", near: "≈", wrong: "✗"};
const verdictText = {right: "right", near: "wrong, same family", wrong: "wrong"};

function categoryLink(c, withPath = true) {
  return el("span", {class: "name"}, el("a", {href: "#category/" + idOf(c)}, nameOf(c)), withPath ? el("small", {}, pathOf(c)) : null);
}

// Classes that hold every word of the query in their names or id.
function findClasses(query, most = Infinity) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [];
  for (let c = 0; c < D.classes && found.length < most; c++) if (words.every((w) => D.search[c].includes(w))) found.push(c);
  return found;
}
