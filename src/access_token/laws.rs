//! What is signed is read back, and nothing else is.

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};

use super::*;
use crate::key_files::{KeyFile, Read};

static TOKENS: LazyLock<AccessTokens> = LazyLock::new(|| {
    let Some(key) = KeyPair::write([7; 32]).and_then(|pem| KeyPair::parse(&pem)) else { panic!("no key") };
    AccessTokens {
        folder: KeyFolder::new(std::path::PathBuf::new(), Duration::ZERO),
        issuer: "https://tenantry.test".into(),
        ttl: Duration::from_secs(600),
        keys: RwLock::new(Arc::new(Keys::from(Read { writing: key.clone(), all: vec![key] }))),
        verified: quick_cache::sync::Cache::new(100),
    }
});

/// A token says what was signed, with any character changed nothing, and nobody makes one up.
pub fn access_token(data: &[u8]) {
    let _ = check(&mut Unstructured::new(data));
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let now = chrono::Utc::now().timestamp();
    let id = |u: &mut Unstructured<'_>| Ok(uuid::Uuid::from_bytes(u.arbitrary()?));
    let claims = Claims {
        iss: TOKENS.issuer.clone(),
        iat: now,
        // Time that passes between two lines changes nothing.
        exp: now + *u.choose(&[-600, -60, 60, 600])?,
        sub: UserId(id(u)?),
        tid: TenantId(id(u)?),
        slug: u.arbitrary()?,
        sid: SessionId(id(u)?),
        role: *u.choose(&[Role::User, Role::Admin, Role::SuperAdmin])?,
        uv: u.arbitrary()?,
        tv: u.arbitrary()?,
        email_verified: u.arbitrary()?,
        amr: vec![Method::Pwd],
        plan: None,
        mfa: None,
    };
    let keys = TOKENS.keys();
    let (id, key) = &keys.signing;
    let header = Header { kid: Some(id.clone()), typ: Some(TYPE.into()), ..Header::new(Algorithm::EdDSA) };
    let signed = |header: &Header, claims: &Claims| match jsonwebtoken::encode(header, claims, key) {
        Ok(token) => token,
        Err(error) => panic!("{error}"),
    };
    let token = signed(&header, &claims);

    let read = TOKENS.verify(&token);
    assert_eq!(read.is_some(), claims.exp > now, "it ends in {} seconds", claims.exp - now);
    if let Some(read) = read {
        assert_eq!(
            (read.sub, read.tid, read.sid, &read.slug, read.uv, read.tv),
            (claims.sub, claims.tid, claims.sid, &claims.slug, claims.uv, claims.tv)
        );
    }
    let (at, by) = (u.choose_index(token.len())?, char::from(u.int_in_range(b'!'..=b'~')?));
    let other: String = token.chars().enumerate().map(|(n, c)| if n == at { by } else { c }).collect();
    assert!(other == token || TOKENS.verify(&other).is_none(), "changed at {at} to {by:?}: {token}");
    // Of another type, another issuer, without a signature.
    let of_another_type = Header { typ: Some("JWT".into()), ..header.clone() };
    assert!(TOKENS.verify(&signed(&of_another_type, &claims)).is_none());
    let of_another = Claims { iss: u.arbitrary::<String>()? + "x", ..claims };
    assert!(TOKENS.verify(&signed(&header, &of_another)).is_none());
    assert!(
        token.rsplit_once('.').is_some_and(|(unsigned, _)| TOKENS.verify(&format!("{unsigned}.")).is_none())
    );
    assert!(TOKENS.verify(u.arbitrary()?).is_none());
    Ok(())
}
