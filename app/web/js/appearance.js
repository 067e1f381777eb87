// The button that switches between the system's theme, light and dark.

const THEMES = ["system", "light", "dark"];
const LABELS = { system: "Auto", light: "Light", dark: "Dark" };

export function connectTheme(button) {
  const show = () => {
    const theme = readTheme();
    button.textContent = LABELS[theme];
    button.setAttribute("aria-label", `Theme: ${LABELS[theme]}. Change the theme.`);
  };
  button.addEventListener("click", () => {
    choose(THEMES[(THEMES.indexOf(readTheme()) + 1) % THEMES.length]);
    show();
  });
  show();
}

function readTheme() {
  return document.documentElement.dataset.theme ?? "system";
}

function choose(theme) {
  if (theme === "system") {
    delete document.documentElement.dataset.theme;
  } else {
    document.documentElement.dataset.theme = theme;
  }
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Storage is blocked: the choice lasts until the page is left.
  }
}
