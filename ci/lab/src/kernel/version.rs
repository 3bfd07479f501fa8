//! Debian's order of versions.

use std::cmp::Ordering;

/// Compares two Debian version strings (without epoch).
pub fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split(right, |c| !c.is_ascii_digit());
        let texts = compare_text(left_text, right_text);
        let (left_digits, left_rest) = split(left_rest, |c| c.is_ascii_digit());
        let (right_digits, right_rest) = split(right_rest, |c| c.is_ascii_digit());
        let numbers = number(left_digits).cmp(&number(right_digits));
        match texts.then(numbers) {
            Ordering::Equal => (left, right) = (left_rest, right_rest),
            unequal => return unequal,
        }
    }
    Ordering::Equal
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

fn number(digits: &str) -> u64 {
    digits.parse().unwrap_or(0)
}

/// A tilde sorts before the end of the text, letters before everything else.
fn compare_text(left: &str, right: &str) -> Ordering {
    let rank = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => c as i32,
        Some(c) => c as i32 + 0x100,
    };
    let (mut left, mut right) = (left.chars(), right.chars());
    loop {
        let (a, b) = (left.next(), right.next());
        match rank(a).cmp(&rank(b)) {
            Ordering::Equal if a.is_none() && b.is_none() => return Ordering::Equal,
            Ordering::Equal => {}
            unequal => return unequal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_dpkg_does() {
        let ascending = [
            "5.10.9-1",
            "5.10.10-1",
            "6.12.1-1~bpo12+1",
            "6.12.1-1",
            "6.12.1-1+b1",
            "7.3~rc2-1",
            "7.3-1",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("6.1.0-47", "6.1.0-47"), Ordering::Equal);
    }
}
