//! Facts about the host, probed once per run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The host as tests, policy and reports see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// `x86_64`, `aarch64`, `ppc64le`, `riscv64` or `s390x`.
    pub arch: String,
    /// `uname -r`.
    pub kernel: String,
    /// `kvm_amd`, `kvm_intel`, `kvm_pvm`, `kvm_hv`, … or `kvm` where it is built in.
    pub backend: String,
    /// Online CPUs.
    pub cpus: usize,
    /// CPU model as the kernel names it.
    pub cpu_model: String,
    /// Host profile of the lab, `native` outside it.
    pub profile: String,
    /// Module parameters, `kvm_amd.nested` → `1`.
    pub module_params: BTreeMap<String, String>,
    /// `KVM_CHECK_EXTENSION` of every capability that the harness has a name for.
    pub caps: BTreeMap<String, i64>,
    /// Notable CPU features that KVM offers to guests.
    pub cpu_features: Vec<String>,
}
