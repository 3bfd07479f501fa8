//! The initramfs of an emulated host: a cached part (init, modules) and a part of this run
//! (runner, plan, files). Linux unpacks one after the other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lab_init::{Module, PLAN_PATH, Plan, Wire as _};

use crate::archive::Archive;
use crate::cache::Cache;
use crate::error::{At as _, Result};
use crate::kernel::{Kernel, ModuleSet};
use crate::profile::Profile;

/// Where modules stand in the guest.
const MODULES_DIR: &str = "/lib/modules";
/// The cached part's files.
const BASE_ARCHIVE: &str = "base.cpio";
const BASE_MODULES: &str = "modules";

/// A file to put into the host.
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Its absolute path there.
    pub path: String,
    /// Its source here.
    pub source: PathBuf,
    /// Whether it can be executed.
    pub executable: bool,
}

/// The cached part.
#[derive(Debug)]
pub struct Base {
    /// Its archive; the name of its directory changes whenever its content would.
    pub archive: PathBuf,
    /// All modules in loading order, without parameters.
    pub modules: Vec<Module>,
}

impl Base {
    /// Makes the cached part for a kernel, an init, and the modules to load. A wanted module that
    /// the kernel has not stays in the list with an empty path: it may be built in.
    pub fn prepare(cache: &Cache, kernel: &Kernel, init: &Path, wanted: &[&str]) -> Result<Self> {
        let dir = cache.once(place(kernel, init, wanted)?, |fresh| {
            let modules = write_base(&fresh.join(BASE_ARCHIVE), kernel, init, wanted)?;
            let plan = Plan { modules, ..Plan::default() };
            fs::write(fresh.join(BASE_MODULES), plan.encode()).at(fresh)
        })?;
        let path = dir.join(BASE_MODULES);
        let text = fs::read_to_string(&path).at(&path)?;
        let plan = Plan::decode(&text).map_err(std::io::Error::other).at(&path)?;
        Ok(Self { archive: dir.join(BASE_ARCHIVE), modules: plan.modules })
    }

    /// The modules with the parameters that the profile gives them.
    pub fn modules_of(&self, profile: &Profile) -> Vec<Module> {
        let mut modules = self.modules.clone();
        for (name, params) in &profile.modules {
            let name = name.replace('-', "_");
            for module in modules.iter_mut().filter(|module| module.name == name) {
                let params = params.iter().map(|(name, value)| format!("{name}={value}"));
                module.params = params.collect::<Vec<_>>().join(" ");
                module.needed = true;
            }
        }
        modules
    }

    /// Writes the whole initramfs of one run.
    pub fn complete(&self, target: &Path, plan: &Plan, files: &[GuestFile]) -> Result<()> {
        fs::copy(&self.archive, target).at(target)?;
        let file = File::options().append(true).open(target).at(target)?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut made = BTreeSet::new();
        let mut put = |path: &str, content: &[u8], executable: bool| -> std::io::Result<()> {
            for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
                if made.insert(path[..end].to_owned()) {
                    archive.dir(&path[..end])?;
                }
            }
            match executable {
                true => archive.program(path, content),
                false => archive.file(path, content),
            }
        };
        put(PLAN_PATH, plan.encode().as_bytes(), false).at(target)?;
        for file in files {
            let content = fs::read(&file.source).at(&file.source)?;
            put(&file.path, &content, file.executable).at(target)?;
        }
        archive.finish().and_then(|mut out| out.flush()).at(target)
    }
}

/// A name that changes whenever the content would.
fn place(kernel: &Kernel, init: &Path, wanted: &[&str]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    for path in [&kernel.image, init] {
        let meta = fs::metadata(path).at(path)?;
        (path, meta.size(), meta.mtime(), meta.mtime_nsec()).hash(&mut hasher);
    }
    (&kernel.modules, wanted).hash(&mut hasher);
    if let Some(modules) = kernel.modules.as_ref().filter(|_| !kernel.fixed) {
        ModuleSet::scan(modules)?.hash_state(&mut hasher);
    }
    Ok(format!("initramfs/{}-{:016x}", kernel.arch, hasher.finish()))
}

fn write_base(target: &Path, kernel: &Kernel, init: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut archive = Archive::new(BufWriter::new(File::create(target).at(target)?));
    for dir in ["/dev", "/proc", "/sys", "/tmp", "/run", "/bin", "/lib", "/lab", MODULES_DIR] {
        archive.dir(dir).at(target)?;
    }
    archive.char_device("/dev/console", 5, 1).at(target)?;
    archive.char_device("/dev/null", 1, 3).at(target)?;
    archive.program("/init", &fs::read(init).at(init)?).at(target)?;

    let set = kernel.modules.as_deref().map(ModuleSet::scan).transpose()?;
    let mut modules: Vec<Module> = Vec::new();
    for name in wanted {
        let closure = set.as_ref().map(|set| set.closure(name)).transpose()?.unwrap_or_default();
        if closure.is_empty() {
            modules.push(Module { name: name.replace('-', "_"), ..Module::default() });
        }
        for module in closure {
            if modules.iter().any(|known| known.name == module.name) {
                continue;
            }
            let file = Path::new(&module.path).file_name().unwrap_or_default().to_string_lossy();
            let path = format!("{MODULES_DIR}/{file}");
            archive.file(&path, &module.content).at(target)?;
            modules.push(Module { name: module.name, path, ..Module::default() });
        }
    }
    archive.finish().and_then(|mut out| out.flush()).at(target)?;
    Ok(modules)
}
