// Formats numbers for people.

const whole = new Intl.NumberFormat("en");
const oneDigit = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export function formatShare(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export function formatMilliseconds(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(2)} s`;
  return `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
}

export function formatBytes(bytes) {
  if (bytes < 2 ** 20) return `${whole.format(Math.ceil(bytes / 1024))} KiB`;
  return `${oneDigit.format(bytes / 2 ** 20)} MiB`;
}

export function formatMegapixels(pixels) {
  return `${oneDigit.format(pixels / 1e6)} megapixels`;
}

export function formatSize(height, width) {
  return `${whole.format(width)} × ${whole.format(height)} pixels`;
}
