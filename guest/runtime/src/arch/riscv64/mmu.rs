//! Page tables of the running vCPU: 4 KiB and 2 MiB pages (privileged manual, "Sv39").
#![expect(unsafe_code, reason = "edits the tables that satp points to")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use defs::bits;
use defs::riscv64::csr::satp;
use defs::riscv64::paging::{ENTRIES, PPN, Pte, address, entry as leaf};
use guest_protocol::layout::PAGE_SIZE;
use guest_protocol::layout::{trap_stack, vcpu_area};

use super::{csr, sbi};

pub use guest_protocol::layout::riscv64::PTE as DEFAULT;

const V: u64 = Pte::V.bits();
/// What no entry has that refers to a table.
const RWX: u64 = bits!(Pte::{R | W | X});

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
    assert!(index < NR_TABLES, "no page tables left");
    // The payload is mapped at its own address.
    POOL.0.get() as u64 + index as u64 * PAGE_SIZE
}

fn entry_at(table: u64, gva: u64, level: u32) -> *mut u64 {
    let index = gva >> (12 + 9 * level) & (ENTRIES - 1);
    (table + index * 8) as *mut u64
}

/// The entry that maps `gva` at `level` (0: 4 KiB, 1: 2 MiB); makes tables on the way, and splits a
/// 2 MiB page where a small one is asked for.
fn walk(gva: u64, level: u32) -> *mut u64 {
    let mut table = satp::PPN.get(csr::satp::read()) << 12;
    for l in (level + 1..3).rev() {
        let entry = entry_at(table, gva, l);
        // SAFETY: tables are identity-mapped RAM.
        let value = unsafe { entry.read_volatile() };
        let is_table = value & V != 0 && value & RWX == 0;
        if !is_table {
            let next = new_table();
            if value & V != 0 {
                assert!(l == 1, "cannot split a 1 GiB page");
                for i in 0..ENTRIES {
                    let page = leaf(
                        address(value) + i * PAGE_SIZE,
                        Pte::from_bits_retain(value & !PPN.mask()),
                    );
                    // SAFETY: as above.
                    unsafe { ((next + i * 8) as *mut u64).write_volatile(page) };
                }
            }
            replace(entry, leaf(next, Pte::V), gva);
            table = next;
        } else {
            table = address(value);
        }
    }
    entry_at(table, gva, level)
}

/// Writes an entry and drops the old translation on every vCPU.
fn replace(entry: *mut u64, value: u64, gva: u64) {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { entry.write_volatile(value) };
    invalidate(gva);
}

/// Drops the translation of `gva` on every vCPU.
pub fn invalidate(gva: u64) {
    // SAFETY: drops a translation.
    unsafe { asm!("sfence.vma {}, zero", in(reg) gva) };
    let page = gva & !(PAGE_SIZE - 1);
    assert!(sbi::remote_sfence_vma(page, PAGE_SIZE).error == 0, "sbi_remote_sfence_vma failed");
}

/// Maps one page, replacing what was there.
pub fn map(gva: u64, gpa: u64, size: Size, flags: Pte) {
    replace(walk(gva, level(size)), leaf(gpa, flags | Pte::V), gva);
}

/// Makes `gva` fault.
pub fn unmap(gva: u64, size: Size) {
    replace(walk(gva, level(size)), 0, gva);
}

/// Unmaps the pages below the stacks of a context's area.
pub(crate) fn protect_stacks(area: u64) {
    for guard in [vcpu_area::GUARD, trap_stack::GUARD] {
        unmap(area + guard, Size::Small);
    }
}

/// Changes the bits of a mapping and keeps its address.
pub fn protect(gva: u64, size: Size, flags: Pte) {
    let gpa = address(entry(gva, size));
    map(gva, gpa, size, flags);
}

/// The raw entry that maps `gva`.
pub fn entry(gva: u64, size: Size) -> u64 {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { walk(gva, level(size)).read_volatile() }
}

fn level(size: Size) -> u32 {
    match size {
        Size::Small => 0,
        Size::Large => 1,
    }
}
