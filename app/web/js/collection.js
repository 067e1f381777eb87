// The photos on this page, and which one is selected. Notifies listeners of every change. Knows
// nothing of how photos are shown or segmented.

let lastId = 0;

export class Collection extends EventTarget {
  items = [];
  selected = null;

  // States: waiting, running, retrying, done, failed.
  add(files) {
    const added = files.map((file) => ({
      id: ++lastId,
      file,
      name: file.name || "photo",
      state: "waiting",
      problem: null,
      answer: null,
      summary: null,
      thumbnail: null,
      abort: new AbortController(),
    }));
    this.items.push(...added);
    this.#notify("list");
    if (added.length) this.select(added[0]);
    return added;
  }

  remove(item) {
    const index = this.items.indexOf(item);
    if (index < 0) return;
    item.abort.abort();
    this.items.splice(index, 1);
    this.#notify("list");
    if (this.selected === item) this.select(this.items[index] ?? this.items[index - 1] ?? null);
  }

  update(item, changes) {
    Object.assign(item, changes);
    if (this.items.includes(item)) this.#notify("item", item);
  }

  select(item) {
    this.selected = item;
    this.#notify("selection", item);
  }

  #notify(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
