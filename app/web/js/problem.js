// Problems as texts: a title, what happened, and what to do.

export class Problem extends Error {
  constructor(title, { detail = "", remedy = "", status = 0, retryAfterS = null } = {}) {
    super(title);
    this.title = title;
    this.detail = detail;
    this.remedy = remedy;
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

// Returns the server's problem detail (RFC 9457), or the status if a proxy has answered instead.
export async function readProblem(response) {
  const retryAfterS = parseSeconds(response.headers.get("Retry-After"));
  const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
  const body = isProblem ? await response.json().catch(() => ({})) : {};
  return new Problem(body.title ?? `The server answered with status ${response.status}`, {
    detail: body.detail ?? response.statusText,
    remedy: body.remedy,
    status: response.status,
    retryAfterS,
  });
}

export function makeUnreachable() {
  return new Problem("The server cannot be reached", {
    detail: "There was no answer.",
    remedy: "Check the connection, and whether the server runs; then try again.",
  });
}

// Parses the seconds of Retry-After. A date, which is also allowed, counts as missing.
function parseSeconds(text) {
  return text !== null && /^\d+$/.test(text.trim()) ? Number(text) : null;
}
