// Shows the class under the pointer, or under a crosshair that the arrow keys move.

import { find, show } from "./dom.js";
import { formatColour } from "./paint.js";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const STEP_SHARE = 1 / 40; // of the longer side; with Shift, a step is one pixel

export class Probe {
  #stage;
  #nameClass;
  #onClass;
  #announce;
  #place = null;

  // `onClass` gets the index of the class, or null if there is none.
  constructor(stage, { nameClass, onClass, announce }) {
    this.#stage = stage;
    this.#nameClass = nameClass;
    this.#onClass = onClass;
    this.#announce = announce;
    const element = stage.element;
    element.addEventListener("pointermove", (event) => this.#follow(event));
    element.addEventListener("pointerdown", (event) => this.#follow(event));
    element.addEventListener("pointerleave", () => this.hide());
    element.addEventListener("keydown", (event) => this.#onKey(event));
    element.addEventListener("blur", () => this.hide());
  }

  hide() {
    this.#place = null;
    show(find("probe"), false);
    this.#onClass(null);
  }

  #follow(event) {
    const { left, top, width, height } = this.#stage.element.getBoundingClientRect();
    const mask = this.#stage.mask;
    if (!mask) return;
    const row = Math.floor(((event.clientY - top) / height) * mask.height);
    const column = Math.floor(((event.clientX - left) / width) * mask.width);
    if (row < 0 || column < 0 || row >= mask.height || column >= mask.width) this.hide();
    else this.#read([row, column], false);
  }

  #onKey(event) {
    const mask = this.#stage.mask;
    const step = STEPS[event.key];
    if (!step || !mask || event.target !== this.#stage.element) return;
    event.preventDefault();
    const pixels = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(mask.height, mask.width) * STEP_SHARE));
    const [row, column] = this.#place ?? [mask.height >> 1, mask.width >> 1];
    const moved = this.#place ? [row + step[0] * pixels, column + step[1] * pixels] : [row, column];
    this.#read([clamp(moved[0], mask.height), clamp(moved[1], mask.width)], true);
  }

  #read([row, column], isByKey) {
    const mask = this.#stage.mask;
    const index = mask.indices[row * mask.width + column];
    const name = this.#nameClass(index);
    this.#place = [row, column];
    const probe = find("probe");
    probe.style.left = `${(100 * (column + 0.5)) / mask.width}%`;
    probe.style.top = `${(100 * (row + 0.5)) / mask.height}%`;
    probe.classList.toggle("by-key", isByKey);
    probe.classList.toggle("at-right", column > mask.width * 0.7);
    probe.classList.toggle("at-top", row < mask.height * 0.2);
    find("probe-name").textContent = name;
    find("probe-swatch").style.backgroundColor = formatColour(mask.palette, index);
    show(probe, true);
    this.#onClass(index);
    if (isByKey) this.#announce(`${name}, row ${row + 1}, column ${column + 1}`);
  }
}

function clamp(value, count) {
  return Math.min(count - 1, Math.max(0, value));
}
