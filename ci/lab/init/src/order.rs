//! The lab's order to a restored host: the time, the files that are in its room, and the plan. Lines
//! as those of a plan, the last one `end`.

use std::fmt::Write as _;
use std::time::Duration;

use crate::plan::{escape, unescape};
use crate::{Plan, PlanError, ROOM_PAGE};

/// The last line.
const END: &str = "end\n";

/// One file in the room. Each begins with a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomFile {
    /// Its path in the host.
    pub path: String,
    /// Its size.
    pub bytes: usize,
}

impl RoomFile {
    /// What it takes of the room.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.next_multiple_of(ROOM_PAGE)
    }
}

/// What a restored host has to know and to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Time since 1970.
    pub now: Duration,
    /// The files, one behind the other.
    pub files: Vec<RoomFile>,
    /// What to do.
    pub plan: Plan,
}

impl Order {
    /// The text form.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("now\t{}\n", self.now.as_nanos());
        for file in &self.files {
            let _ = writeln!(text, "file\t{}\t{}", file.bytes, escape(&file.path));
        }
        text + &self.plan.encode() + END
    }

    /// Whether this is all of a text form.
    #[must_use]
    pub fn is_whole(text: &[u8]) -> bool {
        text.ends_with(format!("\n{END}").as_bytes())
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(text: &str) -> Result<Self, PlanError> {
        let whole = || PlanError::new("the order is not whole");
        let mut rest = text.strip_suffix(END).ok_or_else(whole)?;
        let mut line = |key: &str| {
            let (line, behind) = rest.split_once('\n')?;
            let fields = line.strip_prefix(key)?.strip_prefix('\t')?;
            rest = behind;
            Some(fields)
        };
        let now = line("now").ok_or_else(whole)?;
        let now = now.parse().map_err(|_| PlanError::new(now))?;
        let mut files = Vec::new();
        while let Some(fields) = line("file") {
            files.push(parse_file(fields).ok_or_else(|| PlanError::new(fields))?);
        }
        Ok(Self { now: Duration::from_nanos(now), files, plan: Plan::decode(rest)? })
    }
}

fn parse_file(fields: &str) -> Option<RoomFile> {
    let (bytes, path) = fields.split_once('\t')?;
    Some(RoomFile { path: unescape(path), bytes: bytes.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            now: Duration::new(1_700_000_000, 17),
            files: vec![
                RoomFile { path: "/store/runner".into(), bytes: 123_456 },
                RoomFile { path: "/etc/a\tfile\nend".into(), bytes: 0 },
            ],
            plan: Plan { argv: vec!["/store/runner".into(), "end\n".into()], ..Plan::default() },
        }
    }

    #[test]
    fn survives_the_round_trip() {
        let text = order().encode();
        assert_eq!(Order::decode(&text), Ok(order()));
        let empty = Order { files: Vec::new(), plan: Plan::default(), ..order() };
        assert_eq!(Order::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn a_part_is_no_order() {
        let text = order().encode();
        for end in 0..text.len() {
            assert!(!Order::is_whole(&text.as_bytes()[..end]), "{:?}", &text[..end]);
            assert!(Order::decode(&text[..end]).is_err(), "{:?}", &text[..end]);
        }
        assert!(Order::is_whole(text.as_bytes()));
    }
}
