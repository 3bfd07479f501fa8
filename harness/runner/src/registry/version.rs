//! Kernel version ranges such as `>=5.10, <6.1`.

use std::fmt;

use serde::Deserialize;

/// A range of kernel versions: every condition must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KernelRange {
    text: String,
    conditions: Vec<(Op, Vec<u64>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Lt,
    Le,
    Eq,
    Ne,
    Ge,
    Gt,
}

impl KernelRange {
    /// Whether `uname -r` says a kernel of the range.
    ///
    /// A version is compared to the precision of the condition: 6.1.9 is
    /// `<=6.1`, is `=6.1` and is not `>6.1`. A release candidate counts as its release.
    pub fn contains(&self, release: &str) -> bool {
        let kernel = components(release);
        self.conditions.iter().all(|(op, wanted)| {
            let mut kernel = kernel.clone();
            kernel.resize(wanted.len(), 0);
            match op {
                Op::Lt => kernel < *wanted,
                Op::Le => kernel <= *wanted,
                Op::Eq => kernel == *wanted,
                Op::Ne => kernel != *wanted,
                Op::Ge => kernel >= *wanted,
                Op::Gt => kernel > *wanted,
            }
        })
    }
}

impl KernelRange {
    /// Whether no kernel is in it. Where the conditions change their minds there is a version that they
    /// name, one just before it, or one just after it.
    pub fn is_empty(&self) -> bool {
        const LAST: u64 = 99_999;
        let release = |parts: &[u64]| {
            let parts: Vec<String> = parts.iter().map(u64::to_string).collect();
            parts.join(".")
        };
        let near = |version: &Vec<u64>| {
            let mut candidates = vec![release(version), release(&[version, &[LAST][..]].concat())];
            for (at, part) in version.iter().enumerate() {
                let front = &version[..at];
                candidates.push(release(&[front, &[part + 1]].concat()));
                let before = part.checked_sub(1);
                candidates.extend(before.map(|part| release(&[front, &[part, LAST]].concat())));
            }
            candidates
        };
        !self.conditions.iter().flat_map(|(_, version)| near(version)).any(|r| self.contains(&r))
    }
}

impl TryFrom<String> for KernelRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let conditions = text
            .split(',')
            .map(|condition| {
                parse(condition.trim()).ok_or_else(|| {
                    format!("`{text}` is no kernel range; one looks like `>=5.10, <6.1`")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { text, conditions })
    }
}

impl fmt::Display for KernelRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse(condition: &str) -> Option<(Op, Vec<u64>)> {
    const OPS: [(&str, Op); 7] = [
        ("<=", Op::Le),
        (">=", Op::Ge),
        ("!=", Op::Ne),
        ("==", Op::Eq),
        ("<", Op::Lt),
        (">", Op::Gt),
        ("=", Op::Eq),
    ];
    let (op, version) =
        OPS.iter().find_map(|(text, op)| Some((*op, condition.strip_prefix(text)?)))?;
    let version: Option<Vec<u64>> = version.trim().split('.').map(|n| n.parse().ok()).collect();
    Some((op, version?))
}

/// The leading numbers of a release: `6.1.0-18-amd64` is 6, 1, 0.
fn components(release: &str) -> Vec<u64> {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    release[..end].split('.').map_while(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_a_kernel_are_known() {
        for (range, empty) in [
            (">=7, <6", true),
            (">6.1, <6.2", true),
            (">=6.1, <6.2", false),
            (">6.1.3, <6.1.5", false),
            (">6.1.3, <6.1.4", true),
            ("=6.1, !=6.1", true),
            ("=6.1, !=6.1.0", false),
            ("<5", false),
            ("<7.0", false),
            ("<6.12.0", false),
            (">=5.10", false),
            ("<0", true),
        ] {
            let range = KernelRange::try_from(range.to_owned()).unwrap();
            assert_eq!(range.is_empty(), empty, "{range}");
        }
    }

    fn range(text: &str) -> KernelRange {
        KernelRange::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn ranges_hold_the_kernels_they_say() {
        for (text, release, holds) in [
            (">=5.10, <6.1", "5.10.0-28-amd64", true),
            (">=5.10, <6.1", "6.0.19", true),
            (">=5.10, <6.1", "6.1.0", false),
            (">=5.10, <6.1", "5.9.16", false),
            ("<=6.1", "6.1.90+deb12", true),
            (">6.1", "6.1.90", false),
            ("=6.12", "6.12.3-rc1", true),
            ("!=6.12", "6.12.3", false),
            (">= 6.1.20", "6.1", false),
            ("<7.0", "6.18.44-x", true),
        ] {
            assert_eq!(range(text).contains(release), holds, "{release} in {text}");
        }
    }

    #[test]
    fn a_range_without_operator_is_refused() {
        for text in ["5.10", "", ">=", ">=5.x", ">=5.10,"] {
            assert!(KernelRange::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
