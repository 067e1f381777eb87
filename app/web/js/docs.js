// Shows the OpenAPI document with Swagger UI, which docs.html loads first, in the page's theme.

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  const root = document.documentElement;
  const theme = root.dataset.theme ?? (prefersDark.matches ? "dark" : "light");
  root.classList.toggle("dark-mode", theme === "dark"); // a class of Swagger UI's style sheet
}

prefersDark.addEventListener("change", applyTheme);
applyTheme();

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // otherwise it would send the document to a validator on another server
});
