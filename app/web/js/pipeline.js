// Sends the photos to the server, a few at a time, and retries when the server says so.

import { segment } from "./api.js";
import { run } from "./background.js";
import { Problem } from "./problem.js";
import { formatBytes } from "./words.js";

const CONCURRENCY = 3;
const MAX_ATTEMPTS = 4;
const LONGEST_WAIT_S = 30;
const THUMBNAIL_PIXELS = 192;

export class Pipeline {
  #collection;
  #queue = [];
  #running = 0;

  // `limits` are the server's, or null while they are unknown. `onSegmented` gets each finished item.
  constructor(collection, { onSegmented }) {
    this.#collection = collection;
    this.limits = null;
    this.onSegmented = onSegmented;
  }

  add(items) {
    for (const item of items) this.#makeThumbnail(item);
    this.retry(items);
  }

  retry(items) {
    for (const item of items) this.#collection.update(item, { state: "waiting", problem: null });
    this.#queue.push(...items);
    this.#advance();
  }

  #advance() {
    while (this.#running < CONCURRENCY && this.#queue.length) {
      this.#running += 1;
      this.#process(this.#queue.shift()).finally(() => {
        this.#running -= 1;
        this.#advance();
      });
    }
  }

  async #process(item) {
    try {
      this.#requireSize(item.file);
      const answer = await this.#segment(item);
      const summary = await run("summarise", { png: answer.png, longest: THUMBNAIL_PIXELS });
      this.#collection.update(item, { state: "done", problem: null, answer, summary });
      this.onSegmented(item);
    } catch (error) {
      if (error.name === "AbortError") return;
      const problem = error instanceof Problem ? error : makeUnexpected(error);
      this.#collection.update(item, { state: "failed", problem });
    }
  }

  async #segment(item) {
    for (let attempt = 1; ; attempt++) {
      item.abort.signal.throwIfAborted();
      this.#collection.update(item, { state: "running" });
      try {
        return await segment(item.file, item.abort.signal);
      } catch (problem) {
        const seconds = problem.retryAfterS ?? Infinity;
        if (seconds > LONGEST_WAIT_S || attempt === MAX_ATTEMPTS) throw problem;
        this.#collection.update(item, { state: "retrying", problem });
        await wait(seconds, item.abort.signal);
      }
    }
  }

  // If the server refuses a body while it arrives, it closes the connection, and the browser reports
  // a network failure.
  #requireSize(file) {
    const limit = this.limits?.max_body_bytes ?? Infinity;
    if (file.size <= limit) return;
    throw new Problem("The file is too large", {
      detail: `The file has ${formatBytes(file.size)}; this server accepts at most ${formatBytes(limit)}.`,
      remedy: "Save a smaller photo, or save it as JPEG.",
    });
  }

  async #makeThumbnail(item) {
    const view = await run("view", { file: item.file, longest: THUMBNAIL_PIXELS }).catch(() => null);
    if (view) this.#collection.update(item, { thumbnail: view.bitmap });
  }
}

function makeUnexpected(error) {
  return new Problem("The mask cannot be shown", {
    detail: `${error.message}.`,
    remedy: "Try again. If the error persists, report it with the photo.",
  });
}

function wait(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
