//! Facts about the host that a run was made on.

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
    /// Bytes of the host's small pages.
    pub page_size: u64,
    /// CPU model as the kernel names it.
    pub cpu_model: String,
    /// Host profile of the lab, `native` outside it.
    pub profile: String,
    /// What the lab was asked for to boot, such as `debian:sid`; empty outside it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kernel_spec: String,
    /// Module parameters, `kvm_amd.nested` → `1`.
    pub module_params: BTreeMap<String, String>,
    /// `KVM_CHECK_EXTENSION` of every capability that the harness has a name for.
    pub caps: BTreeMap<String, i64>,
    /// Notable CPU features that KVM offers to guests.
    pub cpu_features: Vec<String>,
}

impl HostFacts {
    /// The host profile without what was changed of it where it was named (`amd64-svm,smp=2`).
    pub fn base_profile(&self) -> &str {
        self.profile.split(',').next().unwrap_or_default()
    }

    /// What `KVM_CHECK_EXTENSION` said of a capability; 0 for one that nobody has heard of.
    pub fn cap(&self, name: &str) -> i64 {
        self.caps.get(name).copied().unwrap_or(0)
    }
}
