// Applies the user's choice of light or dark before anything is painted. This is a classic script,
// because modules run later and the page would flash.

{
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage is blocked: the system's theme applies.
  }
  if (chosen === "light" || chosen === "dark") {
    document.documentElement.dataset.theme = chosen;
  }
}
