//! The host side of kvm-conformance: VMs, the run loop, requirements and outcomes.

// Where the usual crates do not know the architecture, ours stands in under their names.
#[cfg(any(target_arch = "s390x", target_arch = "powerpc64"))]
#[doc(hidden)]
pub extern crate kvm_uapi as kvm_bindings;
#[cfg(any(target_arch = "s390x", target_arch = "powerpc64"))]
#[doc(hidden)]
pub extern crate kvm_uapi as kvm_ioctls;

pub mod arch;
pub mod case;
pub mod cli;
pub mod facts;
pub mod fixture;
pub mod journal;
pub mod kvm;
pub mod outcome;
pub mod payload;
pub mod perf;
pub mod record;
pub mod registry;
pub mod report;
pub mod requirement;
pub mod runner;
pub mod select;

#[doc(hidden)]
pub use linkme;

pub use requirement::{cap, cpu, host};

/// Every test that is linked into this program.
#[linkme::distributed_slice]
pub static TESTS: [case::TestCase];

/// Reports a named check: `check!("rule in words", condition)`, with what was seen as an optional
/// format string behind it. Says whether it held.
#[macro_export]
macro_rules! check {
    ($name:literal, $cond:expr $(,)?) => {
        $crate::check!($name, $cond, "{}", stringify!($cond))
    };
    ($name:literal, $cond:expr, $($detail:tt)+) => {{
        let pass: bool = $cond;
        let detail = if pass {
            String::new()
        } else {
            format!("{}:{}: {}", file!(), line!(), format_args!($($detail)+))
        };
        $crate::record::check(&format!($name), pass, &detail);
        pass
    }};
}

/// Like [`check!`], for two values that must be equal: `check_eq!("rule", got, want)`.
#[macro_export]
macro_rules! check_eq {
    ($name:literal, $got:expr, $want:expr $(,)?) => {{
        let (got, want) = (&$got, &$want);
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

/// Ends the test as failed: KVM is wrong.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)+) => {
        return Err($crate::outcome::Failure::Fail(format!("{}:{}: {}", file!(), line!(), format_args!($($arg)+))))
    };
}

/// Ends the test as skipped: the text names what is missing.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => { return Err($crate::outcome::Failure::Skip(format!($($arg)+))) };
}

/// Skips the test unless a requirement that only shows late is met: `require!(condition, "name")`.
#[macro_export]
macro_rules! require {
    ($cond:expr, $($name:tt)+) => {
        if !$cond {
            $crate::skip!($($name)+);
        }
    };
}

/// Writes a line to the test's log.
#[macro_export]
macro_rules! log {
    ($($arg:tt)+) => { $crate::record::log(&format!($($arg)+)) };
}

/// Names a guest function of the same file.
#[macro_export]
macro_rules! guest_fn {
    ($name:ident) => {{
        let _: fn(&mut $crate::guest_runtime::Guest) = $name;
        $crate::case::GuestFn { name: concat!(module_path!(), "::", stringify!($name)) }
    }};
}

/// Names a `#[shared]` static of the same file.
#[macro_export]
macro_rules! shared_static {
    ($name:ident) => {
        $crate::kvm::SharedStatic::new(concat!(module_path!(), "::", stringify!($name)), &$name)
    };
}

#[doc(hidden)]
pub use guest_runtime;
