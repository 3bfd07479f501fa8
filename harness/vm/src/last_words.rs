//! What a worker says of its vCPUs when its host half hangs elsewhere than in KVM_RUN.
//!
//! The runner sends SIGUSR2 before it kills such a worker. The handler may have interrupted
//! anything, the allocator included: it makes system calls and uses atomics and its stack, takes no
//! lock and allocates nothing. Its words are lines of [`Event`](crate::record::Event), so that the
//! runner needs no other reader.
#![expect(unsafe_code, reason = "a signal handler with system calls")]

use std::fmt::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use kvm_bindings::kvm_run;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::request::{KVM_GET_ONE_REG, KVM_GET_STATS_FD};
use super::stats;
use crate::arch;

/// vCPUs that are told of.
const SLOTS: usize = 64;
/// A longer line is left out.
const LINE_BYTES: usize = 16 << 10;
/// Words of the longest `kvm_regs`, and more.
const MOST_REGS: usize = 128;
/// No descriptor.
const FREE: RawFd = -1;

/// A vCPU that lives.
struct Slot {
    vcpu: AtomicI32,
    vm: AtomicI32,
    run: AtomicPtr<kvm_run>,
    index: AtomicU32,
    exits: AtomicU64,
}

static VCPUS: [Slot; SLOTS] = [const {
    Slot {
        vcpu: AtomicI32::new(FREE),
        vm: AtomicI32::new(FREE),
        run: AtomicPtr::new(std::ptr::null_mut()),
        index: AtomicU32::new(0),
        exits: AtomicU64::new(0),
    }
}; SLOTS];
static EVENTS: AtomicI32 = AtomicI32::new(FREE);

/// Makes SIGUSR2 mean "your last words" in this process, to be written to `events`.
///
/// # Panics
///
/// The kernel refuses the handler.
pub fn install(events: RawFd) {
    EVENTS.store(events, Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_end), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler keeps to what the head of this file says.
    unsafe { sigaction(Signal::SIGUSR2, &action) }.expect("a handler for SIGUSR2");
}

/// Keeps a vCPU known while it lives.
#[derive(Debug)]
pub(super) struct Known(Option<usize>);

impl Known {
    pub(super) fn new(vcpu: RawFd, vm: Option<RawFd>, run: *mut kvm_run, index: u32) -> Self {
        let free = VCPUS.iter().position(|slot| {
            slot.vcpu.compare_exchange(FREE, vcpu, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        });
        if let Some(slot) = free.map(|at| &VCPUS[at]) {
            slot.index.store(index, Ordering::SeqCst);
            slot.exits.store(0, Ordering::SeqCst);
            slot.vm.store(vm.unwrap_or(FREE), Ordering::SeqCst);
            // Without `run`, the slot is not looked at yet.
            slot.run.store(run, Ordering::SeqCst);
        }
        Self(free)
    }

    /// Another KVM_RUN came back.
    pub(super) fn count_exit(&self) {
        if let Some(at) = self.0 {
            VCPUS[at].exits.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(slot) = self.0.map(|at| &VCPUS[at]) {
            slot.run.store(std::ptr::null_mut(), Ordering::SeqCst);
            slot.vcpu.store(FREE, Ordering::SeqCst);
        }
    }
}

/// A line under construction.
struct Line {
    bytes: [u8; LINE_BYTES],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Writes the line that `build` makes, if it fits.
fn say(build: impl FnOnce(&mut Line) -> fmt::Result) {
    let mut line = Line { bytes: [0; LINE_BYTES], len: 0 };
    if build(&mut line).is_ok() {
        // SAFETY: a system call with a buffer of ours. What is not written is not told.
        unsafe { libc::write(EVENTS.load(Ordering::SeqCst), line.bytes.as_ptr().cast(), line.len) };
    }
}

extern "C" fn on_end(_: libc::c_int) {
    let mut vm = FREE;
    for slot in &VCPUS {
        let (vcpu, run) = (slot.vcpu.load(Ordering::SeqCst), slot.run.load(Ordering::SeqCst));
        if vcpu == FREE || run.is_null() {
            continue;
        }
        vm = slot.vm.load(Ordering::SeqCst);
        let (index, exits) = (slot.index.load(Ordering::SeqCst), slot.exits.load(Ordering::SeqCst));
        let pc = program_counter(vcpu, run);
        say(|line| {
            write!(line, r#"{{"event":"vcpu","index":{index},"exits":{exits}"#)?;
            if let Some(pc) = pc {
                write!(line, r#","pc":{pc}"#)?;
            }
            line.write_str("}\n")
        });
        say_stats(vcpu, format_args!("vCPU {index}"));
    }
    if vm != FREE {
        say_stats(vm, format_args!("VM"));
    }
}

/// Where an architecture keeps a vCPU's program counter.
#[expect(dead_code, reason = "each architecture has one of them")]
pub(crate) enum ProgramCounter {
    /// In the register of this id.
    OneReg(u64),
    /// In what this `KVM_GET_REGS` gives, at this offset.
    Regs(u64, usize),
    /// In `kvm_run` at this offset.
    Run(usize),
}

fn program_counter(vcpu: RawFd, run: *const kvm_run) -> Option<u64> {
    match arch::PROGRAM_COUNTER {
        ProgramCounter::OneReg(id) => {
            let mut value = 0_u64;
            let reg: [u64; 2] = [id, &raw mut value as u64];
            // SAFETY: the kernel writes as many bytes as the id says, which is of 64 bits.
            let result = unsafe { libc::ioctl(vcpu, KVM_GET_ONE_REG as _, &raw const reg) };
            (result == 0).then_some(value)
        }
        ProgramCounter::Regs(request, offset) => {
            let mut regs = [0_u64; MOST_REGS];
            // SAFETY: no architecture's `kvm_regs` is longer.
            let result = unsafe { libc::ioctl(vcpu, request as _, &raw mut regs) };
            (result == 0).then(|| regs[offset / size_of::<u64>()])
        }
        ProgramCounter::Run(offset) => {
            // SAFETY: a vCPU takes its slot back before it unmaps `run`; the member has 64 bits.
            Some(unsafe { run.byte_add(offset).cast::<u64>().read_volatile() })
        }
    }
}

/// What KVM has counted of a vCPU or VM.
fn say_stats(fd: RawFd, of: fmt::Arguments<'_>) {
    // SAFETY: KVM_GET_STATS_FD takes no pointer. Any other kind of file refuses it.
    let stats = unsafe { libc::ioctl(fd, KVM_GET_STATS_FD as _, 0) };
    if stats < 0 {
        return;
    }
    // SAFETY: the kernel just made this descriptor.
    let stats = unsafe { OwnedFd::from_raw_fd(stats) };
    let read = |offset, bytes: &mut [u8]| read_exact(&stats, offset, bytes);
    say(|line| {
        write!(line, r#"{{"event":"stats","of":"{of}","values":{{"#)?;
        let mut comma = "";
        stats::visit(read, |name, value| {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if value != 0 && plain && write!(line, r#"{comma}"{name}":{value}"#).is_ok() {
                comma = ",";
            }
        });
        line.write_str("}}\n")
    });
}

fn read_exact(file: &OwnedFd, offset: u64, bytes: &mut [u8]) -> Option<()> {
    let got = nix::sys::uio::pread(file, bytes, offset as libc::off_t).ok()?;
    (got == bytes.len()).then_some(())
}
