//! Variants: a test again, unchanged, under a circumstance that the contract says nobody can see.
//!
//! The run loop and [`crate::Vm`] call what is here; a test knows nothing of it, apart from a declared reason
//! why one of them does not apply (`sees(NAME: "reason")`). What a variant does to VMs at rest it does
//! before a vCPU's first 16 runs, and then four times before their number doubles: a test of many exits stays
//! of bearable length.

mod around;
mod hopping;
mod interrupted;
mod logged;
mod paged;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use around::Around;
pub(crate) use slots::set_cut_region;

use crate::case::Sees;
use crate::exit::Exit;
use crate::failure::{Failure, TestResult};
use crate::state::Core;
use crate::{Ram, Vcpu, record, together};

/// One circumstance.
#[derive(Debug)]
pub struct Variant {
    /// Behind the `@` of a test's id.
    pub name: &'static str,
    /// What is done, in a sentence.
    pub meaning: &'static str,
}

/// Every variant there is. A [`Set`] has a bit for each, in this order.
pub const ALL: [Variant; 7] = [
    Variant { name: "moved", meaning: "saved and restored into fresh descriptors between exits" },
    Variant { name: "logged", meaning: "dirty logging is on; a written page must be in the log" },
    Variant { name: "slots", meaning: "RAM is cut into many memslots at odd places" },
    Variant { name: "shuffled", meaning: "memslots are deleted and made again between exits" },
    Variant { name: "paged", meaning: "the host moves and unmaps RAM between exits" },
    Variant { name: "interrupted", meaning: "signals end KVM_RUN all the time" },
    Variant {
        name: "hopping",
        meaning: "the vCPU's thread changes its host CPU before each KVM_RUN",
    },
];

/// What `sees(…)` of a test says, if it names variants that there are.
///
/// # Panics
///
/// One that there is not, when it is compiled.
pub const fn checked<const N: usize>(sees: [Sees; N]) -> [Sees; N] {
    let mut nth = 0;
    while nth < N {
        let (mut variant, mut is_known) = (0, false);
        while variant < ALL.len() {
            is_known |= is_same(sees[nth].0.as_bytes(), ALL[variant].name.as_bytes());
            variant += 1;
        }
        assert!(is_known, "`sees` names a variant that there is not");
        nth += 1;
    }
    sees
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Variants that hold at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set(u32);

impl Set {
    /// None of them.
    pub const NONE: Self = Self(0);
    pub(crate) const MOVED: Self = Self(1 << 0);
    const LOGGED: Self = Self(1 << 1);
    const SLOTS: Self = Self(1 << 2);
    const SHUFFLED: Self = Self(1 << 3);
    const PAGED: Self = Self(1 << 4);
    const INTERRUPTED: Self = Self(1 << 5);
    const HOPPING: Self = Self(1 << 6);
    /// What is done around a KVM_RUN.
    const AROUND: Self = Self(Self::INTERRUPTED.0 | Self::HOPPING.0);
    /// What is done to a VM at rest, between runs.
    const AT_REST: Self = Self(Self::MOVED.0 | Self::LOGGED.0 | Self::SHUFFLED.0 | Self::PAGED.0);

    /// The variants of `names`, separated by `+`; the name of one that there is not is the error.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn parse(names: &str) -> Result<Self, &str> {
        let bit = |name| ALL.iter().position(|v| v.name == name).ok_or(name);
        names.split('+').try_fold(Self::NONE, |set, name| Ok(Self(set.0 | 1 << bit(name)?)))
    }

    /// Names, separated by `+`.
    pub fn name(self) -> String {
        self.variants().map(|variant| variant.name).collect::<Vec<_>>().join("+")
    }

    /// What is in it.
    pub fn variants(self) -> impl Iterator<Item = &'static Variant> {
        ALL.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 != 0).map(|(_, v)| v)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

static ACTIVE: AtomicU32 = AtomicU32::new(0);
static EFFECTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

/// Whether one of `set` holds now.
pub(crate) fn holds(set: Set) -> bool {
    Set(ACTIVE.load(Ordering::Relaxed)).meets(set)
}

/// Counts something that a variant of one did.
pub(crate) fn took_effect(variant: Set) {
    EFFECTS[variant.0.trailing_zeros() as usize].fetch_add(1, Ordering::Relaxed);
}

/// Runs a test's body under these variants.
///
/// # Errors
///
/// The body's. A body in which one of them had nothing to act on is a skip: it has shown nothing.
pub fn under(set: Set, body: impl FnOnce() -> TestResult) -> TestResult {
    if set.is_empty() {
        return body();
    }
    ACTIVE.store(set.0, Ordering::SeqCst);
    let result = body();
    ACTIVE.store(0, Ordering::SeqCst);
    let effects = EFFECTS.each_ref().map(|effects| effects.swap(0, Ordering::SeqCst));
    for (variant, times) in ALL.iter().zip(effects).filter(|(_, times)| *times > 0) {
        record::log(format!("variant {}: took effect {times} times", variant.name));
    }
    let idle = ALL
        .iter()
        .zip(effects)
        .enumerate()
        .find(|(bit, (_, times))| set.0 >> bit & 1 != 0 && *times == 0);
    match (result, idle) {
        (Ok(()), Some((_, (variant, _)))) if record::failed_checks() == 0 => {
            Err(Failure::Skip(format!("something for the variant `{}` to act on", variant.name)))
        }
        (result, _) => result,
    }
}

/// A VM whose vCPUs are all out of KVM_RUN.
pub(crate) struct AtRest<'a> {
    pub core: &'a Arc<Core>,
    pub ram: &'a Arc<Ram>,
}

/// Whether a variant acts before a vCPU's run of this number, from 1.
fn is_due(run: u64) -> bool {
    /// All of the first runs.
    const FIRST: u64 = 16;
    run <= FIRST || run.is_multiple_of((run.next_power_of_two() / 8).max(1))
}

impl Vcpu {
    /// What variants do before a step of the run loop, with the VM at rest: not while another vCPU may run,
    /// or is at an exit that the test has yet to handle. Gives the exit of a vCPU that comes to the next
    /// one when its last is completed.
    pub(crate) fn before_step(&mut self) -> TestResult<Option<Exit>> {
        if !holds(Set::AT_REST) {
            return Ok(None);
        }
        let Some(core) = self.core() else { return Ok(None) };
        let me = std::os::fd::AsRawFd::as_raw_fd(self);
        let is_busy = core.inventory().vcpus.iter().any(|v| v.fd != me && v.is_at_exit);
        let runs = self.count_step();
        if is_busy || together::is_member() || !is_due(runs) {
            return Ok(None);
        }
        if holds(Set::MOVED)
            && let Some(exit) = self.move_vm(&core)?
        {
            return Ok(Some(exit));
        }
        let ram = Arc::clone(&self.ram);
        let at_rest = AtRest { core: &core, ram: &ram };
        if holds(Set::SHUFFLED) {
            slots::shuffle(&at_rest)?;
        }
        if holds(Set::PAGED) {
            paged::unmap(&at_rest);
        }
        if holds(Set::LOGGED) {
            logged::begin(&at_rest)?;
        }
        Ok(None)
    }

    /// What variants do behind that step; `is_at_exit` says whether the test has something to handle.
    pub(crate) fn after_step(&self, is_at_exit: bool) -> TestResult {
        if !holds(Set::AT_REST) {
            return Ok(());
        }
        self.with_entry(|entry| entry.is_at_exit = is_at_exit);
        match self.core() {
            Some(core) if holds(Set::LOGGED) => {
                logged::end(&AtRest { core: &core, ram: &self.ram })
            }
            _ => Ok(()),
        }
    }
}

/// Runs a test's body with its VMs moved: `#[kvm_test(…, moved)]`.
///
/// # Errors
///
/// The body's; one in which nothing was moved is an error of the test.
pub fn moved(body: impl FnOnce() -> TestResult) -> TestResult {
    under(Set::MOVED, body).map_err(|failure| match failure {
        Failure::Skip(what) if what.contains("for the variant") => {
            Failure::Error(format!("nothing was moved: the test needs {what}"))
        }
        other => other,
    })
}

/// Flags of a memslot as variants want them.
pub(crate) fn flags(flags: u32, size: u64, core: &Core) -> u32 {
    if holds(Set::LOGGED) && size > 0 && logged::can_log(core) {
        return flags | kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
    }
    flags
}

/// Whether this memslot is to be cut.
pub(crate) fn cuts(slot: u32) -> bool {
    slot == 0 && holds(Set::SLOTS)
}

/// What a variant of one did so far.
pub(crate) fn effects(variant: Set) -> u64 {
    EFFECTS[variant.0.trailing_zeros() as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_set_read_back() {
        for names in ["moved", "logged+hopping", "moved+logged+slots"] {
            assert_eq!(Set::parse(names).map(Set::name).as_deref(), Ok(names));
        }
        assert_eq!(Set::parse("hopping+moved").map(Set::name).as_deref(), Ok("moved+hopping"));
        assert_eq!(Set::parse("moved+nothing"), Err("nothing"));
        assert_eq!(Set::parse(""), Err(""));
    }

    #[test]
    fn the_first_runs_are_due_and_then_fewer_and_fewer() {
        assert!((1..=16).all(is_due));
        let due = |from: u64| (from..from * 2).filter(|run| is_due(*run)).count();
        assert_eq!((due(32), due(1024), due(1 << 20)), (4, 4, 4));
    }
}
