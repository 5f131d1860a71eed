// Every evaluated item, as a table that exports.

function renderItems(view) {
  const c = (name) => D.columns["item." + name], n = c("true").length;
  const outcome = (i) => { const a = c("stage1")[i] === c("true")[i], b = c("two_stage")[i] === c("true")[i]; return a ? (b ? "right" : "broken") : b ? "fixed" : "wrong"; };
  const state = {outcome: "all"}, box = el("div", {});
  const position = c("position");
  const columns = [{title: "product_id", value: (i) => c("product")[i]}, ...(position ? [{title: "image", numeric: true, value: (i) => position[i]}] : []),
    {title: "True category", value: (i) => nameOf(c("true")[i]), cell: (i) => categoryLink(c("true")[i])}, {title: "category_id", value: (i) => D.values.names.id[c("true")[i]]},
    ...[["stage1", "Stage 1"], ["two_stage", "Two-stage"]].map(([stage, title]) => [
      {title: `${title} answer`, value: (i) => nameOf(c(stage)[i]), cell: (i) => chip(c("true")[i], c(stage)[i])}, {title: `${title} category_id`, hidden: true, value: (i) => D.values.names.id[c(stage)[i]]},
      {title: `${title} confidence`, numeric: true, value: (i) => shareOf(c(stage + ".confidence"), i), text: (i) => percent(shareOf(c(stage + ".confidence"), i))},
      {title: `${title} rank of the truth`, hint: "1 is first", numeric: true, value: (i) => c(stage + ".rank")[i] + 1}]).flat(),
    {title: "Outcome", value: outcome}, {title: "Second opinion", value: (i) => (c("refined")[i] ? "yes" : "no")}];
  const match = (query) => { const found = new Uint8Array(D.classes); for (const k of findClasses(query)) found[k] = 1; return (i) => found[c("true")[i]] || found[c("two_stage")[i]] || found[c("stage1")[i]] || String(c("product")[i]).includes(query); };
  const show = () => {
    const rows = Uint32Array.from({length: n}, (_, i) => i).filter((i) => state.outcome === "all" || outcome(i) === state.outcome);
    const chosen = chooser("Outcome", [["all", "all"], ["fixed", "fixed by stage 2"], ["broken", "broken by stage 2"], ["wrong", "wrong under both"], ["right", "right under both"]], state.outcome, (value) => { state.outcome = value; show(); });
    box.replaceChildren(makeTable({name: "items", label: "Evaluated items", rows, columns, match, extra: [chosen], page: 25}));
  };
  show();
  view.append(el("div", {class: "card"}, box));
}
