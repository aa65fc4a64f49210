//! Numbers in text, digit by digit: each request has a dozen of them, and the standard library's formats take their time.

/// Writes a number.
pub(crate) fn whole(text: &mut String, number: u64) {
    fraction::<0>(text, number);
}

/// Writes a number with so many of its digits behind the point.
pub(crate) fn fraction<const DIGITS: usize>(text: &mut String, mut number: u64) {
    // As many as there are.
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let point = at - DIGITS;
    while number > 0 || at >= point {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let (whole, behind) = digits.split_at(point);
    text.push_str(std::str::from_utf8(&whole[at..]).unwrap_or_default());
    if DIGITS > 0 {
        text.push('.');
        text.push_str(std::str::from_utf8(behind).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<const DIGITS: usize>(number: u64) -> String {
        let mut text = String::new();
        fraction::<DIGITS>(&mut text, number);
        text
    }

    #[test]
    fn a_fraction_has_all_its_digits() {
        assert_eq!([0, 7, 1_000, 61_234_567].map(written::<3>), ["0.000", "0.007", "1.000", "61234.567"]);
        assert_eq!(written::<3>(u64::MAX), "18446744073709551.615");
    }

    #[test]
    fn a_whole_number_is_written_as_by_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, 1_207, u64::MAX] {
            assert_eq!(written::<0>(number), number.to_string());
        }
    }
}
