//! Installing packages from sources that this machine does not list itself.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{KEYRING, codename, mirror, security_mirror};
use crate::cache::Cache;
use crate::error::{At as _, Result};
use crate::process;

/// How long to wait for another package manager.
const LOCK_PATIENCE: &str = "DPkg::Lock::Timeout=600";

/// apt with this machine's packages, but its own lists: the release, its updates and backports.
#[derive(Debug)]
pub struct Installer {
    config: PathBuf,
    release: String,
}

impl Installer {
    /// Writes the configuration.
    ///
    /// # Errors
    /// No mirror is known, or the cache cannot be written.
    pub fn new(cache: &Cache) -> Result<Self> {
        let dir = cache.dir("apt/install")?;
        for part in ["lists/partial", "archives/archives/partial", "empty"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).at(&path)?;
        }
        let (release, main, security) = (codename()?, mirror()?, security_mirror()?);
        let suites = [
            (&main, release.clone()),
            (&main, format!("{release}-updates")),
            (&main, format!("{release}-backports")),
            (&security, format!("{release}-security")),
        ];
        let lines = suites.map(|(mirror, suite)| {
            format!("deb [signed-by={KEYRING} target=Packages] {mirror} {suite} main\n")
        });
        let sources = dir.join("sources.list");
        fs::write(&sources, lines.concat()).at(&sources)?;
        let config = dir.join("apt.conf");
        let path = dir.display();
        let text = format!(
            "Dir::State::Lists \"{path}/lists\";\n\
             Dir::Etc::SourceList \"{path}/sources.list\";\n\
             Dir::Etc::SourceParts \"{path}/empty\";\n\
             Dir::Cache \"{path}/archives\";\n\
             APT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n"
        );
        fs::write(&config, text).at(&config)?;
        Ok(Self { config, release })
    }

    /// Fetches the lists.
    ///
    /// # Errors
    /// The mirror cannot be reached.
    pub fn update(&self) -> Result<()> {
        process::run(self.apt().arg("update"), "apt").map(|_| ())
    }

    /// Installs packages, from backports if so wanted.
    ///
    /// # Errors
    /// apt fails.
    pub fn install(&self, packages: &[&str], backports: bool) -> Result<()> {
        let mut command = self.apt();
        command.args(["--yes", "--no-install-recommends"]);
        if backports {
            command.arg("--target-release").arg(format!("{}-backports", self.release));
        }
        process::run(command.arg("install").args(packages), "apt").map(|_| ())
    }

    fn apt(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("-q").arg("-c").arg(&self.config).args(["-o", LOCK_PATIENCE]);
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command.env_remove("APT_CONFIG");
        command
    }
}
