//! Tables of the 64 KiB granule (ARM ARM D8, "64KB granule"), to run on for a while instead of those
//! of 4 KiB that vCPUs start on.
#![expect(unsafe_code, reason = "writes translation tables, and goes from one set to another")]

use core::arch::asm;

use defs::aarch64::paging::{ADDRESS, Descriptor};
use defs::aarch64::regs::{Sctlr, tcr};
use guest_protocol::layout::FREE;

use super::mmu::{self, DEFAULT, DEVICE};
use super::sysreg::{SCTLR_EL1, TCR_EL1, TTBR0_EL1};
use crate::entry::ram_size;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 64 << 10;
/// Bytes that a table of level 3 maps, and a block of level 2.
const BLOCK: u64 = 512 << 20;
/// Bytes that are mapped: 8 entries of level 2.
const SPAN: u64 = 4 << 30;
/// T0SZ for them, which makes level 2 the first.
const T0SZ: u64 = 32;
const PAGE: Descriptor = Descriptor::PAGE.union(Descriptor::VALID);

/// Tables that map 4 GiB at their own addresses: page by page in the block of RAM and in the one of
/// free space, by blocks elsewhere. Page 0 is not mapped.
#[derive(Debug)]
pub struct Tables(u64);

impl Tables {
    /// Writes them to three pages of 64 KiB from `at` on.
    pub fn new(at: u64) -> Self {
        assert!(at.is_multiple_of(PAGE_SIZE), "tables lie in pages of their own");
        let tables = Self(at);
        for block in (0..SPAN).step_by(BLOCK as usize) {
            tables.put(
                tables.of_level2(block),
                block | (Self::kind(block) | Descriptor::VALID).bits(),
            );
        }
        for (n, first) in [(1, 0), (2, FREE)] {
            let level3 = at + n * PAGE_SIZE;
            for page in (first..first + BLOCK).step_by(PAGE_SIZE as usize) {
                tables.put(
                    level3 + page % BLOCK / PAGE_SIZE * 8,
                    page | (Self::kind(page) | PAGE).bits(),
                );
            }
            tables.put(
                tables.of_level2(first),
                level3 | (Descriptor::TABLE | Descriptor::VALID).bits(),
            );
        }
        tables.unmap(0);
        tables
    }

    fn kind(gpa: u64) -> Descriptor {
        if (ram_size()..FREE).contains(&gpa) { DEVICE } else { DEFAULT }
    }

    fn of_level2(&self, gva: u64) -> u64 {
        self.0 + gva / BLOCK * 8
    }

    fn of_level3(&self, gva: u64) -> u64 {
        // SAFETY: one of our own entries.
        let table = unsafe { (self.of_level2(gva) as *const u64).read_volatile() };
        assert!(
            table & Descriptor::TABLE.bits() != 0,
            "only the blocks of RAM and of free space have pages"
        );
        (table & ADDRESS) + gva % BLOCK / PAGE_SIZE * 8
    }

    fn put(&self, entry: u64, value: u64) {
        // SAFETY: the caller gave these pages for tables, and RAM is mapped at its own address.
        unsafe { (entry as *mut u64).write_volatile(value) };
    }

    /// Puts the page at `gpa` behind `gva`.
    pub fn map(&self, gva: u64, gpa: u64, flags: Descriptor) {
        self.unmap(gva);
        self.put(self.of_level3(gva), gpa | (flags | PAGE).bits());
        mmu::invalidate(gva);
    }

    /// Makes the page at `gva` fault.
    pub fn unmap(&self, gva: u64) {
        self.put(self.of_level3(gva), 0);
        mmu::invalidate(gva);
    }

    /// Runs `f` on these tables, and goes back.
    pub fn with(&self, f: impl FnOnce()) {
        let (tcr, ttbr) = (TCR_EL1.read(), TTBR0_EL1.read());
        let others = tcr & !(tcr::T0SZ.mask() | tcr::TG0.mask());
        switch(others | tcr::TG0.of(tcr::TG0_64K) | tcr::T0SZ.of(T0SZ), self.0);
        f();
        switch(tcr, ttbr);
    }
}

/// Goes to other tables, with translation off meanwhile: size and place cannot change at once.
fn switch(tcr: u64, ttbr: u64) {
    let on = SCTLR_EL1.read();
    // SAFETY: all that runs is mapped at its own address before, between and after; nothing between
    // touches memory.
    unsafe {
        asm!(
            "dsb ish",
            "msr sctlr_el1, {off}",
            "isb",
            "msr tcr_el1, {tcr}",
            "msr ttbr0_el1, {ttbr}",
            "isb",
            "tlbi vmalle1",
            "dsb ish",
            "isb",
            "msr sctlr_el1, {on}",
            "isb",
            off = in(reg) on & !Sctlr::M.bits(),
            tcr = in(reg) tcr,
            ttbr = in(reg) ttbr,
            on = in(reg) on,
        );
    }
}
