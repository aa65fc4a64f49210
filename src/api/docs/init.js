// Swagger UI would fill every field with its example and send that: cursors beside pages, versions that no record has.
function withoutGuesses(response) {
  if (!response.url.endsWith("/openapi.json")) return response;
  const document = JSON.parse(response.text);
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
  for (const parameter of operations.flatMap((operation) => operation.parameters ?? [])) {
    const { required, schema = {}, examples = {} } = parameter;
    const example = parameter.example ?? schema.example ?? Object.values(examples)[0]?.value;
    if (required || example === undefined) continue;
    delete parameter.example;
    delete parameter.examples;
    delete schema.example;
    parameter.description = [parameter.description, `Example: \`${example}\``].filter(Boolean).join(" ");
  }
  response.text = JSON.stringify(document);
  return response;
}

// Tokens stay in the memory of the page: whoever reads a browser's storage finds none, and a reload signs out.
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  responseInterceptor: withoutGuesses,
  validatorUrl: null,
});
