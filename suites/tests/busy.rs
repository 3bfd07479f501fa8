//! A KVM that opens but makes no VM, because another hypervisor has the CPU: told in one line.
#![expect(unsafe_code, reason = "the filter is installed between fork and exec")]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

const RUNNER: &str = env!("CARGO_BIN_EXE_kvm-conformance");
/// `KVM_CREATE_VM` (linux/kvm.h).
const KVM_CREATE_VM: u64 = 0xae01;
const SYS_IOCTL: i64 = nix::libc::SYS_ioctl;

/// A filter that answers `KVM_CREATE_VM` with an errno.
fn no_vm(errno: i32) -> BpfProgram {
    let request =
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, KVM_CREATE_VM);
    let rule = SeccompRule::new(vec![request.expect("a condition")]).expect("a rule");
    let arch: TargetArch = std::env::consts::ARCH.try_into().expect("an architecture of the crate");
    SeccompFilter::new(
        [(SYS_IOCTL, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        arch,
    )
    .and_then(TryInto::try_into)
    .expect("a filter")
}

fn told_with(errno: i32) -> (Option<i32>, String) {
    let filter = no_vm(errno);
    let install = move || {
        seccompiler::apply_filter(&filter).map_err(|error| std::io::Error::other(error.to_string()))
    };
    let mut command = Command::new(RUNNER);
    command.args(["--host", "native", "-g", "smoke"]);
    // SAFETY: installing the filter is two system calls; it allocates only on its way to an error.
    let output = unsafe { command.pre_exec(install) }.output().expect("the runner starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_kvm_that_makes_no_vm_is_told() {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        eprintln!("skipped: no usable /dev/kvm");
        return;
    }
    let (code, told) = told_with(nix::libc::EBUSY);
    assert_eq!(code, Some(2), "{told}");
    assert_eq!(
        told,
        "error: /dev/kvm is busy: another hypervisor uses the CPU's virtualization extensions; \
         stop it\n"
    );
    let (code, told) = told_with(nix::libc::ENOMEM);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("KVM_CREATE_VM"), "{told}");
}
