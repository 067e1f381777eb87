// The dialog that asks for an API key.

import { find, show } from "./dom.js";
import { keepKey, readKey } from "./key.js";

// `onKey` is called when there is a new key.
export function connectKeyDialog({ onKey }) {
  const dialog = find("key-dialog");
  find("key-button").addEventListener("click", () => askForKey());
  find("key-cancel").addEventListener("click", () => dialog.close());
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const key = find("key").value.trim();
    if (!isHeader(key)) {
      find("key-problem").textContent = "A key has only letters, digits and punctuation, and no spaces.";
      show(find("key-problem"), true);
      return;
    }
    keepKey(key);
    dialog.close();
    onKey();
  });
}

// `problem` says why the last key was refused.
export function askForKey(problem = null) {
  const dialog = find("key-dialog");
  if (dialog.open) return;
  show(find("key-button"), true);
  find("key-problem").textContent = problem ? `${problem.detail} ${problem.remedy}` : "";
  show(find("key-problem"), problem !== null && readKey() !== "");
  find("key").value = "";
  dialog.showModal();
}

// Returns whether the text can be sent in a header; otherwise fetch would throw.
function isHeader(text) {
  return /^[\x21-\x7e]+$/.test(text);
}
