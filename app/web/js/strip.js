// The row of photos, each with a thumbnail, its name and its state; photos can be selected and removed.

import { make } from "./dom.js";

const STATES = {
  waiting: "waiting",
  running: "computing",
  retrying: "waiting for the server",
  done: "done",
  failed: "failed",
};
const SIDE = 144;

export class Strip {
  #list;
  #collection;
  #rows = new Map();

  constructor(list, collection) {
    this.#list = list;
    this.#collection = collection;
    collection.addEventListener("list", () => this.#arrange());
    collection.addEventListener("item", ({ detail }) => this.#fill(detail));
    collection.addEventListener("selection", () => this.#mark());
  }

  #arrange() {
    for (const [item, row] of this.#rows) {
      if (this.#collection.items.includes(item)) continue;
      row.element.remove();
      this.#rows.delete(item);
    }
    for (const item of this.#collection.items) {
      if (this.#rows.has(item)) continue;
      const row = this.#makeRow(item);
      this.#rows.set(item, row);
      this.#list.append(row.element);
      this.#fill(item);
    }
  }

  #makeRow(item) {
    const picture = make("canvas", { width: SIDE, height: SIDE });
    const state = make("span", { className: "unseen" });
    const select = make(
      "button",
      { type: "button", className: "tile", title: item.name },
      picture,
      make("span", { className: "tile-name" }, item.name),
      state,
    );
    select.addEventListener("click", () => this.#collection.select(item));
    const remove = make(
      "button",
      { type: "button", className: "remove", title: "Remove", "aria-label": `Remove ${item.name}` },
      "×",
    );
    remove.addEventListener("click", () => this.#remove(item));
    return { element: make("li", {}, select, remove), picture, state, select };
  }

  #remove(item) {
    this.#collection.remove(item);
    const next = this.#rows.get(this.#collection.selected);
    next?.select.focus();
  }

  #fill(item) {
    const row = this.#rows.get(item);
    if (!row) return;
    row.element.dataset.state = item.state;
    row.state.textContent = `, ${STATES[item.state]}`;
    const context = row.picture.getContext("2d");
    context.clearRect(0, 0, SIDE, SIDE);
    if (item.thumbnail) cover(context, item.thumbnail);
    if (item.summary) {
      context.globalAlpha = item.thumbnail ? 0.65 : 1;
      cover(context, item.summary.thumbnail);
      context.globalAlpha = 1;
    }
  }

  #mark() {
    for (const [item, row] of this.#rows) {
      const isSelected = item === this.#collection.selected;
      if (isSelected) row.select.setAttribute("aria-current", "true");
      else row.select.removeAttribute("aria-current");
      if (isSelected) row.element.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }
}

// Fills the square with the centre of the picture.
function cover(context, picture) {
  const side = Math.min(picture.width, picture.height);
  const [left, top] = [(picture.width - side) / 2, (picture.height - side) / 2];
  context.drawImage(picture, left, top, side, side, 0, 0, SIDE, SIDE);
}
