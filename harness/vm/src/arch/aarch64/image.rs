//! Translation tables that every vCPU starts on (ARM ARM D8, 4 KiB granule, 48-bit addresses).

use defs::aarch64::paging::{BLOCK, Descriptor, ENTRIES};
use defs::bits;
use guest_protocol::layout::aarch64::TRAP_STACK_GUARD;
use guest_protocol::layout::aarch64::descriptor::{DEFAULT, DEVICE};
use guest_protocol::layout::{self, DEFAULT_RAM_SIZE, FREE, PAGE_SIZE, vcpu_area};

use super::super::more_ram;
use crate::Ram;

/// RAM is mapped by pages, so that a test can change one without splitting the block it runs in.
const RAM_TABLES: u64 = DEFAULT_RAM_SIZE / BLOCK;

/// Pages of a vCPU's area that are never mapped.
const GUARDS: [u64; 3] = [vcpu_area::GUARD, vcpu_area::TRAP_GUARD, TRAP_STACK_GUARD];

/// An entry that refers to a table.
const fn table_at(gpa: u64) -> u64 {
    gpa | bits!(Descriptor::{VALID | TABLE})
}

/// An entry for a page of RAM.
const fn page_at(gpa: u64) -> u64 {
    gpa | DEFAULT.bits() | bits!(Descriptor::{VALID | PAGE})
}

/// Writes translation tables into the image of guest-physical memory.
pub(crate) fn prepare_image(
    image: &mut [u8],
    symbol: impl Fn(&str) -> Option<u64>,
) -> Result<(), String> {
    if symbol("trap_vectors") != Some(layout::PAYLOAD) {
        return Err("the payload's vectors are not at its start".into());
    }
    let mut put = |gpa: u64, value: u64| {
        image[gpa as usize..gpa as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    let table = |index: u64| layout::PAGE_TABLES + index * PAGE_SIZE;
    let (level0, level1, level2, level3) = (table(0), table(1), table(2), table(6));
    put(level0, table_at(level1));
    for gib in 0..4 {
        put(level1 + gib * 8, table_at(level2 + gib * PAGE_SIZE));
        for i in 0..ENTRIES {
            let address = (gib * ENTRIES + i) * BLOCK;
            let kind = if address < FREE { DEVICE } else { DEFAULT };
            put(level2 + gib * PAGE_SIZE + i * 8, address | (kind | Descriptor::VALID).bits());
        }
    }
    for i in 0..RAM_TABLES {
        put(level2 + i * 8, table_at(level3 + i * PAGE_SIZE));
    }
    for page in 1..DEFAULT_RAM_SIZE / PAGE_SIZE {
        put(level3 + page * 8, page_at(page * PAGE_SIZE));
    }
    for vcpu in 0..layout::DEFAULT_VCPUS {
        for guard in GUARDS {
            put(level3 + (layout::vcpu_area(vcpu) + guard) / PAGE_SIZE * 8, 0);
        }
    }
    Ok(())
}

/// Tables for the blocks with the areas of vCPUs behind the default ones, which have guard pages.
const MORE_TABLES: u64 = layout::PAGE_TABLES + (6 + RAM_TABLES) * PAGE_SIZE;

/// Maps RAM of one VM behind the default one, which the image has as devices.
pub(crate) fn extend_tables(ram: &Ram, nr_vcpus: u32) {
    let put = |gpa: u64, value: u64| {
        ram.write(gpa, &value.to_le_bytes()).expect("the tables are RAM");
    };
    let level2 = layout::PAGE_TABLES + 2 * PAGE_SIZE;
    let mut tables = (MORE_TABLES..).step_by(PAGE_SIZE as usize);
    for (block, guards) in more_ram(ram, nr_vcpus, &GUARDS) {
        let entry = level2 + block / BLOCK * 8;
        if guards.is_empty() {
            put(entry, block | (DEFAULT | Descriptor::VALID).bits());
            continue;
        }
        let table = tables.next().expect("addresses do not end");
        for page in (block..block + BLOCK).step_by(PAGE_SIZE as usize) {
            let entry = if guards.contains(&page) { 0 } else { page_at(page) };
            put(table + (page - block) / PAGE_SIZE * 8, entry);
        }
        put(entry, table_at(table));
    }
}

const _: () = assert!(MORE_TABLES + 2 * PAGE_SIZE <= layout::SCRATCH);
