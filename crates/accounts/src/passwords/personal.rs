//! What everybody knows about somebody is what others guess first: address, name, tenant.

use crate::{Error, Result, fields::NewPassword};

/// Shorter words are in too many passwords by chance.
const SHORTEST: usize = 4;
/// What the rule asks of a password has to be there without those words.
const LEAST: usize = 8;

/// Refuses a password that is little more than words out of `known`: addresses, names, slugs.
///
/// # Errors
/// [`Error::PersonalPassword`].
pub(crate) fn refuse_personal(password: &NewPassword, known: &[impl AsRef<str>]) -> Result<()> {
    let password = password.expose().to_lowercase();
    let known: Vec<_> = known.iter().map(|text| text.as_ref().to_lowercase()).collect();
    let mut words: Vec<&str> = vec![];
    for text in &known {
        words.push(text);
        words.extend(text.split('@'));
        words.extend(text.split(|c: char| !c.is_alphanumeric()));
    }
    words.retain(|word| word.chars().count() >= SHORTEST);
    // The longest first, so that a part does not tear a whole apart.
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let rest = words.iter().fold(password.clone(), |rest, word| rest.replace(word, ""));
    if rest.len() < password.len() && rest.chars().count() < LEAST {
        return Err(Error::PersonalPassword);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::FromText;

    #[test]
    fn a_password_is_more_than_what_everybody_knows() {
        let known = ["ada.lovelace@acme.example", "Ada Lovelace", "Acme & Sons", "acme-2"];
        let fits = |text: &str| refuse_personal(&NewPassword::from_text(text).unwrap(), &known).is_ok();
        for personal in [
            "Ada.Lovelace@acme.example1",
            "Ada.Lovelace1",
            "Lovelace1815",
            "Acme2026",
            "Acme & Sons 1",
            "ACME-2-acme",
            "1Acme-Lovelace!",
        ] {
            assert!(!fits(personal), "{personal}");
        }
        for own in ["Correct-Horse-1", "Acme-Correct-1", "Sonnet-Ada-18", "Passw0rd-of-Ada"] {
            assert!(fits(own), "{own}");
        }
        assert!(refuse_personal(&NewPassword::from_text("Acme2026").unwrap(), &[""; 0]).is_ok());
    }
}
