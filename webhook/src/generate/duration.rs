//! Durations as SPIRE's configuration and CRDs have them (Go's notation):
//! `1h30m` flows in, a [`Duration`] flows out, and back.

use std::{fmt::Write, time::Duration};

/// Units, the largest first.
const UNITS: [(&str, f64); 7] = [
    ("h", 3600.0),
    ("m", 60.0),
    ("s", 1.0),
    ("ms", 1e-3),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ns", 1e-9),
];

/// Reads numbers with units, without a sign.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !is_of_number(c))?);
        let (unit, after) = after.split_at(after.find(is_of_number).unwrap_or(after.len()));
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    match text {
        "" => None,
        _ => Duration::try_from_secs_f64(seconds).ok(),
    }
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

/// Whole seconds, in the form that [`parse`] reads.
pub fn format(seconds: u64) -> String {
    let mut text = String::new();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    for (number, unit) in parts.iter().filter(|(number, _)| *number > 0) {
        // Writing to a String does not fail.
        let _ = write!(text, "{number}{unit}");
    }
    match text.is_empty() {
        true => "0s".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, seconds) in [
            ("1h", 3600.0),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("300s", 300.0),
            ("2m500ms", 120.5),
        ] {
            assert_eq!(parse(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "1", "h", "1d", "-1h", "1h ", "1..0h", "1e3s", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(seconds in 0..10_000_000_u64) {
            prop_assert_eq!(parse(&format(seconds)), Some(Duration::from_secs(seconds)));
        }

        #[test]
        fn nothing_panics(text in "[0-9.hmsunµ-]{0,20}|\\PC*") {
            let _ = parse(&text);
        }
    }
}
