//! The one form in which the lab and its init write to each other: a value is a line of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value that fits on a line.
pub trait Wire: Serialize + DeserializeOwned {
    /// The line, with its newline.
    #[must_use]
    fn encode(&self) -> String {
        match serde_json::to_string(self) {
            Ok(text) => text + "\n",
            Err(error) => unreachable!("plain data: {error}"),
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no such value; the message names the place.
    fn decode(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

/// Whether the bytes are a whole line.
#[must_use]
pub fn is_whole(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Plan, Resume, StoredFile};
    use std::time::Duration;

    fn resume() -> Resume {
        Resume {
            now: Duration::new(1_700_000_000, 17),
            files: vec![
                StoredFile { path: "/store/runner".into(), bytes: 123_456 },
                StoredFile { path: "/etc/a\tfile\nend".into(), bytes: 0 },
            ],
            plan: Plan { argv: vec!["/store/runner".into(), "a\n".into()], ..Plan::default() },
        }
    }

    #[test]
    fn a_value_is_one_line_whatever_its_texts_hold() {
        let line = resume().encode();
        assert_eq!(line.matches('\n').count(), 1);
        assert!(is_whole(line.as_bytes()));
        assert_eq!(Resume::decode(&line).unwrap(), resume());
    }

    #[test]
    fn a_part_of_a_value_is_none() {
        let line = resume().encode();
        for end in 0..line.len() - 1 {
            assert!(!is_whole(&line.as_bytes()[..end]), "{:?}", &line[..end]);
            assert!(Resume::decode(&line[..end]).is_err(), "{:?}", &line[..end]);
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_an_error() {
        assert_eq!(Plan::decode("{}").unwrap(), Plan::default());
        let error = Plan::decode(r#"{"argw":[]}"#).unwrap_err().to_string();
        assert!(error.contains("argw"), "{error}");
    }
}
