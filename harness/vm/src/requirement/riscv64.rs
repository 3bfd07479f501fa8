//! What KVM can give to RISC-V guests, as requirements.

use super::Requirement;

/// The advanced interrupt architecture in the kernel.
pub const AIA: Requirement = Requirement {
    name: "an in-kernel AIA",
    met: |facts| facts.cpu_features.iter().any(|f| f == AIA.name),
};
