// The evaluated items, as a table that exports.

function renderItems(view) {
  const c = (name) => D.columns["item." + name], n = c("true").length;
  const outcome = (i) => { const a = c("shifted")[i] === c("true")[i], b = c("two_stage")[i] === c("true")[i]; return a ? (b ? "right" : "broken") : b ? "fixed" : "wrong"; };
  const state = {outcome: "all"}, box = el("div", {}), position = c("position");
  const answers = (system) => { const title = SYSTEM_NAMES[system], hidden = system !== "two_stage"; return [
    {title, value: (i) => titleOf(c(system)[i]), cell: (i) => chip(c("true")[i], c(system)[i])}, {title: `${title}: category_id`, hidden: true, value: (i) => D.values.names.id[c(system)[i]]},
    {title: `${title}: confidence`, head: "Confidence", hidden, numeric: true, value: (i) => shareOf(c(system + ".confidence"), i), text: (i) => percent(shareOf(c(system + ".confidence"), i))},
    {title: `${title}: rank of the truth`, head: "Rank of the truth", hidden, hint: "1: the truth comes first", numeric: true, value: (i) => c(system + ".rank")[i] + 1}]; };
  const columns = [{title: "product_id", value: (i) => c("product")[i]}, ...(position ? [{title: "image", numeric: true, value: (i) => position[i]}] : []),
    ...categoryColumns("Label", (i) => c("true")[i]), ...answers("two_stage"), {title: "Outcome", hint: "What stage 2 made of stage 1, adjusted", value: outcome},
    ...answers("shifted"), ...answers("stage1"), {title: "Stage 2 asked", value: (i) => (c("refined")[i] ? "yes" : "no")}];
  const match = (query) => { const found = new Uint8Array(D.classes); for (const k of findClasses(query)) found[k] = 1; return (i) => found[c("true")[i]] || SYSTEMS.some((s) => found[c(s)[i]]) || String(c("product")[i]).includes(query); };
  const show = () => {
    const rows = Uint32Array.from({length: n}, (_, i) => i).filter((i) => state.outcome === "all" || outcome(i) === state.outcome);
    const chosen = chooser("Outcome", [["all", "all"], ["fixed", "fixed by stage 2"], ["broken", "broken by stage 2"], ["wrong", "wrong before and after"], ["right", "right before and after"]], state.outcome, (value) => { state.outcome = value; show(); box.querySelector("select").focus(); });
    box.replaceChildren(makeTable({name: "items", label: `Evaluated ${D.unit}s`, rows, columns, match, extra: [chosen], page: 25}));
  };
  show();
  const all = D.support.reduce((sum, count) => sum + count, 0);
  const listed = n < all ? `Listed are ${whole(n)} of ${plural(all, D.unit)}: of each category the wrong ones and the least certain; evaluation/items.parquet has all. ` : "";
  view.append(el("p", {class: "lead"}, listed + "The label is the catalogue’s category. The outcome compares both stages with stage 1, adjusted. The export holds every answer’s id, confidence and rank."), el("div", {class: "card"}, box));
}
