// Writes indices as a file for numpy.load: uint8, shape (height, width).

const ALIGNMENT = 64;

export function makeNpy(indices, height, width) {
  const description = `{'descr': '|u1', 'fortran_order': False, 'shape': (${height}, ${width}), }`;
  const used = 10 + description.length + 1; // with the prefix and the line feed
  const header = description + " ".repeat((ALIGNMENT - (used % ALIGNMENT)) % ALIGNMENT) + "\n";
  const prefix = new Uint8Array([0x93, ...encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8]);
  return new Blob([prefix, encode(header), indices], { type: "application/x-npy" });
}

function encode(text) {
  return new TextEncoder().encode(text);
}
