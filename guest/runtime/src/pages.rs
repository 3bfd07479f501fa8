//! Pages for tables that the guest itself makes.
#![expect(unsafe_code, reason = "hands memory out by address")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_protocol::layout::PAGE_SIZE;

/// Pages that a VM can take.
const NR_PAGES: usize = 96;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE_SIZE as usize]; NR_PAGES]>);

// SAFETY: every page is handed out once.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE_SIZE as usize]; NR_PAGES]));
static USED: AtomicU64 = AtomicU64::new(0);

/// Takes `n` pages of zeroes that follow one another; nobody else ever gets them. Returns their address,
/// which is guest-physical too.
///
/// # Panics
///
/// Not as many are left.
pub fn take(n: u64) -> u64 {
    let first = USED.fetch_add(n, Ordering::Relaxed);
    assert!(first + n <= NR_PAGES as u64, "no pages left for tables");
    // The payload is mapped at its own address.
    POOL.0.get() as u64 + first * PAGE_SIZE
}
