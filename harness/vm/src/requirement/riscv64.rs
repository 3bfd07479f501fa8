//! What KVM can give to RISC-V guests, as requirements.

use super::Requirement;

/// The advanced interrupt architecture in the kernel.
pub const AIA: Requirement =
    Requirement::new("an in-kernel AIA", |facts| facts.cpu_features.iter().any(|f| f == AIA.name));
