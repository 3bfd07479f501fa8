//! Interrupt vectors (Power ISA, Book III).

use guest_protocol::layout::ppc64le::{VECTOR_STRIDE, VECTORS, VECTORS_END};

/// `mtsprg 1, 31`.
const SAVE_R31: u32 = 0x7ff1_43a6;
/// `li 31, 0`, to which the value is added.
const LOAD_R31: u32 = 0x3be0_0000;
/// `ba 0`, to which the address is added.
const BRANCH: u32 = 0x4800_0002;
/// Behind the last address that `ba` reaches.
const BRANCH_END: u64 = 1 << 25;

/// Writes the vectors into the image of guest-physical memory.
pub(crate) fn prepare_image(
    image: &mut [u8],
    symbol: impl Fn(&str) -> Option<u64>,
) -> Result<(), String> {
    let save = symbol("trap_save").filter(|address| *address < BRANCH_END);
    let save = save.ok_or("the payload has no trap_save where a vector can branch to")? as u32;
    for vector in (VECTORS..VECTORS_END).step_by(VECTOR_STRIDE as usize) {
        let code = [SAVE_R31, LOAD_R31 + vector as u32, BRANCH + save];
        for (i, instruction) in code.iter().enumerate() {
            let at = vector as usize + 4 * i;
            image[at..at + 4].copy_from_slice(&instruction.to_le_bytes());
        }
    }
    Ok(())
}
