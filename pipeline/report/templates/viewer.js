// A product's photos, enlarged: arrows turn the pages, Escape closes.

const viewer = {sources: [], at: 0};

function openViewer(sources, at, caption) {
  Object.assign(viewer, {sources, caption});
  showPhoto(at);
  $("viewer").showModal();
}

function showPhoto(at) {
  const n = viewer.sources.length,
    box = $("viewer");
  viewer.at = (at + n) % n;
  const turn = (text, label, step) =>
    el(
      "button",
      {type: "button", "aria-label": label, onclick: () => showPhoto(viewer.at + step)},
      text,
    );
  box.replaceChildren(
    el("img", {
      src: viewer.sources[viewer.at],
      alt: `${viewer.caption}, photo ${viewer.at + 1} of ${n}`,
    }),
    el(
      "p",
      {"aria-live": "polite"},
      viewer.caption,
      n > 1 ? ` · photo ${viewer.at + 1} of ${n}` : "",
    ),
    el(
      "div",
      {class: "tools"},
      ...(n > 1
        ? [turn("Previous photo", "Previous photo", -1), turn("Next photo", "Next photo", 1)]
        : []),
      el("button", {type: "button", class: "close", onclick: () => box.close()}, "Close"),
    ),
  );
}

function setUpViewer() {
  const box = $("viewer");
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
  box.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) {
      showPhoto(viewer.at + step);
      box.querySelector(".close").focus();
      event.preventDefault();
    }
  });
}
