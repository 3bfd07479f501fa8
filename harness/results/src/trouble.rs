//! Signs of trouble in a kernel's log: the one list by which the runner, the lab and the mutants tell a
//! kernel that found itself in the wrong from one that chats.

use std::sync::LazyLock;

use regex::Regex;

static SIGN: LazyLock<Regex> = LazyLock::new(|| {
    let patterns = [
        r"\bWARNING: (?:CPU:|.*\bat\b|possible|suspicious|inconsistent|bad unlock)",
        r"\bBUG: ",
        r"kernel BUG at",
        r"\bOops\b",
        r"\b(?:KASAN|KCSAN|KMSAN|KFENCE|UBSAN): ",
        r"possible (?:circular|recursive) locking",
        r"inconsistent lock state",
        r"rcu.*(?:detected|self-detected).*stall",
        r"blocked for more than \d+ seconds",
        r"(?:soft|hard) lockup",
        r"^general protection fault",
        r"Unable to handle kernel",
        r"unchecked MSR access error",
        r"refcount_t: ",
        r"list_(?:add|del) corruption",
        r"Kernel panic",
        r"Internal error: ",
        r"Bad page (?:state|map)",
    ];
    Regex::new(&patterns.join("|")).unwrap_or_else(|e| unreachable!("constant pattern: {e}"))
});

/// What a kernel says when it dies, or Hercules of one that has stopped.
const FATAL: [&str; 2] = ["Kernel panic - not syncing", "Disabled wait state"];

/// Whether the kernel says in this line that something is wrong with it.
pub fn is_sign(line: &str) -> bool {
    SIGN.is_match(line)
}

/// The line that comes before some complaints.
pub const CUT_HERE: &str = "------------[ cut here";

/// Whether a complaint begins with this line: with a sign, or with [`CUT_HERE`].
pub fn begins(line: &str) -> bool {
    line.contains(CUT_HERE) || is_sign(line)
}

/// Whether the kernel does not go on after this line.
pub fn is_fatal(line: &str) -> bool {
    FATAL.iter().any(|sign| line.contains(sign))
}

/// The line that says most of what is wrong: the first sign, else the first line.
pub fn headline<'a>(lines: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut first = None;
    for line in lines {
        if is_sign(line) {
            return Some(line);
        }
        first.get_or_insert(line);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_trouble_differ_from_chatter() {
        for line in [
            "WARNING: CPU: 1 PID: 77 at arch/x86/kvm/x86.c:100 kvm_foo+0x1/0x2 [kvm]",
            "WARNING: possible circular locking dependency detected",
            "BUG: KASAN: slab-use-after-free in kvm_irqfd",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: task kvm:12 blocked for more than 120 seconds.",
            "Oops: 0000 [#1] SMP",
            "WARNING: arch/x86/kvm/x86.c:100 at kvm_foo+0x1/0x2 [kvm], CPU#1: qemu/77",
            "WARNING: suspicious RCU usage",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [kvm:77]",
            "rcu: INFO: rcu_sched self-detected stall on CPU",
            "kernel BUG at virt/kvm/kvm_main.c:100!",
            "BUG: KFENCE: use-after-free read in kvm_destroy_vm",
            "UBSAN: shift-out-of-bounds in arch/x86/kvm/mmu.c:5:1",
            "refcount_t: underflow; use-after-free.",
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1]",
        ] {
            assert!(is_sign(line), "{line}");
        }
        for line in [
            "kvm: vcpu0, guest rIP: 0x400 unhandled wrmsr: 0x1d9 data 0x0",
            "kvm_amd: Nested Virtualization enabled",
            "WARNING: this is only advice",
        ] {
            assert!(!is_sign(line), "{line}");
        }
    }

    #[test]
    fn a_complaint_is_named_by_its_first_sign() {
        let cut = "------------[ cut here ]------------";
        let warning = "WARNING: CPU: 1 PID: 77 at arch/x86/kvm/x86.c:100 kvm_foo+0x1/0x2 [kvm]";
        assert!(begins(cut) && !is_sign(cut) && begins(warning));
        assert_eq!(headline([cut, warning, "Modules linked in: kvm"]), Some(warning));
        assert_eq!(headline(["quiet"]), Some("quiet"));
        assert_eq!(headline([]), None);
    }
}
