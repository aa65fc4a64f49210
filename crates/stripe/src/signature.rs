//! Whether a webhook comes from Stripe: <https://docs.stripe.com/webhooks#verify-manually>.

use std::time::{Duration, SystemTime};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// How old a signature may be, and how far its clock may be ahead of ours.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// More signatures than this are not looked at: each costs a hash over the whole body.
const MOST_SIGNATURES: usize = 10;

/// The signing secrets of the webhook endpoint: two while one takes the other's place.
#[derive(Clone)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} of them)", self.0.len())
    }
}

/// Why a webhook is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStripe {
    /// The header is missing or says nothing.
    #[error("the Stripe-Signature header is missing or cannot be read")]
    Unsigned,
    /// No signature is of one of our secrets.
    #[error("no signature in the Stripe-Signature header fits the body and one of STRIPE_WEBHOOK_SECRETS")]
    WrongSignature,
    /// It was signed too long ago, or is from the future.
    #[error("the Stripe-Signature header is more than five minutes old, or early")]
    WrongTime,
}

impl Secrets {
    /// Takes signatures by any of `secrets`. Empty ones are none: by them anybody could sign.
    pub fn new<S: AsRef<str>>(secrets: &[S]) -> Self {
        let secrets = secrets.iter().map(|secret| secret.as_ref().trim().to_owned());
        Self(secrets.filter(|secret| !secret.is_empty()).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none, so that no webhook is ever taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they are what Stripe calls a signing secret, and not a key of another kind.
    pub fn look_right(&self) -> bool {
        self.0.iter().all(|secret| secret.starts_with("whsec_"))
    }

    /// Refuses a body that was not signed by one of the secrets at about `now`. In constant time.
    ///
    /// # Errors
    /// See [`NotStripe`]. The signature is looked at first: of a stranger's clock nothing is told.
    pub fn verify(&self, header: &str, body: &[u8], now: SystemTime) -> Result<(), NotStripe> {
        let (mut at, mut signatures) = (None, vec![]);
        for part in header.split(',') {
            match part.trim().split_once('=') {
                Some(("t", time)) => at = Some(time),
                Some(("v1", signature)) if signatures.len() < MOST_SIGNATURES => signatures.push(signature),
                _ => {}
            }
        }
        let at = at.filter(|at| !at.is_empty() && at.bytes().all(|byte| byte.is_ascii_digit()));
        let at = at.ok_or(NotStripe::Unsigned)?;
        let seconds: u64 = at.parse().map_err(|_| NotStripe::Unsigned)?;
        let signatures: Vec<_> = signatures.into_iter().filter_map(unhex).collect();
        let genuine = self.0.iter().filter_map(|secret| signed(secret, at, body)).any(|mac| {
            // Every signature is compared, whichever fits.
            signatures
                .iter()
                .fold(false, |found, signature| found | mac.clone().verify_slice(signature).is_ok())
        });
        if !genuine {
            return Err(NotStripe::WrongSignature);
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| NotStripe::WrongTime)?.as_secs();
        if now.abs_diff(seconds) > TOLERANCE.as_secs() { Err(NotStripe::WrongTime) } else { Ok(()) }
    }
}

pub(crate) fn signed(secret: &str, at: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(at.as_bytes());
    mac.update(b".");
    mac.update(body);
    Some(mac)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    text.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn header(secret: &str, at: u64) -> String {
        let mac = signed(secret, &at.to_string(), BODY).unwrap().finalize().into_bytes();
        let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={at},v1={hex},v0=ignored")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn either_of_two_secrets_will_do_and_one_of_several_signatures() {
        let secrets = Secrets::new(&["whsec_old", " whsec_new"]);
        for secret in ["whsec_old", "whsec_new"] {
            assert_eq!(secrets.verify(&header(secret, 1_000), BODY, at(1_000)), Ok(()));
        }
        let several = format!("t=1000,v1={},{}", "0".repeat(64), &header("whsec_new", 1_000)[7..]);
        assert_eq!(secrets.verify(&several, BODY, at(1_000)), Ok(()));
    }

    #[test]
    fn another_body_another_secret_and_another_time_are_refused() {
        let secrets = Secrets::new(&["whsec_1"]);
        let good = header("whsec_1", 1_000);
        assert_eq!(secrets.verify(&good, b"{}", at(1_000)), Err(NotStripe::WrongSignature));
        assert_eq!(
            secrets.verify(&header("whsec_2", 1_000), BODY, at(1_000)),
            Err(NotStripe::WrongSignature)
        );
        assert_eq!(
            secrets.verify(&good.replace("t=1000", "t=1001"), BODY, at(1_000)),
            Err(NotStripe::WrongSignature)
        );
        assert_eq!(secrets.verify(&good, BODY, at(1_300)), Ok(()));
        assert_eq!(secrets.verify(&good, BODY, at(1_301)), Err(NotStripe::WrongTime));
        assert_eq!(secrets.verify(&header("whsec_1", 2_000), BODY, at(1_000)), Err(NotStripe::WrongTime));
        let mended = Secrets::new(&["", " ", "whsec_1 ", ""]);
        assert_eq!((mended.len(), mended.look_right()), (1, true));
        assert_eq!(mended.verify(&good, BODY, at(1_000)), Ok(()));
        for none in [&[][..], &[""], &["", " "]] {
            let secrets = Secrets::new(none);
            assert!(secrets.is_empty());
            for header in [&good, &header("", 1_000)] {
                assert_eq!(secrets.verify(header, BODY, at(1_000)), Err(NotStripe::WrongSignature));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let secrets = Secrets::new(&["whsec_1"]);
        for header in ["", "t=", "v1=00", "t=x,v1=00", "t=-1,v1=00", "t=99999999999999999999999,v1=00"] {
            assert_eq!(secrets.verify(header, BODY, at(1_000)), Err(NotStripe::Unsigned), "{header}");
        }
        assert_eq!(secrets.verify("t=1000,v1=zz", BODY, at(1_000)), Err(NotStripe::WrongSignature));
    }
}
