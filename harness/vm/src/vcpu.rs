//! A virtual CPU.
#![expect(unsafe_code, reason = "KVM_RUN, and the pages that it shares with us")]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};

use kvm_bindings::kvm_run;
use kvm_ioctls::{VcpuFd, VmFd};
use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::context::Context;
use super::exit::{Exit, ExitCounts};
use super::last_words::Known;
use super::request::{KVM_ENABLE_CAP, KVM_INTERRUPT, KVM_RUN};
use super::{Ram, System, raw_ioctl, stats, together, watchdog};
use crate::case::GuestFn;
use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::{arch, record};

/// A vCPU and what the run loop knows of it.
#[derive(Debug)]
pub struct Vcpu {
    // Dropped before the descriptor that it names.
    known: Known,
    fd: VcpuFd,
    pub(crate) index: u32,
    pub(crate) ram: Arc<Ram>,
    pub(crate) vm: Arc<arch::VmState>,
    vm_fd: Weak<VmFd>,
    mmap_size: usize,
    args: [u64; 6],
    exits: ExitCounts,
    pub(crate) last_log: Option<String>,
    /// The context that sent the last message.
    pub(crate) sender: Context,
}

const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<Vcpu>();
};

impl Vcpu {
    pub(crate) fn new(
        mut fd: VcpuFd,
        index: u32,
        ram: Arc<Ram>,
        vm: Arc<arch::VmState>,
        vm_fd: Weak<VmFd>,
    ) -> TestResult<Self> {
        let mmap_size = System::get()?.vcpu_mmap_size();
        let vm_raw = vm_fd.upgrade().map(|vm| vm.as_raw_fd());
        Ok(Self {
            known: Known::new(fd.as_raw_fd(), vm_raw, fd.get_kvm_run(), index),
            fd,
            index,
            ram,
            vm,
            vm_fd,
            mmap_size,
            args: [0; 6],
            exits: ExitCounts::default(),
            last_log: None,
            sender: Context::of_vcpu(index),
        })
    }

    /// The wrapped descriptor, for ioctls that kvm-ioctls knows.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The wrapped descriptor, for those that need it exclusively.
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// This vCPU's index and KVM id.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Sets the vCPU into the architecture's full mode at the start of `guest`.
    ///
    /// # Errors
    ///
    /// KVM refuses the state, or the payload lacks the function.
    pub fn start_at(&mut self, guest: GuestFn) -> TestResult {
        let entry = Payload::get()?.entry(guest)?;
        arch::start_vcpu(self, entry, self.args)
    }

    /// Sets the arguments that the guest function reads by `Guest::arg`; before the first run.
    ///
    /// # Panics
    ///
    /// More than six.
    pub fn set_args(&mut self, args: &[u64]) {
        self.args[..args.len()].copy_from_slice(args);
        arch::write_args(self, self.args);
    }

    /// `kvm_run`.
    pub fn kvm_run(&mut self) -> &mut kvm_run {
        self.fd.get_kvm_run()
    }

    /// Makes the next KVM_RUN return EINTR before it enters the guest.
    pub fn set_immediate_exit(&mut self, on: bool) {
        self.fd.set_kvm_immediate_exit(on.into());
    }

    /// Completes the instruction of the last I/O exit without running the guest further, so that
    /// its registers are consistent (api.rst 5, KVM_EXIT_IO). On a new vCPU it does all that the first
    /// KVM_RUN does before it enters the guest.
    ///
    /// # Errors
    ///
    /// KVM_RUN comes back with anything but EINTR.
    pub fn complete_exit(&mut self) -> TestResult {
        self.set_immediate_exit(true);
        let exit = self.run_once()?;
        self.set_immediate_exit(false);
        match exit {
            Exit::Intr => Ok(()),
            other => Err(Failure::Fail(self.describe(&format!(
                "KVM_RUN with immediate_exit came back with {other:x?} instead of EINTR"
            )))),
        }
    }

    /// One KVM_RUN.
    ///
    /// # Errors
    ///
    /// The deadline has passed: `Failure::Timeout` with the vCPU's state. Another thread of the test has
    /// failed.
    pub fn run_once(&mut self) -> TestResult<Exit> {
        if self.exits.total() == 0 {
            arch::before_first_run(&self.vm)?;
        }
        let raw = self.as_raw_fd();
        let run: *mut kvm_run = self.fd.get_kvm_run();
        let running = watchdog::Running::enter(run);
        // SAFETY: the descriptor is a vCPU's; KVM_RUN takes no pointer.
        let result = arch::around_kvm_run(|| unsafe { libc::ioctl(raw, KVM_RUN as _, 0) });
        let errno = if result < 0 { Errno::last_raw() } else { 0 };
        drop(running);
        self.known.count_exit();
        self.exits.add(self.fd.get_kvm_run().exit_reason, errno);
        let exit = Exit::decode(self.fd.get_kvm_run(), errno);
        if watchdog::expired() {
            return Err(self.out_of_time());
        }
        if together::is_stopped() {
            return Err(together::stopped());
        }
        Ok(exit)
    }

    /// Tells everything about the vCPU at the deadline. Where several run, the test ends with the
    /// words of one, and the runner adds those of the others.
    fn out_of_time(&mut self) -> Failure {
        record::stats(&format!("vCPU {}", self.index), stats::nonzero(&self.fd));
        let told = self.describe("the deadline has passed");
        if let Some(vm) = self.vm_fd.upgrade() {
            record::stats("VM", stats::nonzero(&*vm));
        }
        watchdog::tell(&told);
        Failure::Timeout(told)
    }

    /// Offset in `kvm_run` and length of the last I/O or MMIO exit's data.
    fn data_range(&mut self, exit: &Exit) -> Option<(usize, usize)> {
        match *exit {
            Exit::Io { size, count, .. } => {
                let run = self.fd.get_kvm_run();
                // SAFETY: the exit was an I/O exit, so this member is the one that was written.
                let offset = unsafe { run.__bindgen_anon_1.io.data_offset } as usize;
                let len = usize::from(size) * count as usize;
                (offset.checked_add(len)? <= self.mmap_size).then_some((offset, len))
            }
            Exit::Mmio { len, .. } => {
                let run = self.fd.get_kvm_run();
                // SAFETY: an address inside the union, not yet read.
                let data = unsafe { &raw const run.__bindgen_anon_1.mmio.data };
                Some((data as usize - &raw const *run as usize, (len as usize).min(8)))
            }
            _ => None,
        }
    }

    /// The data of the exit (empty for one without).
    pub(crate) fn exit_data(&mut self, exit: &Exit) -> &mut [u8] {
        let Some((offset, len)) = self.data_range(exit) else { return &mut [] };
        let run: *mut kvm_run = self.fd.get_kvm_run();
        // SAFETY: `data_range` stays inside the mapping, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().add(offset), len) }
    }

    /// The data of the exit, if they are one 32-bit word.
    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(dead_code, reason = "other doorbells come in registers")
    )]
    pub(crate) fn exit_word(&mut self, exit: &Exit) -> Option<u32> {
        self.exit_data(exit).try_into().ok().map(u32::from_ne_bytes)
    }

    /// `KVM_ENABLE_CAP` on the vCPU.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result<(), Errno> {
        let mut bytes = [0; size_of::<kvm_bindings::kvm_enable_cap>()];
        bytes[..4].copy_from_slice(&cap.to_ne_bytes());
        bytes[8..40].copy_from_slice(args.as_bytes());
        self.raw(KVM_ENABLE_CAP, &mut bytes).map(drop)
    }

    /// `KVM_INTERRUPT` of `vector`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn interrupt(&self, vector: u32) -> Result<(), Errno> {
        self.raw(KVM_INTERRUPT, &mut vector.to_ne_bytes()).map(|_| ())
    }

    /// An ioctl on the vCPU with a structure of plain bytes ([`raw_ioctl`]).
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn raw(&self, request: u64, bytes: &mut [u8]) -> Result<i32, Errno> {
        raw_ioctl(self, request, bytes)
    }

    /// What a person needs to see of a vCPU that ended in an unexpected way.
    pub fn describe(&mut self, what: &str) -> String {
        // Of a vCPU that runs a guest of its own, the level matters even where it is the first.
        let who = match arch::running(self) {
            Some(context) => format!("vCPU {} in L{}", self.index, context.level),
            None => format!("vCPU {}", self.index),
        };
        let mut text = format!("{who}: {what} (after {})", self.exits);
        if let Some(by_reason) = self.exits.by_reason() {
            text.push_str(&format!("\nexits: {by_reason}"));
        }
        text.push_str(&arch::describe_vcpu(self));
        if let Some(line) = &self.last_log {
            text.push_str(&format!("\nlast log line: {line}"));
        }
        text
    }
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
