// The API key: stored for this tab only, never in a URL or a cookie.

const NAME = "api-key";
let memory = "";

export function readKey() {
  try {
    return sessionStorage.getItem(NAME) ?? memory;
  } catch {
    return memory;
  }
}

export function keepKey(key) {
  memory = key;
  try {
    sessionStorage.setItem(NAME, key);
  } catch {
    // Storage is blocked: the key lasts until the page is left.
  }
}
