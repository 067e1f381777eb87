// Turns class indices into their exact colours, each fully opaque or fully transparent.

const OPAQUE = 0xff000000;
export const BACKGROUND = 0; // its index

// Returns the colour of an index for style sheets.
export function formatColour(palette, index) {
  return `rgb(${palette.subarray(3 * index, 3 * index + 3).join(" ")})`;
}

// Returns the colour of each index as one number, with red in the lowest byte. If `only` is given,
// all other classes are hidden.
export function makeColours(palette, { only = null, seesThrough = false } = {}) {
  const colours = new Uint32Array(256);
  for (let index = 0; index < 256; index++) {
    const isHidden = only === null ? seesThrough && index === BACKGROUND : index !== only;
    if (!isHidden) {
      const [red, green, blue] = palette.subarray(3 * index, 3 * index + 3);
      colours[index] = (OPAQUE | (blue << 16) | (green << 8) | red) >>> 0;
    } else if (!seesThrough) {
      colours[index] = OPAQUE;
    }
  }
  return colours;
}

export function paintIndices(context, grid, colours) {
  const image = new ImageData(grid.width, grid.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colours[grid.indices[i]];
  context.putImageData(image, 0, 0);
}

// Draws the lines between the classes, or around `only`.
export function paintOutlines(context, grid, only = null) {
  const { width, height, indices } = grid;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const thickness = Math.max(1, Math.round(Math.max(width, height) / 900));
  const differ = only === null ? (a, b) => a !== b : (a, b) => (a === only) !== (b === only);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const isEdge =
        (x >= thickness && differ(indices[i], indices[i - thickness])) ||
        (y >= thickness && differ(indices[i], indices[i - thickness * width]));
      if (isEdge) pixels[i] = 0xffffffff;
    }
  }
  context.putImageData(image, 0, 0);
}

// Returns a smaller grid; each of its indices comes from the middle of the area that it covers.
export function shrink({ height, width, indices }, longest) {
  const scale = Math.min(1, longest / Math.max(height, width));
  if (scale === 1) return { height, width, indices };
  const [rows, columns] = [height, width].map((side) => Math.max(1, Math.round(side * scale)));
  const fromX = Int32Array.from({ length: columns }, (_, x) => Math.floor(((x + 0.5) * width) / columns));
  const shrunk = new Uint8Array(rows * columns);
  for (let y = 0; y < rows; y++) {
    const from = Math.floor(((y + 0.5) * height) / rows) * width;
    for (let x = 0; x < columns; x++) shrunk[y * columns + x] = indices[from + fromX[x]];
  }
  return { height: rows, width: columns, indices: shrunk };
}
