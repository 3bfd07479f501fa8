//! Page tables that every vCPU starts on (privileged manual, "Sv39").

use defs::riscv64::paging::{ENTRIES, LARGE_PAGE, Pte, entry};
use guest_protocol::layout::riscv64::PTE;
use guest_protocol::layout::{self, DEFAULT_RAM_SIZE, PAGE_SIZE, trap_stack, vcpu_area};

use super::super::more_ram;
use crate::Ram;

/// RAM is mapped by small pages, so that a test can change one without splitting the page it runs in.
const RAM_TABLES: u64 = DEFAULT_RAM_SIZE / LARGE_PAGE;

/// Pages of a vCPU's area that are never mapped.
const GUARDS: [u64; 2] = [vcpu_area::GUARD, trap_stack::GUARD];

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
        put(level2 + gib * 8, entry(level1 + gib * PAGE_SIZE, Pte::V));
        for i in 0..ENTRIES {
            let address = (gib * ENTRIES + i) * LARGE_PAGE;
            put(level1 + gib * PAGE_SIZE + i * 8, entry(address, PTE | Pte::V));
        }
    }
    for i in 0..RAM_TABLES {
        put(level1 + i * 8, entry(level0 + i * PAGE_SIZE, Pte::V));
    }
    for page in 1..DEFAULT_RAM_SIZE / PAGE_SIZE {
        put(level0 + page * 8, entry(page * PAGE_SIZE, PTE | Pte::V));
    }
    for vcpu in 0..layout::DEFAULT_VCPUS {
        for guard in GUARDS {
            put(level0 + (layout::vcpu_area(vcpu) + guard) / PAGE_SIZE * 8, 0);
        }
    }
    Ok(())
}

/// Tables for the blocks with the areas of vCPUs behind the default ones, which have guard pages.
const MORE_TABLES: u64 = layout::PAGE_TABLES + (5 + RAM_TABLES) * PAGE_SIZE;

/// Adapts the tables of one VM, which map everything, to RAM behind the default one.
pub(crate) fn extend_tables(ram: &Ram, nr_vcpus: u32) {
    let put = |gpa: u64, value: u64| {
        ram.write(gpa, &value.to_le_bytes()).expect("the tables are RAM");
    };
    let level1 = layout::PAGE_TABLES + PAGE_SIZE;
    let blocks = more_ram(ram, nr_vcpus, &GUARDS);
    let split = blocks.into_iter().filter(|(_, guards)| !guards.is_empty());
    for ((block, guards), table) in split.zip((MORE_TABLES..).step_by(PAGE_SIZE as usize)) {
        for page in (block..block + LARGE_PAGE).step_by(PAGE_SIZE as usize) {
            let pte = if guards.contains(&page) { 0 } else { entry(page, PTE | Pte::V) };
            put(table + (page - block) / PAGE_SIZE * 8, pte);
        }
        put(level1 + block / LARGE_PAGE * 8, entry(table, Pte::V));
    }
}

const _: () = assert!(MORE_TABLES + 2 * PAGE_SIZE <= layout::SCRATCH);
