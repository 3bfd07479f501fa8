//! The memory that a host keeps free in its snapshot, for the programs of the runs to come. Each of
//! its pages is marked, so that the lab finds them in the snapshot, wherever they are, and writes
//! files there before the restored host runs: an emulated processor would take longer to copy them.

use serde::{Deserialize, Serialize};

/// Size of the reserved memory.
pub const RESERVE_BYTES: usize = 64 << 20;
/// What is marked; a part of every architecture's page.
pub const RESERVE_PAGE: usize = 4096;

const MAGIC: &[u8; 8] = b"lab-free";
const MARK_BYTES: usize = 16;

/// One file in the reserved memory. Each begins with a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Its path in the host.
    pub path: String,
    /// Its size.
    pub bytes: usize,
}

impl StoredFile {
    /// The bytes that it takes of the reserved memory.
    #[must_use]
    pub fn span(&self) -> usize {
        self.bytes.next_multiple_of(RESERVE_PAGE)
    }
}

/// What the page of that index begins with; the rest of it is zero. A whole marked page is nowhere
/// else in the memory, not even in a buffer.
#[must_use]
pub fn mark(index: usize) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark[..8].copy_from_slice(MAGIC);
    mark[8..].copy_from_slice(&(index as u64).to_le_bytes());
    mark
}

/// The index of a marked page.
#[must_use]
pub fn marked_page(page: &[u8]) -> Option<usize> {
    let rest = page.strip_prefix(MAGIC)?;
    let (index, zeros) = rest.split_first_chunk::<8>()?;
    let index = usize::try_from(u64::from_le_bytes(*index)).ok()?;
    (index < RESERVE_BYTES / RESERVE_PAGE && zeros.iter().all(|byte| *byte == 0)).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_marked_page_counts() {
        let page = |index| [&mark(index)[..], &[0; RESERVE_PAGE - MARK_BYTES]].concat();
        let last = RESERVE_BYTES / RESERVE_PAGE - 1;
        assert_eq!(marked_page(&page(0)), Some(0));
        assert_eq!(marked_page(&page(last)), Some(last));
        assert_eq!(marked_page(&page(last + 1)), None);
        assert_eq!(marked_page(&[0; RESERVE_PAGE]), None);
        let mut used = page(3);
        used[RESERVE_PAGE - 1] = 1;
        assert_eq!(marked_page(&used), None);
    }
}
