//! The codes themselves: six digits, SHA-1, 30 seconds, one step early or late. Apps know nothing else for certain.

use rand::{TryRngCore, rngs::OsRng};
use totp_rs::{Builder, Totp, TotpError};

use crate::{Error, Result};

/// 160 bits, as RFC 4226 recommends.
pub(super) fn generate() -> Result<[u8; 20]> {
    let mut secret = [0; 20];
    OsRng.try_fill_bytes(&mut secret).map_err(|_| Error::Internal("no randomness"))?;
    Ok(secret)
}

/// The time step of `code`, if it is one of those that are valid now. That it has not been used is for the database to
/// say.
pub(super) fn step_of(secret: &[u8], code: &str) -> Result<Option<i64>> {
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or_default();
    let totp = Builder::new().with_secret(secret).build().map_err(unusable)?;
    Ok(totp.check(code, now).and_then(|step| i64::try_from(step).ok()))
}

/// The secret as it is typed, and the URI that apps read as a QR code.
pub(super) fn shown(secret: &[u8], issuer: &str, account: &str) -> Result<(String, String)> {
    // A colon separates the two.
    let issuer = issuer.replace(':', " ");
    let totp: Totp = Builder::new()
        .with_secret(secret)
        .with_account_name(account)
        .with_issuer(Some(issuer))
        .build()
        .map_err(unusable)?;
    Ok((totp.secret().to_base32(), totp.to_url().map_err(unusable)?))
}

fn unusable(_: TotpError) -> Error {
    Error::Internal("a second factor cannot be used")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, cut to six digits.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let totp = Builder::new().with_secret(b"12345678901234567890".as_slice()).build().unwrap();
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (20_000_000_000, "353130")] {
            assert_eq!(totp.generate(time).to_string(), code);
            assert_eq!(totp.check(code, time + 30), Some(time / 30));
            assert_eq!(totp.check(code, time + 60), None);
        }
    }

    #[test]
    fn a_uri_says_what_apps_need() {
        let (secret, uri) = shown(&[0; 20], "Acme: Rockets & Co", "ada+1@example.org").unwrap();
        assert_eq!(secret, "A".repeat(32));
        assert!(
            uri.starts_with("otpauth://totp/Acme%20%20Rockets%20%26%20Co:ada%2B1%40example.org?"),
            "{uri}"
        );
        assert!(uri.contains(&format!("secret={secret}")) && uri.contains("issuer=Acme"), "{uri}");
    }
}
