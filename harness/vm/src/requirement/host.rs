//! What else a host may lack.

use std::sync::LazyLock;

use super::{Requirement, cpu};
use crate::counters::counters_are_free;

/// Two online CPUs, for tests where two vCPUs must run at the same time.
pub const TWO_CPUS: Requirement = Requirement::new("two online CPUs", |f| f.cpus >= 2);

/// Memslots of single 4 KiB pages: the host's own pages are as small, and KVM asks for no more (on
/// s390x it does: 1 MiB).
pub const SMALL_SLOTS: Requirement = Requirement::new("memslots of single 4 KiB pages", |f| {
    f.arch != "s390x" && f.page_size <= 4096
});

/// KVM_RUN looks for pending signals before it enters the guest. KVM/s390 does only after it.
pub const SIGNALS_FIRST: Requirement =
    Requirement::new("a KVM_RUN that looks for signals before it enters the guest", |f| {
        f.arch != "s390x"
    });

/// Nested virtualization: VMX or SVM offered to guests.
pub const NESTED: Requirement =
    Requirement::any("nested virtualization (CPUID feature VMX or SVM)", &[cpu::VMX, cpu::SVM]);

/// Accesses to MSRs that KVM does not know fault: kvm's parameter `ignore_msrs` makes them succeed.
pub const UNKNOWN_MSRS_FAULT: Requirement = Requirement::new("kvm.ignore_msrs=N", |f| {
    !f.module_params.get("kvm.ignore_msrs").is_some_and(|v| v == "Y" || v == "1")
});

/// Hardware counters for a guest to count with, two at a time.
pub const FREE_COUNTERS: Requirement = Requirement::new(
    "hardware counters that nobody else uses (perf, the NMI watchdog, VMs)",
    |_| {
        static FREE: LazyLock<bool> = LazyLock::new(|| counters_are_free(2));
        *FREE
    },
);

/// Guests can have single instructions emulated.
pub const FORCED_EMULATION: Requirement = Requirement::new("kvm.force_emulation_prefix=Y", |f| {
    f.module_params
        .get("kvm.force_emulation_prefix")
        .is_some_and(|v| !matches!(v.as_str(), "N" | "0"))
});

/// A host that may be broken: one of the lab's.
pub const EXPENDABLE: Requirement = Requirement::new("an emulated host (--host PROFILE)", |f| {
    !matches!(f.profile.as_str(), "" | "native")
});
