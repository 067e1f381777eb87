// Saves the results of the selected photo: the server's own PNG, the overlay as shown, and the array.

import { run } from "./background.js";
import { make } from "./dom.js";

export function saveMask(item) {
  save(item.answer.png, `${stem(item)}-mask.png`);
}

export async function saveOverlay(item, { opacity, only }) {
  const type = item.file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  const input = { file: item.file, png: item.answer.png, opacity, only, type };
  save(await run("overlay", input), `${stem(item)}-overlay.${type === "image/jpeg" ? "jpg" : "png"}`);
}

export async function saveArray(item) {
  save(await run("npy", { png: item.answer.png }), `${stem(item)}-mask.npy`);
}

function stem(item) {
  return item.name.replace(/\.[^.]*$/, "") || "photo";
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be reading it
}
