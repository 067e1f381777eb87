// A problem of the whole page, with one button.

import { find, show } from "./dom.js";

let act = () => {};

export function connectNotice() {
  find("notice-button").addEventListener("click", () => {
    hideNotice();
    act();
  });
}

export function showNotice({ title, text, button = "Close", onClick = () => {} }) {
  find("notice-title").textContent = title;
  find("notice-text").textContent = text;
  find("notice-button").textContent = button;
  act = onClick;
  show(find("notice"), true);
}

export function hideNotice() {
  show(find("notice"), false);
}
