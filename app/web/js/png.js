// Decodes an indexed PNG to its exact indices, which a browser's colour management could change in a
// canvas. For PNGs with 8 bits per pixel and no interlacing, as the server writes them.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

// Returns {height, width, indices, palette}; the palette has three bytes per index.
export async function decodeIndexedPng(bytes) {
  if (!SIGNATURE.every((byte, i) => bytes[i] === byte)) throw new Error("this is not a PNG");
  const chunks = readChunks(bytes);
  const { height, width } = readHeader(chunks.get("IHDR")[0]);
  const rows = await inflate(chunks.get("IDAT"));
  if (rows.length !== height * (1 + width)) throw new Error("the PNG has too few or many pixels");
  return { height, width, indices: unfilter(rows, height, width), palette: chunks.get("PLTE")[0] };
}

function readChunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks = new Map();
  for (let at = SIGNATURE.length; at < bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    chunks.set(name, [...(chunks.get(name) ?? []), content]);
    at += 12 + length; // length, name and checksum take four bytes each
  }
  return chunks;
}

function readHeader(header) {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
  const [depth, colourType, , , interlace] = header.subarray(8);
  if (depth !== 8 || colourType !== 3 || interlace !== 0) throw new Error("the PNG is not indexed");
  return { width: view.getUint32(0), height: view.getUint32(4) };
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Undoes the filter of each row (PNG, 9): its number is the row's first byte.
function unfilter(rows, height, width) {
  const indices = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const from = y * (1 + width) + 1;
    const to = y * width;
    const filter = rows[from - 1];
    indices.set(rows.subarray(from, from + width), to);
    if (filter !== 0) unfilterRow(indices, to, y > 0 ? to - width : -1, width, filter);
  }
  return indices;
}

function unfilterRow(indices, row, above, width, filter) {
  for (let x = 0; x < width; x++) {
    const left = x > 0 ? indices[row + x - 1] : 0;
    const up = above >= 0 ? indices[above + x] : 0;
    const upLeft = x > 0 && above >= 0 ? indices[above + x - 1] : 0;
    indices[row + x] += [0, left, up, (left + up) >> 1, predict(left, up, upLeft)][filter];
  }
}

// Paeth's predictor: the neighbour that is nearest to left + up - upLeft.
function predict(left, up, upLeft) {
  const [toLeft, toUp, toUpLeft] = [up - upLeft, left - upLeft, left + up - 2 * upLeft].map(Math.abs);
  if (toLeft <= toUp && toLeft <= toUpLeft) return left;
  return toUp <= toUpLeft ? up : upLeft;
}
