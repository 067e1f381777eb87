// Shows the server's engine, score, classes and limits.

import { find, make, show } from "./dom.js";
import { BACKGROUND } from "./paint.js";
import { formatBytes, formatMegapixels } from "./words.js";

const FORMATS = "JPEG, PNG, WebP, BMP, TIFF or GIF";

export function showServer(model) {
  const score = model.scores.mean_iou;
  const parts = [model.engine];
  if (typeof score === "number") parts.push(`mean IoU ${(100 * score).toFixed(1)} %`);
  find("server").textContent = parts.join(" · ");
  const { max_pixels: pixels, max_body_bytes: bytes } = model.limits;
  find("limits").textContent =
    `${FORMATS}, up to ${formatMegapixels(pixels)} and ${formatBytes(bytes)} each. ` +
    "Photos are sent only to this server, which stores none.";
  find("known-classes").replaceChildren(
    ...model.classes.filter(({ index }) => index !== BACKGROUND).map(makeChip),
  );
  show(find("known"), true);
}

function makeChip({ name, colour }) {
  const swatch = make("i", { className: "swatch" });
  swatch.style.backgroundColor = `rgb(${colour.join(" ")})`;
  return make("li", {}, swatch, name);
}

export function showCommand() {
  const address = new URL("v1/segment", document.baseURI).href;
  const command = `curl --data-binary @photo.jpg ${address} -o mask.png`;
  find("command").textContent = command;
  const button = find("copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select the line to copy it"; // the clipboard needs a secure address
      getSelection().selectAllChildren(find("command"));
    }
  });
}
