//! What every architecture's trap entry comes to: scoped handlers, and rows of instructions that may
//! fault.
#![expect(unsafe_code, reason = "handlers are kept as raw pointers, rows come from the linker")]

use core::sync::atomic::{Ordering, compiler_fence};

use guest_protocol::layout::vcpu_area::HANDLERS;

use crate::arch::TrapFrame;
use crate::context::Context;
use crate::ucall;

/// An installed handler, on the stack of the call that installed it.
struct Installed {
    vector: u8,
    handler: *mut dyn FnMut(&mut TrapFrame),
    /// Address of the one that was installed before it in this context, or 0.
    outer: u64,
}

/// The innermost handler of `vector` in this context.
fn find(vector: u8) -> Option<*mut dyn FnMut(&mut TrapFrame)> {
    let mut next = Context::current().word(HANDLERS);
    while next != 0 {
        // SAFETY: what the list links lives until it is taken off the list.
        let installed = unsafe { &*(next as *const Installed) };
        if installed.vector == vector {
            return Some(installed.handler);
        }
        next = installed.outer;
    }
    None
}

/// Whether this context has a handler for `vector`.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    expect(dead_code, reason = "only there handlers of several kinds can take a trap")
)]
pub(crate) fn is_handled(vector: u8) -> bool {
    find(vector).is_some()
}

/// Hands the frame to the handler of `vector`, or to the host where there is none.
pub(crate) fn call(vector: u8, frame: &mut TrapFrame) {
    match find(vector) {
        // SAFETY: `with_handler` keeps the closure alive and exclusive while it is installed.
        Some(handler) => unsafe { (*handler)(frame) },
        None => ucall::unexpected_trap(frame),
    }
}

/// Runs `body` with `handler` called for every trap or interrupt `vector` in this context; the handler
/// that was there before is back when `body` has returned.
pub fn with_handler<R>(
    vector: u8,
    mut handler: impl FnMut(&mut TrapFrame),
    body: impl FnOnce() -> R,
) -> R {
    let context = Context::current();
    let short: *mut (dyn FnMut(&mut TrapFrame) + '_) = &raw mut handler;
    // SAFETY: only the lifetime changes, and it is taken off the list before `handler` is dropped.
    let handler = unsafe {
        core::mem::transmute::<*mut (dyn FnMut(&mut TrapFrame) + '_), *mut dyn FnMut(&mut TrapFrame)>(
            short,
        )
    };
    let installed = Installed { vector, handler, outer: context.word(HANDLERS) };
    // A trap before or behind the store finds one list or the other.
    compiler_fence(Ordering::SeqCst);
    context.set_word(HANDLERS, (&raw const installed).expose_provenance() as u64);
    compiler_fence(Ordering::SeqCst);
    let result = body();
    compiler_fence(Ordering::SeqCst);
    context.set_word(HANDLERS, installed.outer);
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
