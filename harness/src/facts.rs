//! Facts about the host, probed once per run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde::{Deserialize, Serialize};

use crate::kvm::{KvmUnusable, System};
use crate::requirement::cap;

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
    /// Probes this host.
    ///
    /// # Errors
    ///
    /// `/dev/kvm` cannot be used; the message says why and what to do.
    pub fn probe() -> Result<Self, KvmUnusable> {
        let system = System::get()?;
        let vm = system.make_a_vm()?;
        // Not from /proc, which may not be there.
        let kernel = nix::sys::utsname::uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let backend = backend();
        Ok(Self {
            arch: std::env::consts::ARCH.replace("powerpc64", "ppc64le"),
            kernel,
            module_params: module_params(&BTreeSet::from(["kvm", &backend])),
            backend,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            page_size: page_size(),
            cpu_model: cpu_model(),
            profile: std::env::var("KVM_CONFORMANCE_PROFILE").unwrap_or_else(|_| "native".into()),
            kernel_spec: std::env::var("KVM_CONFORMANCE_KERNEL_SPEC").unwrap_or_default(),
            caps: cap::ALL
                .iter()
                .map(|&(name, number)| (name.to_owned(), system.check_extension(number)))
                .collect(),
            cpu_features: crate::arch::cpu_features(system, &vm),
        })
    }

    /// What `KVM_CHECK_EXTENSION` said of a capability; 0 for one that nobody has heard of.
    pub fn cap(&self, name: &str) -> i64 {
        self.caps.get(name).copied().unwrap_or(0)
    }
}

/// Only x86's kernel has a name for it.
fn cpu_model() -> String {
    if !cfg!(target_arch = "x86_64") {
        return String::new();
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    name.map_or(String::new(), |name| name.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.map_or(0, |size| size as u64)
}

/// The module that supplies KVM's back half, or `kvm` where everything is built in.
fn backend() -> String {
    let modules = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let mut names: Vec<String> = modules
        .map(|m| m.file_name().to_string_lossy().into_owned())
        .filter(|name| {
            name.starts_with("kvm_")
                && fs::exists(format!("/sys/module/{name}/parameters")).unwrap_or(false)
        })
        .collect();
    names.sort();
    names.into_iter().next().unwrap_or_else(|| "kvm".into())
}

/// `module.parameter` → value.
fn module_params(modules: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut params = BTreeMap::new();
    for module in modules {
        let dir = format!("/sys/module/{module}/parameters");
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let value = fs::read_to_string(entry.path()).unwrap_or_default();
            params.insert(format!("{module}.{name}"), value.trim().to_owned());
        }
    }
    params
}
