//! Numbers in text: each request has a dozen of them, and the standard library's formats take their time.

/// Writes a number.
pub(crate) fn whole(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

/// Writes a number with so many of its digits behind the point; 18 at most.
pub(crate) fn fraction<const DIGITS: u32>(text: &mut String, number: u64) {
    let unit = 10_u64.pow(DIGITS);
    whole(text, number / unit);
    // With a one before it, which keeps the noughts.
    let mut behind = itoa::Buffer::new();
    text.push('.');
    text.push_str(&behind.format(unit + number % unit)[1..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<const DIGITS: u32>(number: u64) -> String {
        let mut text = String::new();
        fraction::<DIGITS>(&mut text, number);
        text
    }

    #[test]
    fn a_fraction_has_all_its_digits() {
        assert_eq!([0, 7, 1_000, 61_234_567].map(written::<3>), ["0.000", "0.007", "1.000", "61234.567"]);
        assert_eq!(written::<3>(u64::MAX), "18446744073709551.615");
    }
}
