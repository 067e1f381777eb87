// The two requests of this page: the model's description, and the mask of a photo.

import { readKey } from "./key.js";
import { Problem, makeUnreachable, readProblem } from "./problem.js";
import { parseServerTiming } from "./timing.js";

export async function fetchModel() {
  const response = await ask("v1/model", {});
  return response.json();
}

// Returns the indexed PNG, the time of each stage on the server, and the total time in the browser.
export async function segment(file, signal) {
  await requireReadable(file);
  const started = performance.now();
  const response = await ask("v1/segment?format=png", {
    method: "POST",
    body: file,
    headers: { "Content-Type": "application/octet-stream" },
    signal,
  });
  const png = await receive(response.blob());
  return {
    png,
    stages: parseServerTiming(response.headers.get("Server-Timing")),
    digest: response.headers.get("X-Weights-Digest"),
    milliseconds: performance.now() - started,
  };
}

async function ask(address, { headers = {}, ...options }) {
  const key = readKey();
  const sent = key ? { ...headers, "X-API-Key": key } : headers;
  const response = await receive(fetch(address, { ...options, headers: sent, cache: "no-store" }));
  if (!response.ok) throw await readProblem(response);
  return response;
}

async function receive(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw makeUnreachable();
  }
}

// Without this check, a folder or a deleted file would look like an unreachable server.
async function requireReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem("This file cannot be read", {
      detail: `The browser could not read ${file.name}.`,
      remedy: "If it is a folder, choose the photos in it; otherwise choose the file again.",
    });
  }
}
