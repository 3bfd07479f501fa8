//! Translation tables of the running vCPU: 4 KiB and 2 MiB pages (ARM ARM D8, "4KB granule").
#![expect(unsafe_code, reason = "edits the tables that TTBR0_EL1 points to")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use defs::aarch64::paging::{ADDRESS, Descriptor, ENTRIES};
use guest_protocol::layout::PAGE_SIZE;
use guest_protocol::layout::aarch64::TRAP_STACK_GUARD;
use guest_protocol::layout::vcpu_area;

use super::sysreg::TTBR0_EL1;

/// Descriptor bits, with the manual's names.
pub use guest_protocol::layout::aarch64::descriptor::{DEFAULT, DEVICE};

const VALID: u64 = Descriptor::VALID.bits();
const TABLE: u64 = Descriptor::TABLE.bits();
const PAGE: u64 = Descriptor::PAGE.bits();

/// Page sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

const NR_TABLES: usize = 64;

/// Tables for new mappings.
#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u64; ENTRIES as usize]; NR_TABLES]>);

// SAFETY: every table is handed out once.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; ENTRIES as usize]; NR_TABLES]));
static USED: AtomicUsize = AtomicUsize::new(0);

fn new_table() -> u64 {
    let index = USED.fetch_add(1, Ordering::Relaxed);
    assert!(index < NR_TABLES, "no translation tables left");
    // The payload is mapped at its own address.
    POOL.0.get() as u64 + index as u64 * PAGE_SIZE
}

fn entry_at(table: u64, gva: u64, level: u32) -> *mut u64 {
    let index = gva >> (39 - 9 * level) & (ENTRIES - 1);
    (table + index * 8) as *mut u64
}

/// The descriptor that maps `gva` at `level` (3: 4 KiB, 2: 2 MiB); makes tables on the way, and
/// splits a 2 MiB block where a page is asked for. Code of this very block must not run meanwhile on
/// another vCPU: a block is taken away before its table is put in its place.
fn walk(gva: u64, level: u32) -> *mut u64 {
    let mut table = TTBR0_EL1.read() & ADDRESS;
    for l in 0..level {
        let entry = entry_at(table, gva, l);
        // SAFETY: tables are identity-mapped RAM.
        let value = unsafe { entry.read_volatile() };
        let next = if value & VALID == 0 {
            new_table()
        } else if value & TABLE == 0 {
            assert!(l == 2, "cannot split a 1 GiB block");
            let pages = new_table();
            for i in 0..ENTRIES {
                let page = (value | PAGE) + i * PAGE_SIZE;
                // SAFETY: as above.
                unsafe { ((pages + i * 8) as *mut u64).write_volatile(page) };
            }
            replace(entry, 0, gva);
            pages
        } else {
            value & ADDRESS
        };
        if value & (VALID | TABLE) != VALID | TABLE {
            replace(entry, next | VALID | TABLE, gva);
        }
        table = next;
    }
    entry_at(table, gva, level)
}

/// Writes a descriptor and drops the old translation on every vCPU.
fn replace(entry: *mut u64, value: u64, gva: u64) {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { entry.write_volatile(value) };
    invalidate(gva);
}

/// Drops the translation of `gva` on every vCPU: `TLBI VAAE1IS` and its barriers.
pub fn invalidate(gva: u64) {
    // SAFETY: drops a translation.
    unsafe {
        asm!("dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb", in(reg) gva >> 12 & 0xfff_ffff_ffff)
    };
}

/// Maps one page, replacing what was there.
pub fn map(gva: u64, gpa: u64, size: Size, flags: Descriptor) {
    let entry = walk(gva, level(size));
    replace(entry, 0, gva);
    replace(entry, gpa & ADDRESS | flags.bits() | kind(size), gva);
}

/// Makes `gva` fault.
pub fn unmap(gva: u64, size: Size) {
    replace(walk(gva, level(size)), 0, gva);
}

/// Unmaps the pages below the stacks of a context's area.
pub(crate) fn protect_stacks(area: u64) {
    for guard in [vcpu_area::GUARD, TRAP_STACK_GUARD] {
        unmap(area + guard, Size::Small);
    }
}

/// Changes the bits of a mapping and keeps its address.
pub fn protect(gva: u64, size: Size, flags: Descriptor) {
    let gpa = entry(gva, size) & ADDRESS;
    map(gva, gpa, size, flags);
}

/// The raw descriptor that maps `gva`.
pub fn entry(gva: u64, size: Size) -> u64 {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { walk(gva, level(size)).read_volatile() }
}

fn level(size: Size) -> u32 {
    match size {
        Size::Small => 3,
        Size::Large => 2,
    }
}

/// What makes a leaf of a descriptor.
fn kind(size: Size) -> u64 {
    match size {
        Size::Small => VALID | PAGE,
        Size::Large => VALID,
    }
}
