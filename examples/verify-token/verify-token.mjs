// Verifies access tokens by the published keys, with jose: no request to Tenantry for each token.
//
//     node verify-token.mjs ISSUER [JWKS_URL]      (tokens on standard input, one a line)
//
// ISSUER is Tenantry's PUBLIC_URL. What this cannot know, above all whether a token has been revoked:
// docs/verifying-tokens.md.

import { createInterface } from "node:readline";
import { createRemoteJWKSet, jwtVerify } from "jose";

const [issuer, url = `${issuer}/.well-known/jwks.json`] = process.argv.slice(2);

const keys = createRemoteJWKSet(new URL(url), {
  // Tokens name any key that their makers like: the least time between two fetches, in milliseconds.
  cooldownDuration: Number(process.env.JWKS_COOLDOWN ?? 60) * 1000,
  // Without an answer for this long, no key is believed to be still in use.
  cacheMaxAge: 600_000,
  timeoutDuration: 5_000,
});

/** What the token says, or an exception of jose. */
async function verify(token) {
  const { payload } = await jwtVerify(token, keys, {
    issuer,
    // The token does not choose how it is verified: only what it may be is let through.
    algorithms: ["EdDSA"],
    typ: "at+jwt",
    requiredClaims: ["exp", "sub", "tid", "sid", "role"],
  });
  return payload;
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const claims = await verify(line.trim());
    console.log(`user ${claims.sub} of tenant ${claims.tid}`);
  } catch (error) {
    console.log(`refused: ${error.message}`);
  }
}
