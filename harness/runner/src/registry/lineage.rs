//! Whose kernel a release is: what a version says depends on it.
//!
//! Kernel ranges of known failures were found on kernels of kernel.org, its stable series, and Debian.
//! Other vendors bring fixes back by the thousand and leave the version as it is.

use std::sync::LazyLock;

use regex::Regex;

/// Releases of kernel.org (`6.12.44`, `6.19-rc3`), of a tree in work (`6.18.0-rc1-00012-g0123456789ab`,
/// with `+` or `-dirty`), and of Debian (`6.1.0-44-amd64`, `6.12.57+deb13-cloud-arm64`,
/// `6.16.3+deb13-amd64-unsigned`).
static KNOWN: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"^\d+\.\d+(\.\d+)?(-rc\d+)?(-\d{5}-g[0-9a-f]{7,40})?(-dirty|\+)?(\+deb[0-9a-z.~+]+|\+bpo)?(-(0\.bpo\.)?\d{1,3})?((-rt|-cloud|-unsigned)*-(amd64|686(-pae)?|arm64(-16k)?|armmp(-lpae)?|riscv64|powerpc64le(-64k)?|s390x|loong64)(-unsigned|-dbg)*)?$";
    Regex::new(pattern).unwrap_or_else(|e| unreachable!("constant pattern: {e}"))
});

/// Whether `uname -r` is of a kernel whose version tells what is fixed in it.
pub fn is_known(release: &str) -> bool {
    KNOWN.is_match(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upstream_and_debian_are_known() {
        for release in [
            "6.12.44",
            "6.19-rc3",
            "7.3.0-rc7",
            "6.18.0-rc1-00012-g0123456789ab",
            "6.18.0-rc1+",
            "6.18.0-dirty",
            "5.10.0-33-amd64",
            "6.1.0-44-cloud-amd64",
            "6.12.57+deb13-arm64",
            "6.16.3+deb13-amd64-unsigned",
            "6.12.117+deb13-powerpc64le",
            "6.12.9+bpo-amd64",
            "7.0.1+deb14-riscv64",
            "7.3-rc7-amd64",
        ] {
            assert!(is_known(release), "{release}");
        }
        for release in [
            "5.14.0-427.13.1.el9_4.x86_64",
            "4.18.0-553.el8_10.x86_64",
            "5.15.0-122-generic",
            "6.8.0-1021-aws",
            "6.8.0-45-generic-64k",
            "6.4.0-150600.23.25-default",
            "6.1.109-118.189.amzn2023.x86_64",
            "6.11.4-301.fc41.x86_64",
            "6.8.12-4-pve",
            "6.6.51+rpt-rpi-2712",
            "6.11.0-arch1-1",
            "5.15.167.4-microsoft-standard-WSL2",
            "6.12.44-mine",
            "",
        ] {
            assert!(!is_known(release), "{release}");
        }
    }
}
