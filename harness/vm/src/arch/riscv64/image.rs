//! Page tables that every vCPU starts on (privileged manual, "Sv39").

use guest_protocol::layout::riscv64::pte::{DEFAULT, V, entry};
use guest_protocol::layout::{self, PAGE_SIZE, RAM_SIZE, trap_stack, vcpu_area};

const LARGE_PAGE: u64 = 2 << 20;
/// RAM is mapped by small pages, so that a test can change one without splitting the page it runs in.
const RAM_TABLES: u64 = RAM_SIZE / LARGE_PAGE;

/// Writes page tables into the image of guest-physical memory.
pub(crate) fn prepare_image(
    image: &mut [u8],
    symbol: impl Fn(&str) -> Option<u64>,
) -> Result<(), String> {
    symbol("trap_vector").ok_or("the payload has no trap vector")?;
    let mut put = |gpa: u64, value: u64| {
        image[gpa as usize..gpa as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    let table = |index: u64| layout::PAGE_TABLES + index * PAGE_SIZE;
    let (level2, level1, level0) = (table(0), table(1), table(5));
    for gib in 0..4 {
        put(level2 + gib * 8, entry(level1 + gib * PAGE_SIZE, V));
        for i in 0..512 {
            let address = (gib * 512 + i) * LARGE_PAGE;
            put(level1 + gib * PAGE_SIZE + i * 8, entry(address, DEFAULT | V));
        }
    }
    for i in 0..RAM_TABLES {
        put(level1 + i * 8, entry(level0 + i * PAGE_SIZE, V));
    }
    for page in 1..RAM_SIZE / PAGE_SIZE {
        put(level0 + page * 8, entry(page * PAGE_SIZE, DEFAULT | V));
    }
    for vcpu in 0..layout::MAX_VCPUS {
        for guard in [vcpu_area::GUARD, trap_stack::GUARD] {
            put(level0 + (layout::vcpu_area(vcpu) + guard) / PAGE_SIZE * 8, 0);
        }
    }
    Ok(())
}

const _: () = assert!(layout::PAGE_TABLES + (5 + RAM_TABLES) * PAGE_SIZE <= layout::SCRATCH);
