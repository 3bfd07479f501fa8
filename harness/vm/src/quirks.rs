//! What a host does otherwise than real ones, so that tests can run there all the same. The profile of an
//! emulated host lists its quirks (`ci/hosts`), and the lab passes them on; the library has no other branch
//! on the emulator.

use std::sync::OnceLock;

/// Where the lab passes the names, separated by commas.
pub const VARIABLE: &str = "KVM_CONFORMANCE_QUIRKS";

/// A quirk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quirk {
    /// The CPU fetches wrongly behind a page that the host has not mapped yet when the guest executes it:
    /// the payload is mapped before the guest runs (Hercules goes on two bytes too far).
    FetchNeedsMappedPages,
    /// Linux makes no huge pages unless it is asked to, since the host has little memory: tests that need
    /// them may ask.
    HugePagesOnRequest,
    /// KVM_RUN loses registers of its caller that a system call keeps (`callers_registers.rs` is the test).
    KvmRunLosesRegisters,
}

impl Quirk {
    /// Every quirk, by the name that profiles use.
    pub const ALL: [(&'static str, Self); 3] = [
        ("fetch-needs-mapped-pages", Self::FetchNeedsMappedPages),
        ("huge-pages-on-request", Self::HugePagesOnRequest),
        ("kvm-run-loses-registers", Self::KvmRunLosesRegisters),
    ];

    /// Whether this host has it.
    pub fn is_here(self) -> bool {
        here().as_ref().is_ok_and(|quirks| quirks.contains(&self))
    }
}

/// The quirks of this host.
///
/// # Errors
///
/// One of them has a name that this build does not know.
pub fn here() -> &'static Result<Vec<Quirk>, String> {
    static HERE: OnceLock<Result<Vec<Quirk>, String>> = OnceLock::new();
    HERE.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()))
}

fn parse(names: &str) -> Result<Vec<Quirk>, String> {
    let names = names.split(',').filter(|name| !name.is_empty());
    let quirk = |name: &str| {
        let found = Quirk::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, quirk)| *quirk).ok_or_else(|| format!("no quirk is named {name}"))
    };
    names.map(quirk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(parse(""), Ok(vec![]));
        let two = "huge-pages-on-request,fetch-needs-mapped-pages";
        let want = vec![Quirk::HugePagesOnRequest, Quirk::FetchNeedsMappedPages];
        assert_eq!(parse(two), Ok(want));
        assert_eq!(parse("typo"), Err("no quirk is named typo".into()));
    }
}
