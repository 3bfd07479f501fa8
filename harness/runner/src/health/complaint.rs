//! A complaint of the kernel, and whose it is: KVM's, that of a thread of ours, or somebody else's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;

use nix::unistd::{Pid, getpgid};
use regex::Regex;
use results::trouble;

/// Lines kept of one complaint.
const MAX_LINES: usize = 120;

/// Forms in which the kernel names a thread: a WARNING's (old and new), a sanitizer's, a hung task's, a
/// lockup's, and that of a task which schedules while it must not.
static THREAD: LazyLock<Regex> = LazyLock::new(|| {
    let forms = [
        r"PID: (\d+)(?: Comm: .*?(?: Not tainted| Tainted:|$))?",
        r"CPU#\d+: .*/(\d+)$",
        r"by task .*/(\d+)",
        r"task .*:(\d+) blocked for",
        r"\[[^\]]*:(\d+)\]$",
        r"scheduling while atomic: .*/(\d+)/",
    ];
    Regex::new(&forms.join("|")).unwrap_or_else(|e| unreachable!("constant pattern: {e}"))
});

/// Symbols, modules and source files of KVM. Its chatter, which may follow a complaint, has none.
static KVM: LazyLock<Regex> = LazyLock::new(|| {
    let symbol = r"_*((?:kvm|vmx|svm|nested|vgic|tdp_mmu|gmap)\w*)";
    let names = format!(r"\[kvm\w*\]|\b{symbol}\+0x|\bin {symbol}$|/kvm/");
    Regex::new(&names).unwrap_or_else(|e| unreachable!("constant pattern: {e}"))
});

/// What a kernel that is itself a guest of KVM has in many a backtrace.
const GUEST_SIDE: [&str; 14] = [
    "kvm_clock",
    "kvm_sched_clock",
    "kvm_guest",
    "kvm_wait",
    "kvm_kick_cpu",
    "kvm_steal_clock",
    "kvm_async_pf_task",
    "kvm_io_delay",
    "kvm_flush_tlb",
    "kvm_send_ipi",
    "kvm_smp",
    "kvm_pv_",
    "kvm_crash",
    "kvm_read_and_reset_apf",
];

/// The lines of one complaint, from its first sign of trouble on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// What the kernel wrote.
    pub lines: Vec<String>,
    /// Process groups of the threads that it names, as far as they were there when it was read.
    pub groups: Vec<Pid>,
    of_kvm: bool,
    /// Within the list of loaded modules, which says nothing.
    in_modules: bool,
}

impl Complaint {
    /// Begins with this line.
    pub(super) fn new(line: String) -> Self {
        let mut complaint = Self::default();
        complaint.push(line);
        complaint
    }

    /// Takes the next line.
    pub(super) fn push(&mut self, line: String) {
        self.groups.extend(threads(&line).into_iter().filter_map(group_of));
        self.in_modules = match self.in_modules {
            true => !line.starts_with("CPU: "),
            false => line.starts_with("Modules linked in:"),
        };
        self.of_kvm |= !self.in_modules && names_kvm(&line);
        if self.lines.len() < MAX_LINES {
            self.lines.push(line);
        }
    }

    /// Whether its last line ends it.
    pub(super) fn has_ended(&self) -> bool {
        self.lines.last().is_some_and(|line| line.starts_with("---[ end "))
    }

    /// Whether it holds more than the line above a complaint's first.
    pub(super) fn has_begun(&self) -> bool {
        self.lines.iter().any(|line| trouble::is_sign(line))
    }

    /// One that names nobody, and counts as KVM's.
    pub(super) fn unsigned(line: String) -> Self {
        Self { lines: vec![line], of_kvm: true, ..Self::default() }
    }

    /// Whether it names KVM.
    pub fn is_of_kvm(&self) -> bool {
        self.of_kvm
    }
}

/// The threads that a line names.
fn threads(line: &str) -> Vec<i32> {
    let number = |found: regex::Captures<'_>| {
        found.iter().skip(1).flatten().next().and_then(|number| number.as_str().parse().ok())
    };
    THREAD.captures_iter(line).filter_map(number).collect()
}

/// The kernel numbers threads as the initial namespace does: elsewhere its numbers are other threads' here.
fn group_of(thread: i32) -> Option<Pid> {
    /// PROC_PID_INIT_INO of the kernel.
    const INITIAL: u64 = 0xefff_fffc;
    static NUMBERS_ARE_OURS: LazyLock<bool> = LazyLock::new(|| {
        fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
    });
    let named = thread > 0 && *NUMBERS_ARE_OURS;
    named.then(|| getpgid(Some(Pid::from_raw(thread))).ok()).flatten()
}

/// Whether a line names a part of KVM; the name of a thread may be anything.
fn names_kvm(line: &str) -> bool {
    let line = THREAD.replace_all(line, "");
    KVM.captures_iter(&line).any(|found| {
        let symbol = found.get(1).or(found.get(2)).map_or("", |symbol| symbol.as_str());
        !GUEST_SIDE.iter().any(|name| symbol.starts_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_named_by_symbols_modules_and_files() {
        for line in [
            "WARNING: CPU: 0 PID: 7 at arch/x86/kvm/mmu.c:5 f+0x1/0x2 [kvm]",
            "WARNING: virt/kvm/dirty_ring.c:53 at foo+0x1/0x2, CPU#1: a/7",
            " kvm_vcpu_ioctl+0x23a/0x640",
            "RIP: 0010:vmx_vcpu_run+0x12/0x30",
            "BUG: KASAN: slab-use-after-free in kvm_irqfd",
            " svm_handle_exit+0x12/0x30 [kvm_amd]",
            " __vgic_v3_save_state+0x12/0x30",
        ] {
            assert!(names_kvm(line), "{line}");
        }
        for line in [
            "WARNING: CPU: 0 PID: 7 at drivers/gpu/drm/amd/amdgpu.c:5 f+0x1/0x2 [amdgpu]",
            "CPU: 1 PID: 77 Comm: kvm Not tainted 6.12.0 #1",
            "CPU: 1 UID: 0 PID: 77 Comm: kvm-conformance Tainted: G        W",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [kvm_vcpu:77]",
            "WARNING: fs/nfs/file.c:100 at nfs_x+0x1/0x2 [nfs], CPU#1: kvm_x/77",
            " kvm_clock_get_cycles+0x11/0x20",
            " kvm_wait+0x2f/0x40",
            "Hypervisor detected: KVM",
            "kvm [77]: vcpu0, guest rIP: 0x400 unhandled wrmsr: 0x1d9 data 0x0",
            "kvm_amd: Nested Virtualization enabled",
        ] {
            assert!(!names_kvm(line), "{line}");
        }
    }

    #[test]
    fn threads_are_named_in_many_forms() {
        for line in [
            "WARNING: CPU: 1 PID: 77 at arch/x86/kvm/x86.c:100 kvm_foo+0x1/0x2 [kvm]",
            "CPU: 1 UID: 0 PID: 77 Comm: CPU 0/KVM Not tainted 6.12.0",
            "WARNING: arch/x86/kvm/x86.c:100 at kvm_foo+0x1/0x2 [kvm], CPU#1: CPU 0/KVM/77",
            "Read of size 8 at addr ffff888100000000 by task CPU 0/KVM/77",
            "INFO: task kworker/0:1:77 blocked for more than 120 seconds.",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [kvm:77]",
            "BUG: scheduling while atomic: kvm/77/0x00000002",
        ] {
            assert_eq!(threads(line), [77], "{line}");
        }
        assert!(threads("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:").is_empty());
    }

    #[test]
    fn loaded_modules_say_nothing() {
        let mut complaint = Complaint::new("WARNING: CPU: 0 PID: 7 at fs/x.c:5 f+0x1/0x2".into());
        for line in ["Modules linked in: ext4", " kvm_amd kvm [last unloaded: kvm]"] {
            complaint.push(line.into());
        }
        complaint.push("CPU: 0 PID: 7 Comm: a Not tainted".into());
        assert!(!complaint.is_of_kvm());
        complaint.push(" kvm_vm_ioctl+0x1/0x2 [kvm]".into());
        assert!(complaint.is_of_kvm());
    }

    #[test]
    fn a_thread_of_ours_is_known_by_its_group() {
        let me = nix::unistd::gettid();
        let complaint = Complaint::new(format!("WARNING: CPU: 0 PID: {me} at fs/x.c:5 f+0x1/0x2"));
        // In a namespace of its own the numbers of the kernel are not those that we see.
        if group_of(1).is_some() || group_of(me.as_raw()).is_some() {
            assert_eq!(complaint.groups, [nix::unistd::getpgrp()]);
        }
    }
}
