// Runs the tasks that take time with large photos, in a separate thread. Each message gets one answer.

import { decodeIndexedPng } from "./png.js";
import { makeNpy } from "./npy.js";
import { makeColours, paintIndices, paintOutlines, shrink } from "./paint.js";

const JPEG_QUALITY = 0.92;

const tasks = {
  // Returns the pixels of each class, and a thumbnail of the mask with a transparent background.
  async summarise({ png, longest }) {
    const { height, width, indices, palette } = await decodeIndexedPng(await readBytes(png));
    const counts = new Array(256).fill(0);
    for (let i = 0; i < indices.length; i++) counts[indices[i]] += 1;
    const grid = shrink({ height, width, indices }, longest);
    const canvas = new OffscreenCanvas(grid.width, grid.height);
    paintIndices(canvas.getContext("2d"), grid, makeColours(palette, { seesThrough: true }));
    const classes = counts.flatMap((pixels, index) => (pixels ? [{ index, pixels }] : []));
    return { height, width, classes, thumbnail: canvas.transferToImageBitmap() };
  },

  // Returns all indices, and a smaller grid for the screen.
  async open({ png, longest }) {
    const mask = await decodeIndexedPng(await readBytes(png));
    return { ...mask, palette: mask.palette.slice(), grid: shrink(mask, longest) };
  },

  // Returns the upright photo at the size of the screen; null if this browser cannot decode it.
  async view({ file, longest }) {
    const photo = await createImageBitmap(file).catch(() => null);
    if (photo === null) return null;
    const { height, width } = photo;
    const scale = Math.min(1, longest / Math.max(height, width));
    if (scale === 1) return { height, width, bitmap: photo };
    const bitmap = await createImageBitmap(photo, {
      resizeHeight: Math.max(1, Math.round(height * scale)),
      resizeWidth: Math.max(1, Math.round(width * scale)),
      resizeQuality: "medium",
    });
    photo.close();
    return { height, width, bitmap };
  },

  // Returns the overlay as it is shown, at the photo's own size.
  async overlay({ file, png, opacity, only, type }) {
    const mask = await decodeIndexedPng(await readBytes(png));
    const photo = await createImageBitmap(file);
    const layer = new OffscreenCanvas(mask.width, mask.height);
    const context = layer.getContext("2d");
    paintIndices(context, mask, makeColours(mask.palette, { only, seesThrough: true }));
    const canvas = new OffscreenCanvas(mask.width, mask.height);
    const drawing = canvas.getContext("2d", { alpha: false });
    drawing.drawImage(photo, 0, 0);
    photo.close();
    drawing.globalAlpha = opacity;
    drawing.drawImage(layer, 0, 0);
    drawing.globalAlpha = 1;
    paintOutlines(context, mask, only);
    drawing.drawImage(layer, 0, 0);
    return canvas.convertToBlob({ type, quality: JPEG_QUALITY });
  },

  async npy({ png }) {
    const { indices, height, width } = await decodeIndexedPng(await readBytes(png));
    return makeNpy(indices, height, width);
  },
};

async function readBytes(blob) {
  return new Uint8Array(await blob.arrayBuffer());
}

function listTransferable(result) {
  const values = [result?.bitmap, result?.thumbnail, result?.indices?.buffer, result?.grid?.indices.buffer];
  return [...new Set(values.filter(Boolean))];
}

self.addEventListener("message", async ({ data: { id, task, input } }) => {
  try {
    const result = await tasks[task](input);
    self.postMessage({ id, result }, listTransferable(result));
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
});
