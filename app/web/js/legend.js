// The classes of a mask with their shares of the area. A click shows only that class; a second click
// shows all again.

import { find, make } from "./dom.js";
import { BACKGROUND, formatColour } from "./paint.js";
import { formatShare } from "./words.js";

export class Legend {
  #list = find("classes");
  #onSelect;

  // `onSelect` gets the index of the only class to show, or null for all.
  constructor({ onSelect }) {
    this.#onSelect = onSelect;
  }

  render({ classes, pixels, palette, nameClass, only }) {
    const sorted = classes.toSorted(
      (a, b) => (a.index === BACKGROUND) - (b.index === BACKGROUND) || b.pixels - a.pixels,
    );
    const rows = sorted.map((entry) => {
      const share = entry.pixels / pixels;
      const swatch = make("i", { className: "swatch" });
      swatch.style.backgroundColor = formatColour(palette, entry.index);
      const bar = make("span", { className: "bar" });
      bar.style.setProperty("--share", `${100 * share}%`);
      const button = make(
        "button",
        { type: "button", "aria-pressed": String(entry.index === only) },
        swatch,
        make("span", { className: "name" }, nameClass(entry.index)),
        make("span", { className: "share" }, formatShare(share)),
        bar,
      );
      button.dataset.index = String(entry.index);
      button.addEventListener("click", () => this.#press(button));
      return make("li", {}, button);
    });
    this.#list.replaceChildren(...rows);
  }

  // Highlights the class under the pointer; null means none.
  point(index) {
    for (const button of this.#list.querySelectorAll("button")) {
      button.classList.toggle("pointed", button.dataset.index === String(index));
    }
  }

  // Shows all classes again.
  clear() {
    for (const button of this.#list.querySelectorAll("[aria-pressed=true]")) this.#press(button);
  }

  #press(pressed) {
    const isOn = pressed.getAttribute("aria-pressed") === "true";
    for (const button of this.#list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button === pressed && !isOn));
    }
    this.#onSelect(isOn ? null : Number(pressed.dataset.index));
  }
}
