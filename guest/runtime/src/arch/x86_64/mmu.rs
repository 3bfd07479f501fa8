//! Translation tables of the running vCPU: 4 KiB and 2 MiB pages (SDM vol. 3, "4-level paging").
#![expect(unsafe_code, reason = "edits the tables that CR3 points to")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

use defs::x86::paging::{ADDRESS, ENTRIES, Pte};
use guest_protocol::layout::vcpu_area::{self, ROOT};
use guest_protocol::layout::{PAGE_SIZE, PAGE_TABLES};

use super::cpu;
use crate::context::Context;

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
    let index = gva >> (12 + 9 * level) & (ENTRIES - 1);
    (table + index * 8) as *mut u64
}

/// The entry that maps `gva` at `level` (0: 4 KiB, 1: 2 MiB); makes tables on the way, and splits a
/// 2 MiB page where a smaller one is asked for.
fn walk(gva: u64, level: u32) -> *mut u64 {
    let mut table = root();
    for l in (level + 1..=3).rev() {
        let entry = entry_at(table, gva, l);
        // SAFETY: tables are identity-mapped RAM.
        let mut value = unsafe { entry.read_volatile() };
        if value & Pte::P.bits() == 0 {
            value = new_table() | Pte::TABLE.bits();
        } else if value & Pte::PS.bits() != 0 {
            assert!(l == 1, "cannot split a 1 GiB page");
            let small = new_table();
            for i in 0..ENTRIES {
                let page = (value & !Pte::PS.bits()) + i * PAGE_SIZE;
                // SAFETY: as above.
                unsafe { ((small + i * 8) as *mut u64).write_volatile(page) };
            }
            value = small | Pte::TABLE.bits();
        }
        // SAFETY: as above.
        unsafe { entry.write_volatile(value) };
        table = value & ADDRESS;
    }
    entry_at(table, gva, level)
}

/// Maps one page, replacing what was there, and drops its old translation on this vCPU.
pub fn map(gva: u64, gpa: u64, size: Size, flags: Pte) {
    let (level, bits) = match size {
        Size::Small => (0, flags),
        Size::Large => (1, flags | Pte::PS),
    };
    set_entry(gva, level, gpa & ADDRESS | bits.bits());
}

/// Makes `gva` not present.
pub fn unmap(gva: u64, size: Size) {
    set_entry(gva, level(size), 0);
}

/// Changes the bits of a mapping and keeps its address.
pub fn protect(gva: u64, size: Size, flags: Pte) {
    let ps = if size == Size::Large { Pte::PS } else { Pte::empty() };
    let entry = walk(gva, level(size));
    // SAFETY: tables are identity-mapped RAM.
    let gpa = unsafe { entry.read_volatile() } & ADDRESS;
    set_entry(gva, level(size), gpa | (flags | ps).bits());
}

/// The raw entry that maps `gva`.
pub fn entry(gva: u64, size: Size) -> u64 {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { walk(gva, level(size)).read_volatile() }
}

/// Where the raw entry is that maps `gva` as a 4 KiB page, for other vCPUs to change it.
pub fn entry_address(gva: u64) -> u64 {
    walk(gva, level(Size::Small)) as u64
}

/// This context's root. Not CR3: there are hosts that show a guest KVM's own root there.
pub fn root() -> u64 {
    match Context::current().word(ROOT) {
        0 => PAGE_TABLES,
        root => root,
    }
}

/// Goes on with another root on this vCPU (MOV to CR3).
pub fn use_root(root: u64) {
    Context::current().set_word(ROOT, root);
    cpu::write_cr3(root);
}

/// Unmaps the pages below the stacks of a context's area.
pub(crate) fn protect_stacks(area: u64) {
    for guard in [vcpu_area::GUARD, vcpu_area::TRAP_GUARD] {
        unmap(area + guard, Size::Small);
    }
}

/// Goes on with a new root of this vCPU's own, which holds the lowest 512 GiB of the one that all start
/// with and nothing else: what is mapped above that is this vCPU's alone.
pub fn use_own_root() {
    let root = new_table();
    // SAFETY: tables are identity-mapped RAM.
    unsafe { (root as *mut u64).write_volatile((PAGE_TABLES as *const u64).read_volatile()) };
    use_root(root);
}

/// The lowest address that a root of a vCPU's own does not share ([`use_own_root`]).
pub const OWN: u64 = 1 << 39;

/// Sets the raw entry without dropping the old translation: for tests of stale translations.
pub fn set_entry_no_flush(gva: u64, size: Size, value: u64) {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { walk(gva, level(size)).write_volatile(value) };
}

fn level(size: Size) -> u32 {
    match size {
        Size::Small => 0,
        Size::Large => 1,
    }
}

fn set_entry(gva: u64, level: u32, value: u64) {
    // SAFETY: tables are identity-mapped RAM.
    unsafe { walk(gva, level).write_volatile(value) };
    cpu::invlpg(gva);
}
