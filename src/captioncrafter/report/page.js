"use strict";

// The gallery: sorts, filters and pages the cards. All of them are in the document already: the first in the page,
// the others in a template, where their images cost nothing until they are shown.
(() => {
  const PAGE = 24;
  const grid = document.getElementById("cards");
  if (!grid) return;
  const { scores } = JSON.parse(document.getElementById("index").textContent);
  const waiting = document.getElementById("waiting").content;
  const cards = [...grid.children, ...waiting.children];
  const spoken = (card) => [...card.querySelectorAll(".prompt, .caption, .references, .name")].map((part) => part.textContent);
  const texts = cards.map((card) => spoken(card).join("\n").toLowerCase());
  const metric = document.getElementById("metric");
  const rival = document.getElementById("rival");
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const controls = document.getElementById("controls");
  let found = cards.map((_, position) => position);
  let shown = PAGE;

  const order = () => document.querySelector("input[name=order]:checked")?.value ?? "given";
  const value = (system, position) => scores[metric.value][system]?.[position] ?? null;
  const gain = (position) => {
    const [mine, theirs] = [value(0, position), value(Number(rival?.value ?? 1), position)];
    return mine === null || theirs === null ? null : mine - theirs;
  };

  const keys = {
    best: (position) => value(0, position),
    worst: (position) => negative(value(0, position)),
    gain,
    loss: (position) => negative(gain(position)),
  };
  const negative = (number) => (number === null ? null : -number);

  // Highest key first; images without a value last; ties as given.
  const sorted = (positions, key) =>
    key
      ? positions
          .map((position) => [key(position), position])
          .sort(([a, i], [b, j]) => (a === null) - (b === null) || b - a || i - j)
          .map(([, position]) => position)
      : positions;

  const refresh = () => {
    const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matching = cards.flatMap((_, position) =>
      wanted.every((word) => texts[position].includes(word)) ? [position] : []
    );
    found = sorted(matching, keys[order()]);
    shown = PAGE;
    show();
  };

  const show = () => {
    const visible = found.slice(0, shown).map((position) => cards[position]);
    const focused = visible.includes(document.activeElement) ? document.activeElement : null;
    grid.replaceChildren(...visible);
    visible.forEach((card, place) => (card.tabIndex = place === 0 ? 0 : -1));
    focused?.focus({ preventScroll: true });
    more.hidden = found.length <= shown;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
    const images = (number) => `${number.toLocaleString("en")} image${number === 1 ? "" : "s"}`;
    count.textContent =
      found.length < cards.length ? `${found.length.toLocaleString("en")} of ${images(cards.length)}` : images(cards.length);
  };

  const rescore = () => {
    document.getElementById("scored-by").textContent = metric.value;
    cards.forEach((card, position) => {
      for (const place of card.querySelectorAll(".score")) {
        const score = value(Number(place.dataset.system), position);
        place.textContent = score === null ? "" : score.toFixed(1);
      }
    });
  };

  const showMore = () => {
    const next = shown;
    shown += PAGE;
    show();
    return cards[found[next]];
  };

  // One card is in the tab order; arrows move among them, across the columns as they stand.
  const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const moves = {
    ArrowRight: () => 1,
    ArrowLeft: () => -1,
    ArrowDown: () => columns(),
    ArrowUp: () => -columns(),
    Home: () => -Infinity,
    End: () => Infinity,
  };
  const move = (event) => {
    const here = [...grid.children].indexOf(event.target);
    if (here < 0 || !moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const wanted = here + moves[event.key]();
    if (Number.isFinite(wanted) && wanted >= grid.children.length && !more.hidden) showMore();
    const card = grid.children[Math.max(0, Math.min(wanted, grid.children.length - 1))];
    event.target.tabIndex = -1;
    card.tabIndex = 0;
    card.focus({ preventScroll: true });
    reveal(card);
  };

  // Cards get their true height when they come near: what lay right before that is put right again after it.
  const reveal = (card, frames = 3) => {
    if (document.activeElement !== card) return;
    card.scrollIntoView({ block: "nearest" });
    if (frames > 0) requestAnimationFrame(() => reveal(card, frames - 1));
  };

  // The bar above the images stays in view where there is room for it, as high as its words make it.
  const keepClear = () => {
    const bar = getComputedStyle(controls).position === "sticky" ? controls.offsetHeight : 0;
    grid.style.setProperty("--bar", `${bar}px`);
  };

  metric?.addEventListener("change", () => {
    rescore();
    refresh();
  });
  rival?.addEventListener("change", refresh);
  for (const choice of document.querySelectorAll("input[name=order]")) choice.addEventListener("change", refresh);
  filter.addEventListener("input", refresh);
  more.addEventListener("click", () => showMore().focus());
  grid.addEventListener("keydown", move);
  new ResizeObserver(keepClear).observe(controls);
  controls.hidden = false;
  refresh();
})();
