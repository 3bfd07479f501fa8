//! What KVM and the kernel say of the host, probed once per run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use results::HostFacts;

use crate::requirement::cap;
use crate::{KvmUnusable, System, quirks};

/// Probes this host.
///
/// # Errors
///
/// `/dev/kvm` cannot be used, or the lab names a quirk that this build does not know; the message says
/// why and what to do.
pub fn probe() -> Result<HostFacts, KvmUnusable> {
    if let Err(why) = quirks::here() {
        return Err(KvmUnusable::Other(quirks::VARIABLE.into(), why.clone()));
    }
    let system = System::usable()?;
    let vm = system.make_a_vm()?;
    // Not from /proc, which may not be there.
    let kernel = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let backend = backend();
    Ok(HostFacts {
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
