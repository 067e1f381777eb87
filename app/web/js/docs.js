// Shows the OpenAPI document with Swagger UI, which docs.html loads first.

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // otherwise it would send the document to a validator on another server
});
