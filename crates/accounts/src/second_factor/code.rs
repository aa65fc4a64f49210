//! What somebody types: six digits of an app, or a recovery code.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{
    fields::{FromText, Problem},
    schema::text_schema,
};

/// Letters and digits that are not taken for one another (RFC 4648, base32).
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// A code of either kind. Cannot be printed.
#[derive(Clone)]
pub enum Code {
    /// Six digits of an authenticator app.
    Totp(TotpCode),
    /// A recovery code.
    Recovery(RecoveryCode),
}

text_schema!(Code, format: "password", min_length: 6usize, max_length: 64usize);

impl FromText for Code {
    /// Blanks, hyphens and the case of letters do not matter.
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        let wrong =
            || vec![Problem { code: "invalid_code", message: "Must be six digits, or a recovery code" }];
        if text.len() > 64 {
            return Err(wrong());
        }
        let code: String =
            text.chars().filter(|c| *c != ' ' && *c != '-').map(|c| c.to_ascii_uppercase()).collect();
        if code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::Totp(TotpCode(code)));
        }
        let known = code.bytes().all(|byte| ALPHABET.contains(&byte));
        if code.len() == RecoveryCode::LENGTH && known {
            return Ok(Self::Recovery(RecoveryCode(code)));
        }
        Err(wrong())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

/// Six digits.
#[derive(Clone)]
pub struct TotpCode(String);

impl TotpCode {
    /// The digits, for comparing only.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// Twenty-eight letters and digits: 140 bits, so that nobody guesses one, and a plain hash tells nothing of it.
#[derive(Clone)]
pub struct RecoveryCode(String);

impl RecoveryCode {
    pub(super) const LENGTH: usize = 28;

    /// Made of random bytes, of each of which five bits count.
    pub(super) fn of(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect())
    }

    /// As people copy it: in groups of four.
    pub(super) fn shown(&self) -> String {
        let groups: Vec<_> = self.0.as_bytes().chunks(4).map(String::from_utf8_lossy).collect();
        groups.join("-")
    }

    /// What is stored.
    pub(super) fn hash(&self) -> Vec<u8> {
        Sha256::digest(&self.0).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        for digits in ["123456", "123 456", " 123-456 "] {
            assert!(
                matches!(Code::from_text(digits), Ok(Code::Totp(code)) if code.0 == "123456"),
                "{digits}"
            );
        }
        let code = RecoveryCode::of([
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 26, 27, 28, 29, 30,
            255,
        ]);
        let shown = "ABCD-EFGH-IJKL-MNOP-QRST-UV23-4567";
        assert_eq!(code.shown(), shown);
        for text in [shown, &shown.replace('-', "").to_lowercase(), &shown.replace('-', " ")] {
            assert!(matches!(Code::from_text(text), Ok(Code::Recovery(read)) if read.hash() == code.hash()));
        }
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for text in [
            "",
            "12345",
            "1234567",
            "１２３４５６",
            "ABCD-EFGH-IJKL-MNOP-QRST-UV23-456",
            "ABCD-EFGH-IJKL-MNOP-QRST-UV23-4568",
            &"1".repeat(1000),
        ] {
            assert_eq!(Code::from_text(text).unwrap_err()[0].code, "invalid_code", "{text}");
        }
        assert_eq!(format!("{:?}", Code::from_text("123456").unwrap()), "Code(..)");
    }
}
