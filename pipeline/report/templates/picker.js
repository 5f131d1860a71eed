// A field that finds a category by any part of its names or its id: type, then arrows and Enter, or
// click.

let pickers = 0;

function categoryPicker({
  label,
  placeholder,
  choose,
  id = "picker-" + ++pickers,
  keep = false,
  clear = null,
}) {
  const list = el("ul", {
    id: id + "-found",
    class: "found",
    role: "listbox",
    "aria-label": "Categories found",
    hidden: true,
  });
  const input = el("input", {
    id,
    type: "search",
    placeholder,
    autocomplete: "off",
    spellcheck: false,
    role: "combobox",
    "aria-expanded": "false",
    "aria-controls": list.id,
    "aria-autocomplete": "list",
    "aria-label": label,
  });
  let found = [],
    at = -1;
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const take = (c) => {
    input.value = keep ? titleOf(c) : "";
    close();
    choose(c);
  };
  const mark = (k) => {
    at = k;
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === k)));
    if (k >= 0) {
      list.children[k].scrollIntoView({block: "nearest"});
      input.setAttribute("aria-activedescendant", `${id}-${k}`);
    }
  };
  input.addEventListener("input", () => {
    const query = input.value.trim();
    found = query ? findClasses(query, 30) : [];
    list.replaceChildren(
      ...found.map((c, k) =>
        el(
          "li",
          {
            role: "option",
            id: `${id}-${k}`,
            onmousedown: (event) => {
              event.preventDefault();
              take(c);
            },
          },
          nameOf(c),
          el("small", {}, `${pathOf(c)} · ${idOf(c)}`),
        ),
      ),
    );
    if (query && !found.length)
      list.replaceChildren(
        el(
          "li",
          {role: "option", "aria-disabled": "true", class: "none"},
          "No category has this in its name or id",
        ),
      );
    input.setAttribute("aria-invalid", String(!!query && !found.length));
    list.hidden = !query;
    input.setAttribute("aria-expanded", String(!list.hidden));
    mark(found.length ? 0 : -1);
    if (!query && clear) clear();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && found.length) {
      mark((at + 1) % found.length);
      event.preventDefault();
    } else if (event.key === "ArrowUp" && found.length) {
      mark((at - 1 + found.length) % found.length);
      event.preventDefault();
    }
    // Not to be passed on: the choice may move the focus to a button, which the same key would
    // press.
    else if (event.key === "Enter" && at >= 0 && !list.hidden) {
      event.preventDefault();
      take(found[at]);
    } else if (event.key === "Escape" && !list.hidden) {
      close();
      event.stopPropagation();
      event.preventDefault();
    }
  });
  input.addEventListener("blur", close);
  return el("div", {class: "picker"}, input, list);
}
