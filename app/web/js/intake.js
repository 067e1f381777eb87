// The ways to add photos: choose, drop or paste them, or use the sample.

import { find, show } from "./dom.js";

const SAMPLE = "sample.jpg";

// `onFiles` gets the files; `onNothing` is called if something without files was dropped.
export function connectIntake({ onFiles, onNothing }) {
  const input = find("files");
  for (const id of ["choose", "add"]) find(id).addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // otherwise, choosing the same file again would cause no event
    if (files.length) onFiles(files);
  });
  find("sample").addEventListener("click", async () => onFiles([await fetchSample()]));
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) onFiles(files);
  });
  connectDrop({ onFiles, onNothing });
}

function connectDrop({ onFiles, onNothing }) {
  const cover = find("drop-cover");
  let depth = 0; // dragenter and dragleave fire for every element under the pointer
  const setDepth = (value) => {
    depth = value;
    show(cover, depth > 0);
  };
  document.addEventListener("dragenter", () => setDepth(depth + 1));
  document.addEventListener("dragleave", () => setDepth(Math.max(0, depth - 1)));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    setDepth(0);
    const files = [...event.dataTransfer.files];
    if (files.length) onFiles(files);
    else onNothing();
  });
}

async function fetchSample() {
  const response = await fetch(new URL(`../${SAMPLE}`, import.meta.url));
  return new File([await response.blob()], SAMPLE, { type: "image/jpeg" });
}
