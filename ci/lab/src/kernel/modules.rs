//! Kernel modules: which files, in which order.

use std::collections::HashMap;
use std::fs;
use std::hash::{Hash as _, Hasher};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use crate::error::{At as _, LabError, Result};

/// One module, ready for an initramfs.
#[derive(Clone, Debug)]
pub struct LoadedModule {
    /// Its name, with underscores.
    pub name: String,
    /// Where it lies below the modules directory, without a compression suffix.
    pub path: String,
    /// The module itself, not compressed.
    pub content: Vec<u8>,
}

/// The modules of a kernel.
#[derive(Debug)]
pub struct ModuleSet {
    root: PathBuf,
    files: HashMap<String, PathBuf>,
}

impl ModuleSet {
    /// Looks through a directory.
    pub fn scan(root: &Path) -> Result<Self> {
        let mut files = HashMap::new();
        let mut open = vec![root.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).at(&dir)?.flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if !entry.file_name().to_string_lossy().starts_with('.') {
                        open.push(path);
                    }
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    /// The module and all that it depends on, in loading order; empty if there is none of that
    /// name (it may be built in).
    pub fn closure(&self, name: &str) -> Result<Vec<LoadedModule>> {
        let mut order = Vec::new();
        self.visit(&normalize(name), &mut order)?;
        Ok(order)
    }

    /// Feeds a hasher with what changes when any module is built again.
    pub fn hash_state(&self, hasher: &mut impl Hasher) {
        let mut paths: Vec<_> = self.files.values().collect();
        paths.sort();
        for path in paths {
            let meta = fs::metadata(path).ok();
            let state = meta.map(|meta| (meta.size(), meta.mtime(), meta.mtime_nsec()));
            (path, state).hash(hasher);
        }
    }

    fn visit(&self, name: &str, order: &mut Vec<LoadedModule>) -> Result<()> {
        let Some(path) = self.files.get(name) else {
            return Ok(());
        };
        if order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let content = decompress(path)?;
        for needed in depends(&content, path)? {
            self.visit(&needed, order)?;
        }
        let relative = path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy();
        let end = relative.find(".ko").map_or(relative.len(), |place| place + ".ko".len());
        order.push(LoadedModule {
            name: name.to_owned(),
            path: relative[..end].to_owned(),
            content,
        });
        Ok(())
    }
}

fn normalize(name: &str) -> String {
    name.replace('-', "_")
}

fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem =
        [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(normalize(stem))
}

/// The content of a file that may be compressed by xz or zstd.
pub fn decompress(path: &Path) -> Result<Vec<u8>> {
    let content = fs::read(path).at(path)?;
    let wrong = |why: String| LabError::Other(format!("{}: {why}", path.display()));
    let mut plain = Vec::new();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => lzma_rs::xz_decompress(&mut content.as_slice(), &mut plain)
            .map_err(|error| wrong(format!("{error:?}")))?,
        Some("zst") => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(content.as_slice())
                .map_err(|error| wrong(error.to_string()))?;
            decoder.read_to_end(&mut plain).at(path)?;
        }
        Some("gz") => return Err(wrong("modules compressed by gzip are not supported".into())),
        _ => plain = content,
    }
    Ok(plain)
}

/// The names after `depends=` in a module's `.modinfo`.
fn depends(content: &[u8], path: &Path) -> Result<Vec<String>> {
    let wrong = |error: object::Error| LabError::Other(format!("{}: {error}", path.display()));
    let file = object::File::parse(content).map_err(wrong)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(Vec::new());
    };
    Ok(parse_depends(section.data().map_err(wrong)?))
}

fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|names| names.split(',').filter(|name| !name.is_empty()).map(normalize))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_dependencies_from_modinfo() {
        let modinfo = b"license=GPL\0depends=kvm,irq-bypass\0name=kvm_amd\0depends=\0";
        assert_eq!(parse_depends(modinfo), ["kvm", "irq_bypass"]);
    }

    #[test]
    fn knows_a_module_by_its_file_name() {
        assert_eq!(module_name(Path::new("/a/kvm-amd.ko.xz")).as_deref(), Some("kvm_amd"));
        assert_eq!(module_name(Path::new("/a/kvm.ko")).as_deref(), Some("kvm"));
        assert_eq!(module_name(Path::new("/a/modules.order")), None);
    }
}
