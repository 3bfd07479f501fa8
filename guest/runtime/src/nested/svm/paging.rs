//! Nested tables: what the guest's physical addresses are for its hypervisor.

use guest_protocol::layout::PAGE_SIZE;

use super::Svm;
use crate::memory::{peek, poke};
use crate::pages;
use defs::x86::paging::{ADDRESS, ENTRIES, LARGE_PAGE, Pte};
use defs::x86::vmcb::{NP_ENABLE, tlb_control};

/// Levels of a nested table, from the one that maps 4 KiB pages.
const PML4: u32 = 3;

impl Svm {
    /// Turns nested paging on: the guest's physical addresses are the hypervisor's.
    pub fn use_nested_paging(&mut self) {
        let control = &mut self.vmcb().control;
        control.nested_paging |= NP_ENABLE;
        control.n_cr3 = identity_tables();
    }

    /// The address of the entry that translates `gpa` at `level` (0: 4 KiB, 1: 2 MiB, 2: 1 GiB, 3: 512 GiB).
    /// A page that is larger than that becomes a table.
    ///
    /// # Panics
    ///
    /// Nested paging is off, or nothing is mapped there.
    pub fn nested_entry(&mut self, gpa: u64, level: u32) -> u64 {
        let mut table = self.vmcb().control.n_cr3 & ADDRESS;
        assert!(table != 0, "nested paging is off");
        for above in (level + 1..=PML4).rev() {
            let entry = entry_at(table, gpa, above);
            let value: u64 = peek(entry);
            assert!(value & Pte::P.bits() != 0, "{gpa:#x} has no entry of level {above}");
            table = if value & Pte::PS.bits() != 0 && above < PML4 {
                let parts = split(value, above);
                poke(entry, parts | Pte::TABLE.bits());
                parts
            } else {
                value & ADDRESS
            };
        }
        entry_at(table, gpa, level)
    }

    /// Sets the bits of the entry of 4 KiB that translates `gpa`, and has the next entry of the guest drop
    /// what was there.
    pub fn protect_nested(&mut self, gpa: u64, flags: Pte) {
        let entry = self.nested_entry(gpa, 0);
        poke(entry, peek::<u64>(entry) & ADDRESS | flags.bits());
        self.flush();
    }

    /// Has the next entry of the guest drop its translations (TLB_CONTROL, every ASID's).
    pub fn flush(&mut self) {
        self.vmcb().control.tlb_control = tlb_control::FLUSH_ALL;
    }
}

fn entry_at(table: u64, gpa: u64, level: u32) -> u64 {
    table + (gpa >> (12 + 9 * level) & (ENTRIES - 1)) * 8
}

/// A table of entries that map what the one entry does.
fn split(entry: u64, level: u32) -> u64 {
    let table = pages::take(1);
    let step = PAGE_SIZE << (9 * (level - 1));
    let ps = if level > 1 { 0 } else { Pte::PS.bits() };
    for n in 0..ENTRIES {
        poke(table + n * 8, (entry & !ps) + n * step);
    }
    table
}

/// Tables that map the lowest 4 GiB to themselves in 2 MiB pages, and grant ring 3 everything, as nested
/// tables must. Not those of level 1: a guest's page walks write to what it walks (APM vol. 2, "Nested Table
/// Walk"), and KVM keeps a hypervisor's nested tables from being written.
fn identity_tables() -> u64 {
    let tables = pages::take(6);
    let table = |n: u64| tables + n * PAGE_SIZE;
    poke(tables, table(1) | Pte::TABLE.bits());
    for gib in 0..4 {
        poke(table(1) + gib * 8, table(2 + gib) | Pte::TABLE.bits());
    }
    for n in 0..4 * ENTRIES {
        poke(table(2) + n * 8, (n * LARGE_PAGE) | (Pte::DEFAULT | Pte::PS).bits());
    }
    tables
}
