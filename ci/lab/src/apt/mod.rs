//! The Debian archive by apt in a private configuration: own lists, own cache, no packages of
//! this machine in sight, signatures checked against the archive keyring.

mod install;
mod mirror;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::arch::Arch;
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};
use crate::process;

pub use install::Installer;
use mirror::security_mirror;
pub use mirror::{MIRROR_VARIABLE, choose_mirror, mirror};

/// The archive's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// One suite of one architecture, seen through its own lists.
#[derive(Debug)]
pub struct Suite {
    dir: PathBuf,
    config: PathBuf,
    /// The suite's name.
    pub name: String,
    /// The packages' architecture.
    pub arch: Arch,
}

impl Suite {
    /// Prepares the configuration. Nothing is fetched yet.
    ///
    /// # Errors
    /// No mirror is known, or the cache cannot be written.
    pub fn new(cache: &Cache, name: &str, arch: Arch) -> Result<Self> {
        Self::of(cache, &mirror()?, name, arch)
    }

    /// The same for a suite of security updates (`bookworm-security`).
    ///
    /// # Errors
    /// As above.
    pub fn security(cache: &Cache, name: &str, arch: Arch) -> Result<Self> {
        Self::of(cache, &security_mirror()?, name, arch)
    }

    fn of(cache: &Cache, mirror: &str, name: &str, arch: Arch) -> Result<Self> {
        let dir = cache.dir(format!("apt/{}-{name}", arch.names().debian))?;
        for part in ["lists/partial", "archives/archives/partial", "empty"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).at(&path)?;
        }
        let sources = dir.join("sources.list");
        let debian = arch.names().debian;
        let line = format!(
            "deb [arch={debian} signed-by={KEYRING} target=Packages] {mirror} {name} main\n"
        );
        fs::write(&sources, line).at(&sources)?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(&dir, debian)).at(&config)?;
        Ok(Self { dir, config, name: name.to_owned(), arch })
    }

    /// Fetches the suite's index.
    ///
    /// # Errors
    /// The mirror cannot be reached, has no such suite, or its signature is not good.
    pub fn update(&self) -> Result<()> {
        let output = process::run(self.apt("apt-get").args(["-q", "update"]), "apt")?;
        match output.lines().find(|line| line.starts_with("E:") || line.starts_with("Err:")) {
            Some(line) => Err(LabError::Other(format!("suite {}: {line}", self.name))),
            None => Ok(()),
        }
    }

    /// The control records of the packages whose names match the regular expression.
    ///
    /// # Errors
    /// apt cannot read the index.
    pub fn records(&self, name_regex: &str) -> Result<Vec<Record>> {
        let mut command = self.apt("apt-cache");
        command.args(["search", "--names-only", "--full", name_regex]);
        Ok(process::run(&mut command, "apt")?.split("\n\n").filter_map(Record::parse).collect())
    }

    /// The newest version of one package.
    ///
    /// # Errors
    /// The suite has none.
    pub fn version_of(&self, package: &str) -> Result<String> {
        let found = self.records(&format!("^{package}$"))?;
        let found = found.into_iter().find(|record| record.package == package);
        found.map(|record| record.version).ok_or_else(|| {
            let debian = self.arch.names().debian;
            LabError::Other(format!("suite {} has no {package} for {debian}", self.name))
        })
    }

    /// The names of the packages that a package depends on.
    ///
    /// # Errors
    /// The suite has no such package.
    pub fn depends_of(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.apt("apt-cache");
        let text = process::run(command.args(["show", package]), "apt")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        let names = line.split([',', '|']).filter_map(|item| item.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Downloads packages (`NAME` or `NAME=VERSION`) and unpacks them into a directory.
    ///
    /// # Errors
    /// A package is gone from the mirror, or the download was cut off.
    pub fn unpack(&self, packages: &[String], target: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir).at(&self.dir)?;
        let download = || {
            let mut command = self.apt("apt-get");
            command.args(["-q", "download"]).args(packages).current_dir(scratch.path());
            process::run(&mut command, "apt")
        };
        // The index may be old, or another mirror's.
        download().or_else(|_| self.update().and_then(|()| download()))?;
        for entry in fs::read_dir(scratch.path()).at(scratch.path())?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                let mut unpack = Command::new("dpkg-deb");
                process::run(unpack.arg("-x").arg(entry.path()).arg(target), "dpkg")?;
            }
        }
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.config).env("LC_ALL", "C.UTF-8").env_remove("APT_CONFIG");
        command
    }
}

/// The part of a package's control record that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Package name.
    pub package: String,
    /// Package version.
    pub version: String,
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        Some(Self { package: field("Package:")?, version: field("Version:")? })
    }
}

/// The code name of this machine's Debian release.
///
/// # Errors
/// It is no Debian.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").at("/etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.map(|name| name.trim_matches('"').to_owned())
        .ok_or_else(|| LabError::Other("/etc/os-release names no Debian release".into()))
}

fn configuration(dir: &Path, debian_arch: &str) -> String {
    let dir = dir.display();
    format!(
        "Dir::State::Lists \"{dir}/lists\";\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Etc::SourceList \"{dir}/sources.list\";\n\
         Dir::Etc::SourceParts \"{dir}/empty\";\n\
         Dir::Etc::Preferences \"{dir}/preferences\";\n\
         Dir::Etc::PreferencesParts \"{dir}/empty\";\n\
         Dir::Cache \"{dir}/archives\";\n\
         Dir::Cache::pkgcache \"pkgcache.bin\";\n\
         APT::Architecture \"{debian_arch}\";\n\
         #clear APT::Architectures;\n\
         APT::Architectures {{ \"{debian_arch}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_record() {
        let record = Record::parse("Package: linux-image-1\nSource: x\nVersion: 1-2~bpo1\nSize: 3");
        let expected = Record { package: "linux-image-1".into(), version: "1-2~bpo1".into() };
        assert_eq!(record, Some(expected));
    }
}
