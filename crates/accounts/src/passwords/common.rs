//! Passwords that most people choose: guessed first, whatever a rule says about their letters. See `common.md` for where
//! they come from.

use std::sync::LazyLock;

static COMMON: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("common.txt").lines().collect());

/// Whether `password` is one of them, in upper or lower case, with signs before or behind it or without.
pub(crate) fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    let core = lower.trim_matches(|c: char| !c.is_alphanumeric());
    COMMON.binary_search(&core).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_as_it_is_compared() {
        assert!(COMMON.len() > 15_000);
        assert!(COMMON.windows(2).all(|two| two[0] < two[1]));
        for word in COMMON.iter() {
            assert_eq!(word.to_lowercase().trim_matches(|c: char| !c.is_alphanumeric()), *word);
            assert!(is_common(word), "{word}");
        }
    }

    #[test]
    fn case_and_signs_around_it_make_no_other_password() {
        for common in ["Password1", "PASSW0RD", "Qwerty123", "Welcome1!", "!!Abc123!!", "P@ssw0rd"] {
            assert!(is_common(common), "{common}");
        }
        for other in ["Correct-Horse-1", "", "!!!", "Password-of-Ada-1"] {
            assert!(!is_common(other), "{other}");
        }
    }
}
