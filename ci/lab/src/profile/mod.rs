//! Host profiles: `ci/hosts/NAME.yaml`.

mod overrides;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::arch::Arch;
use crate::error::{LabError, Result};
use crate::profile::overrides::Override;

/// How deep profiles may extend each other.
const MAX_EXTENDS: usize = 4;

/// A kernel that has oopsed may hold locks for ever: later tests would wait for it.
const OOPS_IS_FATAL: &str = "oops=panic";

/// What emulates the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmulatorKind {
    /// QEMU with TCG.
    Qemu,
    /// Bochs, for VMX.
    Bochs,
    /// Hercules, for SIE.
    Hercules,
    /// No emulator: this machine.
    Native,
}

/// A host.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, with what was changed on the command line.
    pub name: String,
    /// One line about it.
    pub summary: String,
    /// Its architecture.
    pub arch: Arch,
    /// Its emulator.
    pub emulator: EmulatorKind,
    /// The kernel it takes where none is given.
    pub kernel: String,
    /// Machine and its properties, in the emulator's terms.
    pub machine: String,
    /// CPU model, in the emulator's terms.
    pub cpu: String,
    /// QEMU's accelerator and its properties.
    pub accel: String,
    /// Number of processors.
    pub smp: u32,
    /// Memory.
    pub memory_mib: u32,
    /// Kernel command line.
    pub cmdline: Vec<String>,
    /// KVM modules in the order of loading, with their parameters.
    pub modules: BTreeMap<String, BTreeMap<String, String>>,
    /// More words for the emulator's command line.
    pub emulator_args: Vec<String>,
    /// Lowest version of the emulator.
    pub emulator_version: Option<String>,
    /// The clock source that the runner waits for.
    pub clocksource: Option<String>,
    /// Why there is no KVM in this host, where that is known beforehand.
    pub no_kvm: Option<String>,
    /// What tests must know of the host that real ones have not got: names that the runner knows.
    pub quirks: Vec<String>,
    /// How much slower than hardware; a hint for deadlines.
    pub slowness: f64,
}

/// The file's form; every field may come from the profile that it extends.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    extends: Option<String>,
    summary: Option<String>,
    arch: Option<String>,
    emulator: Option<EmulatorKind>,
    kernel: Option<String>,
    machine: Option<String>,
    cpu: Option<String>,
    accel: Option<String>,
    smp: Option<u32>,
    memory_mib: Option<u32>,
    cmdline: Option<Vec<String>>,
    #[serde(default)]
    cmdline_add: Vec<String>,
    #[serde(default)]
    modules: BTreeMap<String, BTreeMap<String, String>>,
    emulator_args: Option<Vec<String>>,
    emulator_version: Option<String>,
    clocksource: Option<String>,
    no_kvm: Option<String>,
    quirks: Option<Vec<String>>,
    slowness: Option<f64>,
}

impl Profile {
    /// Loads the profile of that name from the repository's `ci/hosts` (or `KVM_LAB_HOSTS`), or
    /// from a path that ends in `.yaml`. Behind a comma follows what is to be changed in it
    /// (`amd64-svm,cpu=EPYC-Rome,smp=2`).
    ///
    /// # Errors
    /// There is none, or it is wrong.
    pub fn load(name: &str) -> Result<Self> {
        Self::load_from(&hosts_dir(), name)
    }

    /// The kernel's command line; it carries the module parameters too, for what is built in.
    #[must_use]
    pub fn kernel_command_line(&self) -> String {
        let mut words = self.cmdline.clone();
        words.push(OOPS_IS_FATAL.to_owned());
        for (module, params) in &self.modules {
            let module = module.replace('-', "_");
            words.extend(params.iter().map(|(name, value)| format!("{module}.{name}={value}")));
        }
        words.join(" ")
    }

    /// The name as part of a file's name.
    #[must_use]
    pub fn file_name(&self) -> String {
        file_name(&self.name)
    }

    fn change(&mut self, change: Override) {
        match change {
            Override::Cpu { model, features } => {
                let kept = self.cpu.find(',').map_or("", |end| &self.cpu[end..]);
                self.cpu = format!("{model}{kept}{features}");
            }
            Override::Smp(smp) => self.smp = smp,
            Override::MemoryMib(memory) => self.memory_mib = memory,
            Override::Accel(accel) => self.accel = accel,
            Override::Cmdline(word) => self.cmdline.push(word),
            Override::Parameter { module, name, value } => {
                let known = self.modules.keys().find(|key| key.replace('-', "_") == module);
                let module = known.cloned().unwrap_or(module);
                self.modules.entry(module).or_default().insert(name, value);
            }
        }
    }

    fn load_from(dir: &Path, name: &str) -> Result<Self> {
        let (base, changes) = overrides::split(name);
        let mut profile = Self::load_file(dir, base)?;
        if let Some(changes) = changes {
            overrides::parse(changes)?.into_iter().for_each(|change| profile.change(change));
            profile.name += &format!(",{changes}");
        }
        Ok(profile)
    }

    fn load_file(dir: &Path, name: &str) -> Result<Self> {
        let file = read(dir, name, 0)?;
        let stem = Path::new(name).file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
        let name = if name.ends_with(".yaml") { stem.into_owned() } else { name.to_owned() };
        let wrong = |why: String| LabError::Profile { name: name.clone(), why };
        let lacks = |what: &str| wrong(format!("no {what}"));
        let arch = file.arch.ok_or_else(|| lacks("arch"))?;
        Ok(Self {
            summary: file.summary.unwrap_or_default(),
            arch: arch.parse().map_err(|error| wrong(format!("arch {arch}: {error}")))?,
            emulator: file.emulator.ok_or_else(|| lacks("emulator"))?,
            kernel: file.kernel.unwrap_or_else(|| "debian:trixie".to_owned()),
            machine: file.machine.unwrap_or_default(),
            cpu: file.cpu.unwrap_or_default(),
            accel: file.accel.unwrap_or_else(|| "tcg".to_owned()),
            smp: file.smp.unwrap_or(1),
            memory_mib: file.memory_mib.unwrap_or(512),
            cmdline: [file.cmdline.unwrap_or_default(), file.cmdline_add].concat(),
            modules: file.modules,
            emulator_args: file.emulator_args.unwrap_or_default(),
            emulator_version: file.emulator_version,
            clocksource: file.clocksource,
            no_kvm: file.no_kvm,
            quirks: file.quirks.unwrap_or_default(),
            slowness: file.slowness.unwrap_or(1.0),
            name,
        })
    }

    /// The names of all profiles.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list() -> Result<Vec<String>> {
        let dir = hosts_dir();
        let mut names = Vec::new();
        let entries =
            std::fs::read_dir(&dir).map_err(|error| LabError::Io { path: dir.clone(), error })?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// A text as part of a file's name.
pub(crate) fn file_name(text: &str) -> String {
    text.replace(|c: char| !c.is_ascii_alphanumeric() && !"._+@".contains(c), "-")
}

fn hosts_dir() -> PathBuf {
    std::env::var_os("KVM_LAB_HOSTS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../hosts"), PathBuf::from)
}

fn read(dir: &Path, name: &str, depth: usize) -> Result<File> {
    let wrong = |why: String| LabError::Profile { name: name.to_owned(), why };
    if depth > MAX_EXTENDS {
        return Err(wrong("extends too many others".into()));
    }
    let path = match name.ends_with(".yaml") {
        true => PathBuf::from(name),
        false => dir.join(format!("{name}.yaml")),
    };
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let known = Profile::list().unwrap_or_default().join(", ");
        wrong(format!("{}: {error}; known: {known}", path.display()))
    })?;
    let file: File = serde_yaml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    match &file.extends {
        Some(base) => Ok(merge(read(dir, base, depth + 1)?, file)),
        None => Ok(file),
    }
}

fn merge(base: File, over: File) -> File {
    let mut modules = base.modules;
    for (name, params) in over.modules {
        modules.entry(name).or_default().extend(params);
    }
    File {
        extends: None,
        summary: over.summary.or(base.summary),
        arch: over.arch.or(base.arch),
        emulator: over.emulator.or(base.emulator),
        kernel: over.kernel.or(base.kernel),
        machine: over.machine.or(base.machine),
        cpu: over.cpu.or(base.cpu),
        accel: over.accel.or(base.accel),
        smp: over.smp.or(base.smp),
        memory_mib: over.memory_mib.or(base.memory_mib),
        cmdline: over.cmdline.or(base.cmdline),
        cmdline_add: [base.cmdline_add, over.cmdline_add].concat(),
        modules,
        emulator_args: over.emulator_args.or(base.emulator_args),
        emulator_version: over.emulator_version.or(base.emulator_version),
        clocksource: over.clocksource.or(base.clocksource),
        no_kvm: over.no_kvm.or(base.no_kvm),
        quirks: over.quirks.or(base.quirks),
        slowness: over.slowness.or(base.slowness),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_of_the_repository_loads() -> Result<()> {
        let names = Profile::list()?;
        assert!(names.iter().any(|name| name == "amd64-svm"));
        for name in names {
            Profile::load(&name)?;
        }
        Ok(())
    }

    #[test]
    fn a_variant_changes_only_what_it_names() -> Result<()> {
        let base = Profile::load("amd64-svm")?;
        let variant = Profile::load("amd64-svm-npt0")?;
        assert_eq!(variant.cpu, base.cpu);
        assert_eq!(variant.modules["kvm-amd"]["npt"], "0");
        assert_eq!(variant.modules["kvm-amd"]["nested"], base.modules["kvm-amd"]["nested"]);
        Ok(())
    }

    #[test]
    fn a_variant_has_the_quirks_of_its_base() -> Result<()> {
        let quirks = Profile::load("amd64-svm-npt0")?.quirks;
        assert_eq!(quirks, ["huge-pages-on-request"]);
        Ok(())
    }

    #[test]
    fn the_command_line_changes_what_it_names() -> Result<()> {
        let base = Profile::load("amd64-svm")?;
        let name = "amd64-svm,cpu=EPYC-Rome,-vgif,memory=256,kvm_amd.npt=0,cmdline=nosmp";
        let changed = Profile::load(name)?;
        assert_eq!(changed.name, name);
        assert_eq!(changed.cpu, format!("EPYC-Rome{},-vgif", &base.cpu["EPYC".len()..]));
        assert_eq!((changed.memory_mib, changed.smp), (256, base.smp));
        let line = changed.kernel_command_line();
        assert!(line.contains(" nosmp ") && line.contains(" kvm_amd.npt=0"), "{line}");
        assert!(!line.contains("kvm_amd.npt=1"), "{line}");
        assert!(!changed.file_name().contains([',', '=', '/']));
        Ok(())
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("x.yaml"), "arch: x86_64\nsmpp: 2\n").expect("a file");
        let error = Profile::load_from(dir.path(), "x").expect_err("must fail").to_string();
        assert!(error.contains("smpp"), "{error}");
    }
}
