//! What every test file imports.

pub use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::SeqCst};
pub use defs::bits;
pub use guest_runtime::context::cpu_id;
pub use guest_runtime::handlers::with_handler;
pub use guest_runtime::memory::{peek, poke};
pub use guest_runtime::nested::Hypervisor;
pub use guest_runtime::protocol::layout;
pub use guest_runtime::shared::PageAligned;
pub use guest_runtime::sync::{Barrier, spin_for, wait_until};
pub use guest_runtime::{Guest, Trap, TrapFrame};
pub use suites_macros::{guest, guest_asm, host, kvm_test, kvm_tests, shared};

#[cfg(target_arch = "aarch64")]
pub use crate::aarch64::prelude::*;
#[cfg(target_arch = "powerpc64")]
pub use crate::ppc64le::prelude::*;
#[cfg(target_arch = "riscv64")]
pub use crate::riscv64::prelude::*;
#[cfg(target_arch = "s390x")]
pub use crate::s390x::prelude::*;
#[cfg(target_arch = "x86_64")]
pub use crate::x86_64::prelude::*;

#[cfg(kvm_guest)]
pub use guest_runtime::{check, check_eq, log};

#[cfg(not(kvm_guest))]
mod host_half {
    pub use nix::errno::Errno;
    pub use vm::case::GuestFn;
    pub use vm::failure::{Failure, TestResult};
    pub use vm::fixture::{Fixture, HostOnly, KVM_TESTS, OneVcpu, OneVm, Setup, Vcpus};
    pub use vm::{
        Event, Exit, ExitMatch, GuardedBuffer, IoDirection, IoEventfd, Ioctl, Irqchip, Irqfd,
        Mapping, Next, Route, System, Thread, Together, Vcpu, Vm, VmConfig, bindings, eventually,
        raw_ioctl, raw_ioctl_fd, raw_ioctl_value, raw_ioctl_value_fd, request, run_together,
        together,
    };
    pub use vm::{check, check_eq, code_bytes, fail, guest_fn, log, require, shared_static, skip};
}
#[cfg(not(kvm_guest))]
pub use host_half::*;
