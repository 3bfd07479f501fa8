//! Requirements as data: what a test needs of the host, and how a skip names it.

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
pub mod cap;
pub mod cpu;
pub mod host;
#[cfg(target_arch = "riscv64")]
pub mod riscv64;

use results::HostFacts;

/// Something that a host has or has not. Constants of this type live in [`cap`], [`cpu`] and
/// [`host`], so an unknown name does not compile.
#[derive(Clone, Copy, Debug)]
pub struct Requirement {
    /// What a skip prints, such as `KVM_CAP_ARM_PMU_V3` or `CPUID VMX`.
    pub name: &'static str,
    condition: Condition,
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Fact(fn(&HostFacts) -> bool),
    All(&'static [Requirement]),
    Any(&'static [Requirement]),
    Not(&'static Requirement),
}

impl Requirement {
    /// Nothing.
    pub const NONE: Self = Self::new("nothing", |_| true);

    /// One that the host's facts tell.
    pub const fn new(name: &'static str, met: fn(&HostFacts) -> bool) -> Self {
        Self { name, condition: Condition::Fact(met) }
    }

    /// All of these.
    pub const fn all(name: &'static str, parts: &'static [Self]) -> Self {
        Self { name, condition: Condition::All(parts) }
    }

    /// At least one of these.
    pub const fn any(name: &'static str, parts: &'static [Self]) -> Self {
        Self { name, condition: Condition::Any(parts) }
    }

    /// A host that has this not.
    pub const fn not(name: &'static str, part: &'static Self) -> Self {
        Self { name, condition: Condition::Not(part) }
    }

    /// Whether this host has it.
    pub fn met(&self, facts: &HostFacts) -> bool {
        match self.condition {
            Condition::Fact(met) => met(facts),
            Condition::All(parts) => parts.iter().all(|part| part.met(facts)),
            Condition::Any(parts) => parts.iter().any(|part| part.met(facts)),
            Condition::Not(part) => !part.met(facts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YES: Requirement = Requirement::new("yes", |_| true);
    const NO: Requirement = Requirement::new("no", |_| false);

    #[test]
    fn requirements_compose() {
        let met = |requirement: Requirement| requirement.met(&HostFacts::default());
        assert!(met(Requirement::all("", &[YES, YES])) && !met(Requirement::all("", &[YES, NO])));
        assert!(met(Requirement::any("", &[NO, YES])) && !met(Requirement::any("", &[NO, NO])));
        assert!(met(Requirement::not("", &NO)) && !met(Requirement::not("", &YES)));
        const NESTED: Requirement = Requirement::all("", &[YES, Requirement::not("", &NO)]);
        assert!(met(Requirement::any("", &[NO, NESTED])));
    }
}
