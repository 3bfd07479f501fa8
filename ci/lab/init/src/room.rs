//! The room that a checkpointed host keeps in its memory for the programs of the runs to come. Each of
//! its pages is marked, so that the lab finds them in the checkpoint, wherever they are, and puts files
//! there before the restored host runs: nothing is quicker for an emulated processor than what others do.

/// Size of the room.
pub const ROOM_BYTES: usize = 64 << 20;
/// What is marked; a part of every architecture's page.
pub const ROOM_PAGE: usize = 4096;

const MAGIC: &[u8; 8] = b"lab-room";
const MARK_BYTES: usize = 16;

/// What a page of zeros begins with to be that place of the room. A whole marked page is nowhere else in the
/// memory, not even in a buffer.
#[must_use]
pub fn mark(index: usize) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark[..8].copy_from_slice(MAGIC);
    mark[8..].copy_from_slice(&(index as u64).to_le_bytes());
    mark
}

/// The place in the room of a page with a mark.
#[must_use]
pub fn marked_page(page: &[u8]) -> Option<usize> {
    let rest = page.strip_prefix(MAGIC)?;
    let (index, zeros) = rest.split_first_chunk::<8>()?;
    let index = usize::try_from(u64::from_le_bytes(*index)).ok()?;
    (index < ROOM_BYTES / ROOM_PAGE && zeros.iter().all(|byte| *byte == 0)).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marks_are_marks() {
        let page = |index| [&mark(index)[..], &[0; ROOM_PAGE - MARK_BYTES]].concat();
        let last = ROOM_BYTES / ROOM_PAGE - 1;
        assert_eq!(marked_page(&page(0)), Some(0));
        assert_eq!(marked_page(&page(last)), Some(last));
        assert_eq!(marked_page(&page(last + 1)), None);
        assert_eq!(marked_page(&[0; ROOM_PAGE]), None);
        let mut used = page(3);
        used[ROOM_PAGE - 1] = 1;
        assert_eq!(marked_page(&used), None);
    }
}
