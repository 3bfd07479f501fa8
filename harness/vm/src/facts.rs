//! What KVM and the kernel say of the host, probed once per run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use defs::arch::Arch;
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
        arch: Arch::native().map_or(std::env::consts::ARCH, Arch::id).to_owned(),
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
    cpuinfo("model name")
}

/// A value of the first CPU, empty where `/proc` has none.
fn cpuinfo(key: &str) -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.map_or(String::new(), |value| value.trim_start_matches([' ', '\t', ':']).to_owned())
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.map_or(0, |size| size as u64)
}

/// A module that may supply KVM's back half.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Module {
    name: String,
    built_in: bool,
}

/// The module that supplies KVM's back half, or `kvm` where there is none with parameters.
fn backend() -> String {
    let exists = |path: String| fs::exists(path).unwrap_or(false);
    let modules = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let modules = modules
        .map(|module| module.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("kvm_") && exists(format!("/sys/module/{name}/parameters")))
        // Only what was loaded has a state of loading.
        .map(|name| Module { built_in: !exists(format!("/sys/module/{name}/initstate")), name })
        .collect();
    backend_of(modules, &cpuinfo("vendor_id"))
}

/// Of several: the one that was loaded, because a second back half does not load; of those that are
/// built in, which are there whether they work or not, the one for the CPU's vendor.
fn backend_of(mut modules: Vec<Module>, cpu_vendor: &str) -> String {
    modules.sort();
    let ours = match cpu_vendor {
        "GenuineIntel" | "CentaurHauls" | "  Shanghai  " => "kvm_intel",
        "AuthenticAMD" | "HygonGenuine" => "kvm_amd",
        _ => "",
    };
    let loaded = modules.iter().find(|module| !module.built_in);
    let of_vendor = modules.iter().find(|module| module.name == ours);
    let module = loaded.or(of_vendor).or(modules.first());
    module.map_or_else(|| "kvm".into(), |module| module.name.clone())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn backend_with(modules: &[(&str, bool)], cpu_vendor: &str) -> String {
        let module = |&(name, built_in): &(&str, bool)| Module { name: name.into(), built_in };
        backend_of(modules.iter().map(module).collect(), cpu_vendor)
    }

    #[test]
    fn the_cpus_vendor_decides_between_built_in_back_halves() {
        let both = [("kvm_intel", true), ("kvm_amd", true)];
        assert_eq!(backend_with(&both, "GenuineIntel"), "kvm_intel");
        assert_eq!(backend_with(&both, "AuthenticAMD"), "kvm_amd");
        assert_eq!(backend_with(&both, "  Shanghai  "), "kvm_intel");
    }

    #[test]
    fn a_loaded_back_half_is_the_one_in_use() {
        let modules = [("kvm_amd", true), ("kvm_intel", true), ("kvm_pvm", false)];
        assert_eq!(backend_with(&modules, "GenuineIntel"), "kvm_pvm");
        assert_eq!(backend_with(&[("kvm_hv", false)], ""), "kvm_hv");
        assert_eq!(backend_with(&[], ""), "kvm");
    }
}
