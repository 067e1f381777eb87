// Applies the reader's choice of light or dark before anything is painted. A classic script:
// modules run later, and the page would flash.

{
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is blocked: the system's theme stays.
  }
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
}
