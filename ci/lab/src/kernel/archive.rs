//! Kernels of the Debian archive.

use std::cmp::Ordering;
use std::fs;
use std::time::{Duration, SystemTime};

use super::spec::KernelSpec;
use super::{Kernel, version};
use crate::apt::{Record, Suite};
use crate::arch::{self, Arch};
use crate::cache::Cache;
use crate::error::{At as _, LabError, Result};

/// Suites that are looked through, oldest first.
const SUITES: [&str; 7] = [
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "sid",
    "experimental",
];
/// How long an index is taken as it is.
const INDEX_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// How many near matches are named.
const NR_NEAREST: usize = 8;

/// A kernel that the archive offers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ArchiveKernel {
    /// The suite.
    pub suite: String,
    /// `uname -r`.
    pub release: String,
    /// Version of the package.
    pub version: String,
    /// The packages to unpack.
    pub packages: Vec<String>,
}

/// Every kernel of the archive for an architecture; suites that have none are left out, and so
/// are suites that cannot be reached, with a note on standard error.
///
/// # Errors
/// No suite can be reached.
pub fn list(arch: Arch, cache: &Cache) -> Result<Vec<ArchiveKernel>> {
    let mut kernels = Vec::new();
    let mut failure = None;
    for suite in SUITES {
        match of_suite(suite, arch, cache) {
            Ok(found) => kernels.extend(found),
            Err(error) => failure = Some(error),
        }
    }
    match (kernels.is_empty(), failure) {
        (true, Some(error)) => Err(error),
        _ => Ok(kernels),
    }
}

/// Finds, fetches and unpacks.
pub(super) fn resolve(spec: &KernelSpec, arch: Arch, cache: &Cache) -> Result<Kernel> {
    let (mut found, nearest) = candidates(spec, arch, cache)?;
    found.sort_by(|left, right| by_preference(right, left, arch));
    let mut failure = nearest;
    for kernel in found {
        match fetch(&kernel, arch, cache) {
            Ok(kernel) => return Ok(kernel),
            // An index can name a file that is gone: the next version will do.
            Err(error) => failure = format!("{} {}: {error}", kernel.release, kernel.version),
        }
    }
    Err(LabError::Kernel { spec: spec.to_string(), why: failure })
}

/// The kernels that the spec means, and a text for the case that there are none.
fn candidates(
    spec: &KernelSpec,
    arch: Arch,
    cache: &Cache,
) -> Result<(Vec<ArchiveKernel>, String)> {
    match spec {
        KernelSpec::DebianSuite(suite) => {
            let is_known = SUITES.contains(&suite.as_str());
            let suites = || format!("; suites: {}", SUITES.join(", "));
            let hint = if is_known { String::new() } else { suites() };
            let found = of_suite(suite, arch, cache).map_err(|error| LabError::Kernel {
                spec: spec.to_string(),
                why: format!("{error}{hint}"),
            })?;
            let none = format!(
                "suite {suite} has none for {}; suites: {}",
                arch.names().debian,
                SUITES.join(", ")
            );
            Ok((found, none))
        }
        KernelSpec::DebianVersion(wanted) => {
            let all = list(arch, cache)?;
            let found: Vec<_> =
                all.iter().filter(|kernel| is_version(kernel, wanted)).cloned().collect();
            Ok((
                found,
                format!("not in the archive; nearest: {}", nearest(&all, wanted).join(", ")),
            ))
        }
        KernelSpec::Path { .. } | KernelSpec::Tree(_) => Ok((Vec::new(), String::new())),
    }
}

fn is_version(kernel: &ArchiveKernel, wanted: &str) -> bool {
    [&kernel.release, &kernel.version].into_iter().any(|version| {
        let rest = version.strip_prefix(wanted);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn nearest(all: &[ArchiveKernel], wanted: &str) -> Vec<String> {
    let mut versions: Vec<_> = all.iter().map(|kernel| kernel.version.clone()).collect();
    versions.sort_by(|left, right| version::compare(left, right));
    versions.dedup();
    let place =
        versions.partition_point(|version| version::compare(version, wanted) == Ordering::Less);
    let start = place.saturating_sub(NR_NEAREST / 2).min(versions.len().saturating_sub(NR_NEAREST));
    versions.into_iter().skip(start).take(NR_NEAREST).collect()
}

/// Newer is more, then a better flavour.
fn by_preference(left: &ArchiveKernel, right: &ArchiveKernel, arch: Arch) -> Ordering {
    let flavour = |kernel: &ArchiveKernel| {
        let flavours = arch::kernel_flavours(arch);
        flavours.len()
            - flavours.iter().position(|flavour| kernel.release.ends_with(flavour)).unwrap_or(0)
    };
    version::compare(&left.version, &right.version).then(flavour(left).cmp(&flavour(right)))
}

fn of_suite(name: &str, arch: Arch, cache: &Cache) -> Result<Vec<ArchiveKernel>> {
    let path = cache.dir("index")?.join(format!("{}-{name}.json", arch.names().debian));
    let _lock = cache.lock(&format!("index-{}-{name}", arch.names().debian))?;
    let known: Option<Vec<ArchiveKernel>> =
        fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
    let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
    match (known, age) {
        (Some(kernels), Some(age)) if age < INDEX_AGE => Ok(kernels),
        (known, _) => match read_suite(name, arch, cache) {
            Ok(kernels) => {
                let text = serde_json::to_string_pretty(&kernels).map_err(std::io::Error::other);
                fs::write(&path, text.at(&path)?).at(&path)?;
                Ok(kernels)
            }
            Err(error) => match known {
                Some(kernels) => {
                    eprintln!("lab: taking an old index of {name}: {error}");
                    Ok(kernels)
                }
                None => Err(error),
            },
        },
    }
}

fn read_suite(name: &str, arch: Arch, cache: &Cache) -> Result<Vec<ArchiveKernel>> {
    let suite = Suite::new(cache, name, arch)?;
    suite.update()?;
    let records = suite.records("^linux-(image|binary|modules)-[0-9]")?;
    Ok(kernels_of(name, arch, &records))
}

/// Picks the kernels out of a suite's packages. Newer ones are split in two packages, of two sources:
/// the archive may have dropped the modules of an old version while it still has the image.
fn kernels_of(suite: &str, arch: Arch, records: &[Record]) -> Vec<ArchiveKernel> {
    let flavour_of = |release: &str| {
        arch::kernel_flavours(arch).iter().find(|flavour| {
            let rest = release.strip_suffix(**flavour).and_then(|rest| rest.strip_suffix('-'));
            rest.is_some_and(|rest| rest.ends_with(|c: char| c.is_ascii_digit()))
        })
    };
    let binaries: Vec<_> =
        records.iter().filter_map(|record| record.package.strip_prefix("linux-binary-")).collect();
    records
        .iter()
        .filter_map(|record| {
            let package = &record.package;
            let binary = package.strip_prefix("linux-binary-");
            let image =
                package.strip_prefix("linux-image-").filter(|image| !binaries.contains(image));
            let release = binary.or(image)?;
            if !release.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            flavour_of(release)?;
            let mut packages = vec![package.clone()];
            if binary.is_some() {
                let modules = format!("linux-modules-{release}");
                let is_there =
                    |other: &Record| other.package == modules && other.version == record.version;
                records.iter().find(|other| is_there(other))?;
                packages.push(modules);
            }
            let (release, version) = (release.to_owned(), record.version.clone());
            Some(ArchiveKernel { suite: suite.to_owned(), release, version, packages })
        })
        .collect()
}

fn fetch(kernel: &ArchiveKernel, arch: Arch, cache: &Cache) -> Result<Kernel> {
    let ArchiveKernel { suite, release, version, packages } = kernel;
    let place = format!("kernels/{}/{release}_{version}", arch.names().debian);
    let dir = cache.checked(&place, |fresh| {
        eprintln!("lab: fetching {release} ({version}) of {suite}");
        let packages: Vec<_> =
            packages.iter().map(|package| format!("{package}={version}")).collect();
        Suite::new(cache, suite, arch)?.unpack(&packages, fresh)?;
        Kernel::unpacked(arch, release.clone(), fresh).map(|_| ())
    })?;
    Kernel::unpacked(arch, format!("{release} ({version}, {suite})"), &dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(package: &str, version: &str) -> Record {
        Record { package: package.into(), version: version.into() }
    }

    #[test]
    fn takes_signed_flavours_only_and_joins_split_packages() {
        let records = [
            record("linux-image-6.1.0-47-cloud-amd64", "6.1.170-1"),
            record("linux-image-6.1.0-47-cloud-amd64-unsigned", "6.1.170-1"),
            record("linux-image-6.1.0-47-rt-amd64", "6.1.170-1"),
            record("linux-image-6.1.0-47-amd64-dbg", "6.1.170-1"),
            record("linux-image-7.2.12+deb13-amd64", "7.2.12-1"),
            record("linux-binary-7.2.12+deb13-amd64", "7.2.12-1"),
            record("linux-binary-unsigned-7.2.12+deb13-amd64", "7.2.12-1"),
            record("linux-modules-7.2.12+deb13-amd64", "7.2.12-1"),
        ];
        let kernels = kernels_of("x", Arch::X86_64, &records);
        let releases: Vec<_> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
        assert_eq!(releases, ["6.1.0-47-cloud-amd64", "7.2.12+deb13-amd64"]);
        assert_eq!(
            kernels[1].packages,
            ["linux-binary-7.2.12+deb13-amd64", "linux-modules-7.2.12+deb13-amd64"]
        );
    }

    #[test]
    fn an_image_whose_modules_are_gone_is_no_kernel() {
        let image = record("linux-binary-7.0.13+deb13-amd64", "7.0.13-1");
        let modules = |version| record("linux-modules-7.0.13+deb13-amd64", version);
        let found = |records: &[Record]| kernels_of("x", Arch::X86_64, records).len();
        assert_eq!(found(&[image.clone(), modules("7.0.13-1")]), 1);
        assert_eq!(found(&[image.clone(), modules("7.0.13-2")]), 0);
        assert_eq!(found(&[image]), 0);
    }

    #[test]
    fn a_version_is_a_whole_prefix() {
        let kernel = ArchiveKernel {
            suite: "x".into(),
            release: "6.1.0-47-amd64".into(),
            version: "6.1.170-1".into(),
            packages: vec![],
        };
        for wanted in ["6.1", "6.1.170", "6.1.170-1", "6.1.0-47", "6.1.0-47-amd64"] {
            assert!(is_version(&kernel, wanted), "{wanted}");
        }
        for wanted in ["6.12", "6.1.17", "6.1.0-4"] {
            assert!(!is_version(&kernel, wanted), "{wanted}");
        }
    }
}
