//! The raw disk that brings a program into a restored host: a header block, then the plan and the
//! files, each from a block's start.

use std::fmt::Write as _;

use crate::PlanError;

/// Size of a block; it fits what direct reads want.
pub const FEED_BLOCK: usize = 4096;

/// First word of the header.
const MAGIC: &str = "lab-feed";

/// One file on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedFile {
    /// Its path in the host.
    pub path: String,
    /// Its size.
    pub bytes: usize,
    /// Whether it can be executed.
    pub executable: bool,
}

/// The first block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHeader {
    /// Size of the plan, which comes first.
    pub plan_bytes: usize,
    /// The files behind it, in order.
    pub files: Vec<FeedFile>,
}

impl FeedHeader {
    /// The block.
    ///
    /// # Errors
    /// There are too many files for one block.
    pub fn encode(&self) -> Result<Vec<u8>, PlanError> {
        let mut text = format!("{MAGIC} {}\n", self.plan_bytes);
        for file in &self.files {
            let mode = if file.executable { 'x' } else { '-' };
            let _ = writeln!(text, "{mode} {} {}", file.bytes, file.path);
        }
        text.push('\n');
        let mut block = text.into_bytes();
        if block.len() > FEED_BLOCK {
            return Err(PlanError::new("too many files for the feed disk"));
        }
        block.resize(FEED_BLOCK, 0);
        Ok(block)
    }

    /// Reads the block.
    ///
    /// # Errors
    /// It is no header.
    pub fn decode(block: &[u8]) -> Result<Self, PlanError> {
        let text = String::from_utf8_lossy(block);
        let mut lines = text.lines().take_while(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let plan_bytes = first.strip_prefix(MAGIC).and_then(|rest| rest.trim().parse().ok());
        let plan_bytes = plan_bytes.ok_or_else(|| PlanError::new("the disk has no header"))?;
        let files = lines.map(|line| parse_file(line).ok_or_else(|| PlanError::new(line)));
        Ok(Self { plan_bytes, files: files.collect::<Result<_, _>>()? })
    }
}

fn parse_file(line: &str) -> Option<FeedFile> {
    let mut words = line.splitn(3, ' ');
    let executable = words.next()? == "x";
    let bytes = words.next()?.parse().ok()?;
    Some(FeedFile { path: words.next()?.to_owned(), bytes, executable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        let header = FeedHeader {
            plan_bytes: 17,
            files: vec![
                FeedFile { path: "/store/runner".into(), bytes: 123_456, executable: true },
                FeedFile { path: "/etc/a file".into(), bytes: 0, executable: false },
            ],
        };
        let block = header.encode().expect("fits");
        assert_eq!(block.len(), FEED_BLOCK);
        assert_eq!(FeedHeader::decode(&block), Ok(header));
    }

    #[test]
    fn an_empty_disk_is_an_error() {
        assert!(FeedHeader::decode(&[0; FEED_BLOCK]).is_err());
    }
}
