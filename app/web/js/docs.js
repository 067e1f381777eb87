// Shows the OpenAPI document with Swagger UI, which docs.html has loaded before.

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // or it would ask a server elsewhere whether the document is valid
});
