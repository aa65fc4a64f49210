// Of @hey-api/openapi-ts, run where the repository begins.
export default {
  input: "./openapi/openapi.json",
  output: { path: "openapi/build/typescript/src", module: { extension: ".js" } },
  plugins: ["@hey-api/client-fetch", "@hey-api/sdk", "@hey-api/typescript"],
};
