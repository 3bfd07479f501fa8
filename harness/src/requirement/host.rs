//! What else a host may lack.

use super::Requirement;

/// Two online CPUs, for tests where two vCPUs must run at the same time.
pub const TWO_CPUS: Requirement = Requirement { name: "two online CPUs", met: |f| f.cpus >= 2 };

/// Nested virtualization: VMX or SVM offered to guests.
pub const NESTED: Requirement = Requirement {
    name: "nested virtualization (CPUID feature VMX or SVM)",
    met: |f| f.cpu_features.iter().any(|n| n == "VMX" || n == "SVM"),
};

/// Accesses to MSRs that KVM does not know fault: kvm's parameter `ignore_msrs` makes them succeed.
pub const UNKNOWN_MSRS_FAULT: Requirement = Requirement {
    name: "kvm.ignore_msrs=N",
    met: |f| !f.module_params.get("kvm.ignore_msrs").is_some_and(|v| v == "Y" || v == "1"),
};

/// Guests can have single instructions emulated.
pub const FORCED_EMULATION: Requirement = Requirement {
    name: "kvm.force_emulation_prefix=Y",
    met: |f| {
        f.module_params
            .get("kvm.force_emulation_prefix")
            .is_some_and(|v| !matches!(v.as_str(), "N" | "0"))
    },
};

/// An emulated host of the lab, which a test may reconfigure and break.
pub const LAB: Requirement =
    Requirement { name: "a host of the lab", met: |f| f.profile != "native" };
