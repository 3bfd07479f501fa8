//! Kernels: where they come from and what is in them.

mod archive;
mod modules;
mod spec;
mod version;

use std::path::{Path, PathBuf};

pub use archive::{ArchiveKernel, list};
pub(crate) use modules::ModuleSet;
pub use spec::KernelSpec;

use crate::arch::{self, Arch};
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its architecture.
    pub arch: Arch,
    /// A name for people, such as the release and the package version.
    pub name: String,
    /// The boot image.
    pub image: PathBuf,
    /// The directory under which its modules lie, if it has any.
    pub modules: Option<PathBuf>,
    /// Whether its files never change under their names.
    pub fixed: bool,
}

impl Kernel {
    /// Finds the kernel that the spec means, fetching it if need be.
    ///
    /// # Errors
    /// There is none such; the message names what comes near.
    pub fn resolve(spec: &KernelSpec, arch: Arch, cache: &Cache) -> Result<Self> {
        let lacks = |why: String| LabError::Kernel { spec: spec.to_string(), why };
        match spec {
            KernelSpec::DebianSuite(_) | KernelSpec::DebianVersion(_) => {
                archive::resolve(spec, arch, cache)
            }
            KernelSpec::Path { image, modules } => {
                std::fs::metadata(image).at(image)?;
                Ok(Self {
                    arch,
                    name: spec.to_string(),
                    image: image.clone(),
                    modules: modules.clone(),
                    fixed: false,
                })
            }
            KernelSpec::Tree(tree) => {
                let images = arch::tree_images(arch);
                let image =
                    images.iter().map(|image| tree.join(image)).find(|image| image.exists());
                let image = image.ok_or_else(|| {
                    lacks(format!("{} is not built: no {}", tree.display(), images.join(" or ")))
                })?;
                let release = tree.join("include/config/kernel.release");
                let release = std::fs::read_to_string(&release).at(&release)?;
                Ok(Self {
                    arch,
                    name: format!("{} ({})", release.trim(), tree.display()),
                    image,
                    modules: Some(tree.clone()),
                    fixed: false,
                })
            }
        }
    }

    /// An archive kernel's files in an unpacked directory.
    fn unpacked(arch: Arch, name: String, dir: &Path) -> Result<Self> {
        let modules = [dir.join("usr/lib/modules"), dir.join("lib/modules")];
        let modules = modules.into_iter().find(|dir| dir.exists());
        let image = find_image(&dir.join("boot"))
            .or_else(|| children(modules.as_ref()?).find_map(|dir| find_image(&dir)));
        let image = image.ok_or_else(|| LabError::Kernel {
            spec: name.clone(),
            why: "the package holds no boot image".into(),
        })?;
        Ok(Self { arch, name, image, modules, fixed: true })
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn find_image(dir: &Path) -> Option<PathBuf> {
    children(dir).find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinu"))
    })
}
