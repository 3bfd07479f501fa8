//! What every architecture's trap entry comes to: scoped handlers, and rows of instructions that may
//! fault.
#![expect(unsafe_code, reason = "handlers are kept as raw pointers, rows come from the linker")]

use core::cell::UnsafeCell;

use guest_protocol::layout::MAX_VCPUS;

use crate::arch::{TrapFrame, cpu_id};
use crate::ucall;

/// Vectors that a handler can be installed for.
const NR_VECTORS: usize = 256;

type Handler = *mut dyn FnMut(&mut TrapFrame);

/// Handlers of every vector on every vCPU.
struct Handlers(UnsafeCell<[[Option<Handler>; NR_VECTORS]; MAX_VCPUS as usize]>);

// SAFETY: a vCPU touches only its own row.
unsafe impl Sync for Handlers {}

static HANDLERS: Handlers = Handlers(UnsafeCell::new([[None; NR_VECTORS]; MAX_VCPUS as usize]));

fn slot(vector: u8) -> *mut Option<Handler> {
    // SAFETY: both indices are in bounds, or this panics; the row is this vCPU's.
    unsafe { &raw mut (&mut (*HANDLERS.0.get()))[cpu_id() as usize][usize::from(vector)] }
}

/// Whether this vCPU has a handler for `vector`.
#[cfg_attr(not(target_arch = "aarch64"), expect(dead_code, reason = "only there levels differ"))]
pub(crate) fn is_handled(vector: u8) -> bool {
    // SAFETY: the slot is this vCPU's.
    unsafe { slot(vector).read_volatile() }.is_some()
}

/// Hands the frame to the handler of `vector`, or to the host where there is none.
pub(crate) fn call(vector: u8, frame: &mut TrapFrame) {
    // SAFETY: the slot is this vCPU's.
    match unsafe { slot(vector).read_volatile() } {
        // SAFETY: `with_handler` keeps the closure alive and exclusive while it is installed.
        Some(handler) => unsafe { (*handler)(frame) },
        None => ucall::unexpected_trap(frame),
    }
}

/// Runs `body` with `handler` called for every trap or interrupt `vector` on this vCPU; the handler
/// that was there before is back when `body` has returned.
pub fn with_handler<R>(
    vector: u8,
    mut handler: impl FnMut(&mut TrapFrame),
    body: impl FnOnce() -> R,
) -> R {
    let short: *mut (dyn FnMut(&mut TrapFrame) + '_) = &raw mut handler;
    // SAFETY: only the lifetime changes, and the slot is restored before `handler` is dropped.
    let installed =
        unsafe { core::mem::transmute::<*mut (dyn FnMut(&mut TrapFrame) + '_), Handler>(short) };
    let slot = slot(vector);
    // SAFETY: the slot is this vCPU's; a trap between the accesses sees one handler or the other.
    let before = unsafe { slot.replace(Some(installed)) };
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    let result = body();
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { slot.write_volatile(before) };
    result
}

/// One row of `guest_fixups`: an instruction that may fault, and where to go on; each relative to
/// its own address. The architecture's `catching!` writes them.
#[repr(C)]
struct Fixup {
    fault: i32,
    resume: i32,
}

/// Where to go on after a fault at `pc`, if the instruction there was allowed to fault.
pub(crate) fn fixup(pc: u64) -> Option<u64> {
    #[cfg(kvm_guest)]
    {
        unsafe extern "C" {
            static guest_fixups_start: [Fixup; 0];
            static guest_fixups_end: [Fixup; 0];
        }
        // SAFETY: the linker script puts the symbols around the rows.
        let rows = unsafe {
            let start = guest_fixups_start.as_ptr();
            core::slice::from_raw_parts(
                start,
                guest_fixups_end.as_ptr().offset_from(start) as usize,
            )
        };
        let absolute =
            |field: &i32| (field as *const i32 as u64).wrapping_add_signed((*field).into());
        rows.iter().find(|row| absolute(&row.fault) == pc).map(|row| absolute(&row.resume))
    }
    #[cfg(not(kvm_guest))]
    {
        let _ = (pc, |row: Fixup| (row.fault, row.resume));
        None
    }
}
