// Reads the header Server-Timing: `decode;dur=8.1, inference;dur=70` as [{name, milliseconds}].

export function parseServerTiming(text) {
  const stages = [];
  for (const part of (text ?? "").split(",")) {
    const [name, ...parameters] = part.split(";").map((piece) => piece.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    const milliseconds = Number(duration?.slice("dur=".length));
    if (name && Number.isFinite(milliseconds)) stages.push({ name, milliseconds });
  }
  return stages;
}
