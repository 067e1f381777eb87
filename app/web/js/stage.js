// The picture: the photo below, the mask's colours and outlines above it. Modes, opacity and the
// divider only change styles, so that they respond at once even with large photos.

import { find, show } from "./dom.js";
import { makeColours, paintIndices, paintOutlines } from "./paint.js";

const LARGEST_ENLARGEMENT = 3;

export class Stage {
  mode = "overlay";
  opacity = 0.65;
  only = null;
  #mask = null;
  #hasPhoto = false;

  constructor() {
    this.element = find("stage");
    this.photo = find("photo-canvas");
    this.colours = find("mask-canvas");
    this.outlines = find("outline-canvas");
    this.layers = find("layers");
    this.divider = find("divider");
  }

  // `view` is {height, width, bitmap}, or null if the browser cannot show the photo.
  setPhoto(view) {
    this.#hasPhoto = view !== null;
    this.#mask = null;
    this.only = null;
    if (view) {
      this.#setSize(view.height, view.width);
      this.photo.width = view.bitmap.width;
      this.photo.height = view.bitmap.height;
      this.photo.getContext("2d").drawImage(view.bitmap, 0, 0);
      view.bitmap.close();
    } else {
      this.#setSize(2, 3);
    }
    this.render();
  }

  // `mask` is what the worker's task `open` returns.
  setMask(mask) {
    this.#mask = mask;
    this.#setSize(mask.height, mask.width);
    for (const canvas of [this.colours, this.outlines]) {
      canvas.width = mask.grid.width;
      canvas.height = mask.grid.height;
    }
    this.render();
  }

  get mask() {
    return this.#mask;
  }

  get hasPhoto() {
    return this.#hasPhoto;
  }

  // Without a photo, only the mask can be shown.
  get shownMode() {
    return this.#hasPhoto ? this.mode : "mask";
  }

  get showsMaskOverPhoto() {
    return ["overlay", "compare"].includes(this.shownMode);
  }

  setMode(mode) {
    this.mode = mode;
    this.render();
  }

  showOnly(index) {
    this.only = index;
    this.render();
  }

  render() {
    const mode = this.shownMode;
    const isOver = this.showsMaskOverPhoto;
    this.element.dataset.mode = mode;
    show(this.photo, this.#hasPhoto);
    show(this.layers, this.#mask !== null && mode !== "photo");
    show(this.outlines, isOver);
    show(this.divider, this.#mask !== null && mode === "compare");
    this.layers.classList.toggle("divided", mode === "compare");
    this.colours.style.opacity = isOver ? this.opacity : 1;
    if (!this.#mask) return;
    const colours = makeColours(this.#mask.palette, { only: this.only, seesThrough: isOver });
    paintIndices(this.colours.getContext("2d"), this.#mask.grid, colours);
    paintOutlines(this.outlines.getContext("2d"), this.#mask.grid, this.only);
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.showsMaskOverPhoto) this.colours.style.opacity = opacity;
  }

  #setSize(height, width) {
    this.element.style.setProperty("--ratio", width / height);
    this.element.style.setProperty("--widest", `${LARGEST_ENLARGEMENT * width}px`);
  }
}
