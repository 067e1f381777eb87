// The photos of this page and which one is selected. Tells listeners of every change; knows
// nothing of how they are shown or segmented.

let last = 0;

export class Collection extends EventTarget {
  items = [];
  selected = null;

  // States: waiting, running, retrying, done, failed.
  add(files) {
    const added = files.map((file) => ({
      id: ++last,
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
    this.#tell("list");
    if (added.length) this.select(added[0]);
    return added;
  }

  remove(item) {
    const place = this.items.indexOf(item);
    if (place < 0) return;
    item.abort.abort();
    this.items.splice(place, 1);
    this.#tell("list");
    if (this.selected === item) this.select(this.items[place] ?? this.items[place - 1] ?? null);
  }

  update(item, changes) {
    Object.assign(item, changes);
    if (this.items.includes(item)) this.#tell("item", item);
  }

  select(item) {
    this.selected = item;
    this.#tell("selection", item);
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
