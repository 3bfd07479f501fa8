//! What else a host may lack.

use super::Requirement;

/// Two online CPUs, for tests where two vCPUs must run at the same time.
pub const TWO_CPUS: Requirement = Requirement { name: "two online CPUs", met: |f| f.cpus >= 2 };

/// Nested virtualization: VMX or SVM offered to guests.
pub const NESTED: Requirement = Requirement {
    name: "nested virtualization (CPUID feature VMX or SVM)",
    met: |f| f.cpu_features.iter().any(|n| n == "VMX" || n == "SVM"),
};
