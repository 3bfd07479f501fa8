//! A virtual CPU.
#![expect(unsafe_code, reason = "KVM_RUN, and the pages that it shares with us")]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Weak};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use nix::errno::Errno;
use zerocopy::IntoBytes;

use super::context::Context;
use super::exit::{Exit, ExitCounts};
use super::last_words::Known;
use super::request::{KVM_ENABLE_CAP, KVM_INTERRUPT, KVM_RUN};
use super::{Ioctl, Ram, System, raw_ioctl, stats, together, watchdog};
use crate::case::GuestFn;
use crate::failure::{Failure, TestResult};
use crate::payload::Payload;
use crate::state::{self, Core, VcpuEntry};
use crate::{arch, record, variant};

/// A vCPU and what the run loop knows of it.
#[derive(Debug)]
pub struct Vcpu {
    // Dropped before the descriptor that it names.
    known: Known,
    fd: VcpuFd,
    pub(crate) index: u32,
    pub(crate) ram: Arc<Ram>,
    pub(crate) vm: Arc<arch::VmState>,
    core: Weak<Core>,
    /// Another descriptor of one that the test has ([`Vcpu::twin`]).
    is_twin: bool,
    mmap_size: usize,
    args: [u64; 6],
    exits: ExitCounts,
    steps: u64,
    pub(crate) last_log: Option<String>,
    /// The context that sent the last message.
    pub(crate) sender: Context,
}

const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<Vcpu>();
};

impl Vcpu {
    /// A statistic of the vCPU; `None` where this KVM counts no such thing.
    pub fn stat(&self, name: &str) -> Option<u64> {
        stats::stat(self, name)
    }

    pub(crate) fn new(
        fd: VcpuFd,
        index: u32,
        ram: Arc<Ram>,
        vm: Arc<arch::VmState>,
        core: &Arc<Core>,
    ) -> TestResult<Self> {
        let mut vcpu = Self::around(fd, index, ram, vm, core)?;
        let run = std::ptr::from_mut(vcpu.kvm_run()) as usize;
        let raw = vcpu.as_raw_fd();
        core.inventory().vcpus.push(VcpuEntry::new(index, raw, run));
        Ok(vcpu)
    }

    fn around(
        mut fd: VcpuFd,
        index: u32,
        ram: Arc<Ram>,
        vm: Arc<arch::VmState>,
        core: &Arc<Core>,
    ) -> TestResult<Self> {
        let mmap_size = System::get()?.vcpu_mmap_size();
        Ok(Self {
            known: Known::new(fd.as_raw_fd(), Some(core.as_raw_fd()), fd.get_kvm_run(), index),
            fd,
            index,
            ram,
            vm,
            core: Arc::downgrade(core),
            is_twin: false,
            mmap_size,
            args: [0; 6],
            exits: ExitCounts::default(),
            steps: 0,
            last_log: None,
            sender: Context::of_vcpu(index),
        })
    }

    /// Another descriptor of a vCPU, for what is to be done with it while its owner is elsewhere.
    pub(crate) fn twin(core: &Arc<Core>, ram: &Arc<Ram>, entry: &VcpuEntry) -> TestResult<Self> {
        // SAFETY: a system call without pointers.
        let raw = Errno::result(unsafe { libc::fcntl(entry.fd, libc::F_DUPFD_CLOEXEC, 0) })
            .map_err(|e| Failure::Error(format!("dup of a vCPU's descriptor: {e}")))?;
        // SAFETY: the descriptor is new, a vCPU's, and nobody else's.
        let fd = unsafe { core.fd.create_vcpu_from_rawfd(raw) }.ioctl("mmap of kvm_run")?;
        let mut twin = Self::around(fd, entry.index, Arc::clone(ram), Arc::default(), core)?;
        twin.is_twin = true;
        Ok(twin)
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
            self.with_entry(|entry| entry.has_run = true);
        }
        let raw = self.as_raw_fd();
        let run: *mut kvm_run = self.fd.get_kvm_run();
        let mut tries = 0;
        let errno = loop {
            let around = variant::Around::begin(tries);
            let running = watchdog::Running::enter(run, together::is_stopped);
            // SAFETY: the descriptor is a vCPU's; KVM_RUN takes no pointer.
            let result = arch::around_kvm_run(|| unsafe { libc::ioctl(raw, KVM_RUN as _, 0) });
            let errno = if result < 0 { Errno::last_raw() } else { 0 };
            drop(running);
            self.known.count_exit();
            tries += 1;
            let is_ours = around.is_some_and(|around| around.end(errno));
            if !is_ours || self.immediate_exit() || watchdog::expired() || together::is_stopped() {
                break errno;
            }
        };
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
        if let Some(core) = self.core.upgrade() {
            record::stats("VM", stats::nonzero(&*core));
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
        self.raw(KVM_ENABLE_CAP, &mut bytes)?;
        self.with_entry(|entry| entry.caps.push((cap, args)));
        Ok(())
    }

    /// What its VM keeps of it.
    pub(crate) fn with_entry(&self, change: impl FnOnce(&mut VcpuEntry)) {
        if let Some(core) = self.core.upgrade()
            && let Some(entry) = core.inventory().vcpu(self.as_raw_fd())
        {
            change(entry);
        }
    }

    fn immediate_exit(&mut self) -> bool {
        self.fd.get_kvm_run().immediate_exit != 0
    }

    /// What its VM shares with it, as long as there is one.
    pub(crate) fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade()
    }

    /// Counts a step of the run loop; gives its number, from 1.
    pub(crate) fn count_step(&mut self) -> u64 {
        self.steps += 1;
        self.steps
    }

    /// Moves the VM, which is at rest, unless the vCPU has yet to run. Gives the exit of a vCPU that comes to
    /// the next one when its last is completed: then it has not moved.
    pub(crate) fn move_vm(&mut self, core: &Arc<Core>) -> TestResult<Option<Exit>> {
        if self.exits.total() == 0 {
            return Ok(None);
        }
        self.set_immediate_exit(true);
        let exit = self.run_once()?;
        self.set_immediate_exit(false);
        match exit {
            Exit::Intr => state::move_in_place(core, &self.ram).map(|()| None),
            next => Ok(Some(next)),
        }
    }

    /// `KVM_SET_GUEST_DEBUG`.
    ///
    /// # Errors
    ///
    /// The errno.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    pub fn set_guest_debug(&self, debug: &kvm_bindings::kvm_guest_debug) -> Result<(), Errno> {
        self.fd.set_guest_debug(debug).errno()?;
        self.with_entry(|entry| entry.guest_debug = Some(*debug));
        Ok(())
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

impl Drop for Vcpu {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade()
            && !self.is_twin
        {
            let raw = self.as_raw_fd();
            core.inventory().vcpus.retain(|entry| entry.fd != raw);
        }
    }
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
