//! A guest kernel just big enough for tests: traps, translation tables, interrupts, and a way to
//! tell the host what happened.
//!
//! Built twice: into the payload (`cfg(kvm_guest)`), and into the host runner, where guest code is
//! type-checked but never run.
//!
//! The functions here are safe although they touch hardware: in a guest every address and register
//! is the guest's own, and the worst that a wrong one can do is to end a VM that lives for one test.
#![no_std]

pub mod arch;
pub mod asm;
#[cfg(kvm_guest)]
mod builtins;
pub mod context;
pub mod entry;
pub mod handlers;
pub mod memory;
pub mod nested;
pub mod pages;
pub mod shared;
pub mod sync;
pub mod ucall;

pub use arch::{Trap, TrapFrame};
pub use entry::Guest;
pub use guest_protocol as protocol;

/// What the macros expand to.
#[doc(hidden)]
pub mod private {
    pub use crate::entry::EntryFn;
    pub use crate::shared::SharedRow;
    pub use crate::ucall::{has_placeholder, report_check};
    pub use core;
    pub use core::sync::atomic::{AtomicBool, Ordering};
    pub use guest_protocol::EntryRow;
}

/// Reports a named check: `check!("rule in words", condition)`, with what was seen as an optional
/// format string behind it. A name without placeholders that keeps passing is sent only once.
#[macro_export]
macro_rules! check {
    ($name:literal, $cond:expr $(,)?) => {
        $crate::check!($name, $cond, "{}", stringify!($cond))
    };
    ($name:literal, $cond:expr, $($detail:tt)+) => {{
        static SENT: $crate::private::AtomicBool = $crate::private::AtomicBool::new(false);
        let pass: bool = $cond;
        if !pass || !SENT.load($crate::private::Ordering::Relaxed) {
            $crate::private::report_check(
                $crate::private::core::format_args!($name),
                pass,
                $crate::private::core::format_args!(
                    "{}:{}: {}", file!(), line!(), $crate::private::core::format_args!($($detail)+)
                ),
            );
            if pass && !const { $crate::private::has_placeholder($name) } {
                SENT.store(true, $crate::private::Ordering::Relaxed);
            }
        }
        pass
    }};
}

/// Like [`check!`], for two values that must be equal: `check_eq!("rule", got, want)`.
#[macro_export]
macro_rules! check_eq {
    ($name:literal, $got:expr, $want:expr $(,)?) => {{
        let (got, want) = ($got, $want);
        $crate::check!(
            $name,
            got == want,
            "{}: got {:x?}, want {:x?} (hex)",
            stringify!($got),
            got,
            want
        )
    }};
}

/// Writes a line to the test's log.
#[macro_export]
macro_rules! log {
    ($($arg:tt)+) => { $crate::ucall::log($crate::private::core::format_args!($($arg)+)) };
}
