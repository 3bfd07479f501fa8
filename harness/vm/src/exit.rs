//! Why KVM_RUN came back (api.rst 5), as values.
#![expect(unsafe_code, reason = "reads the union in kvm_run that exit_reason selects")]

use std::fmt;

use kvm_bindings::{self as kvm, kvm_run};

/// Direction of a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDirection {
    /// The guest reads.
    In,
    /// The guest writes.
    Out,
}

/// `KVM_EXIT_INTERNAL_ERROR`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InternalError {
    /// `KVM_INTERNAL_ERROR_*`.
    pub suberror: u32,
    /// Valid words of `data`.
    pub ndata: u32,
    /// Suberror-specific words.
    pub data: [u64; 16],
}

impl InternalError {
    /// The bytes of the instruction that could not be emulated, where KVM gives them.
    pub fn insn_bytes(&self) -> Option<Vec<u8>> {
        let has_bytes = self.suberror == kvm::KVM_INTERNAL_ERROR_EMULATION
            && self.ndata >= 3
            && self.data[0] & u64::from(kvm::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)
                != 0;
        let bytes = || {
            let raw: Vec<u8> = self.data[1..4].iter().flat_map(|w| w.to_ne_bytes()).collect();
            raw[1..=usize::from(raw[0]).min(15)].to_vec()
        };
        has_bytes.then(bytes)
    }
}

impl fmt::Debug for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.suberror {
            kvm::KVM_INTERNAL_ERROR_EMULATION => "emulation failure",
            kvm::KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
            kvm::KVM_INTERNAL_ERROR_DELIVERY_EV => "exit during event delivery",
            kvm::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected hardware exit",
            _ => "unknown",
        };
        write!(f, "suberror {} ({kind})", self.suberror)?;
        match self.insn_bytes() {
            Some(bytes) => write!(f, ", instruction bytes {bytes:02x?}"),
            None => write!(f, ", data {:x?}", &self.data[..self.ndata.min(16) as usize]),
        }
    }
}

/// `KVM_EXIT_*`, by number.
const REASONS: [&str; 41] = [
    "UNKNOWN",
    "EXCEPTION",
    "IO",
    "HYPERCALL",
    "DEBUG",
    "HLT",
    "MMIO",
    "IRQ_WINDOW_OPEN",
    "SHUTDOWN",
    "FAIL_ENTRY",
    "INTR",
    "SET_TPR",
    "TPR_ACCESS",
    "S390_SIEIC",
    "S390_RESET",
    "DCR",
    "NMI",
    "INTERNAL_ERROR",
    "OSI",
    "PAPR_HCALL",
    "S390_UCONTROL",
    "WATCHDOG",
    "S390_TSCH",
    "EPR",
    "SYSTEM_EVENT",
    "S390_STSI",
    "IOAPIC_EOI",
    "HYPERV",
    "ARM_NISV",
    "X86_RDMSR",
    "X86_WRMSR",
    "DIRTY_RING_FULL",
    "AP_RESET_HOLD",
    "X86_BUS_LOCK",
    "XEN",
    "RISCV_SBI",
    "RISCV_CSR",
    "NOTIFY",
    "LOONGARCH_IOCSR",
    "MEMORY_FAULT",
    "TDX",
];
const _: () = assert!(kvm::KVM_EXIT_MEMORY_FAULT == 39 && kvm::KVM_EXIT_X86_WRMSR == 30);

/// How often a vCPU came back from KVM_RUN, and why.
#[derive(Debug)]
pub(crate) struct ExitCounts {
    total: u64,
    /// The last one counts what has no name.
    by_reason: [u64; REASONS.len() + 1],
}

impl Default for ExitCounts {
    fn default() -> Self {
        Self { total: 0, by_reason: [0; _] }
    }
}

impl ExitCounts {
    /// Counts a KVM_RUN that left `reason` in kvm_run and failed with `errno`, if not 0.
    pub(crate) fn add(&mut self, reason: u32, errno: i32) {
        let index = match errno {
            // Not every path that a signal interrupts sets the reason.
            libc::EINTR => kvm::KVM_EXIT_INTR as usize,
            0 => reason as usize,
            // Comes with an errno, and is valid all the same.
            _ if reason == kvm::KVM_EXIT_MEMORY_FAULT => reason as usize,
            _ => REASONS.len(),
        };
        self.by_reason[index.min(REASONS.len())] += 1;
        self.total += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// `12 IO, 1 INTR`, if there were any.
    pub(crate) fn by_reason(&self) -> Option<String> {
        let names = REASONS.iter().copied().chain(["other"]);
        let counted = names.zip(self.by_reason).filter(|(_, n)| *n > 0);
        let told: Vec<String> = counted.map(|(name, n)| format!("{n} {name}")).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

impl fmt::Display for ExitCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.total, if self.total == 1 { "exit" } else { "exits" })
    }
}

/// Why KVM_RUN came back.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Exit {
    /// Port I/O; the data are [`super::Stop::data`].
    Io {
        /// In or out.
        direction: IoDirection,
        /// Bytes of one access.
        size: u8,
        /// Port.
        port: u16,
        /// Accesses.
        count: u32,
    },
    /// Memory-mapped I/O; the data are [`super::Stop::data`].
    Mmio {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        len: u32,
        /// Whether the guest writes.
        is_write: bool,
    },
    /// `HLT`, `WFI`, … without an in-kernel interrupt controller.
    Hlt,
    /// Triple fault, or another shutdown.
    Shutdown,
    /// KVM gave up.
    InternalError(InternalError),
    /// The hardware refused the guest state.
    FailEntry {
        /// Vendor's reason code.
        reason: u64,
    },
    /// A hypercall for userspace.
    Hypercall {
        /// Number.
        nr: u64,
        /// Arguments.
        args: [u64; 6],
    },
    /// `RDMSR` for userspace; answer by [`super::Stop::complete_rdmsr`].
    Rdmsr {
        /// MSR.
        index: u32,
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
    },
    /// `WRMSR` for userspace; answer by [`super::Stop::complete_wrmsr`].
    Wrmsr {
        /// MSR.
        index: u32,
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// What the guest writes.
        data: u64,
    },
    /// `KVM_EXIT_DEBUG`.
    Debug,
    /// `KVM_EXIT_EXCEPTION`.
    Exception {
        /// Vector.
        vector: u32,
        /// Error code.
        error_code: u32,
    },
    /// Userspace asked to be told when an interrupt can be injected.
    IrqWindowOpen,
    /// The dirty ring has reached its soft limit.
    DirtyRingFull,
    /// Level interrupt ended, for a userspace I/O APIC.
    IoapicEoi {
        /// Vector.
        vector: u8,
    },
    /// `KVM_EXIT_SYSTEM_EVENT`.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
    },
    /// `KVM_EXIT_X86_BUS_LOCK`.
    BusLock,
    /// `KVM_EXIT_RISCV_SBI`: an `ecall` that KVM leaves to userspace.
    RiscvSbi {
        /// SBI extension (a7).
        extension: u64,
        /// Its function (a6).
        function: u64,
        /// a0 to a5.
        args: [u64; 6],
    },
    /// `KVM_EXIT_PAPR_HCALL`: a hypercall that KVM leaves to userspace.
    PaprHcall {
        /// Number (r3).
        nr: u64,
        /// r4 to r12.
        args: [u64; 9],
    },
    /// `KVM_EXIT_S390_SIEIC`: an interception that KVM leaves to userspace.
    S390Sieic {
        /// Interception code.
        code: u8,
        /// First half-word of the instruction.
        ipa: u16,
        /// The rest of the instruction.
        ipb: u32,
    },
    /// `KVM_EXIT_MEMORY_FAULT`, with KVM_RUN's errno.
    MemoryFault {
        /// `KVM_MEMORY_EXIT_FLAG_*`.
        flags: u64,
        /// First byte.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// What KVM_RUN failed with.
        errno: i32,
    },
    /// A signal, or `immediate_exit`: KVM_RUN failed with EINTR.
    Intr,
    /// KVM_RUN failed otherwise.
    RunFailed {
        /// Its errno.
        errno: i32,
    },
    /// Another exit reason, by number.
    Other(u32),
}

impl Exit {
    /// The exit in `run`, after a KVM_RUN that returned `errno` (0 for success).
    pub(crate) fn decode(run: &kvm_run, errno: i32) -> Self {
        let anonymous = &run.__bindgen_anon_1;
        // SAFETY: `exit_reason` says which member the kernel wrote; all are plain integers.
        unsafe {
            if errno == libc::EINTR {
                return Self::Intr;
            }
            if errno != 0 {
                let memory_fault = run.exit_reason == kvm::KVM_EXIT_MEMORY_FAULT
                    && matches!(errno, libc::EFAULT | libc::EHWPOISON);
                if memory_fault {
                    let fault = anonymous.memory_fault;
                    return Self::MemoryFault {
                        flags: fault.flags,
                        gpa: fault.gpa,
                        size: fault.size,
                        errno,
                    };
                }
                return Self::RunFailed { errno };
            }
            match run.exit_reason {
                kvm::KVM_EXIT_IO => {
                    let io = anonymous.io;
                    let direction = match u32::from(io.direction) {
                        kvm::KVM_EXIT_IO_IN => IoDirection::In,
                        _ => IoDirection::Out,
                    };
                    Self::Io { direction, size: io.size, port: io.port, count: io.count }
                }
                kvm::KVM_EXIT_MMIO => {
                    let mmio = anonymous.mmio;
                    Self::Mmio { gpa: mmio.phys_addr, len: mmio.len, is_write: mmio.is_write != 0 }
                }
                kvm::KVM_EXIT_HLT => Self::Hlt,
                kvm::KVM_EXIT_SHUTDOWN => Self::Shutdown,
                kvm::KVM_EXIT_INTERNAL_ERROR => {
                    let internal = anonymous.internal;
                    Self::InternalError(InternalError {
                        suberror: internal.suberror,
                        ndata: internal.ndata,
                        data: internal.data,
                    })
                }
                kvm::KVM_EXIT_FAIL_ENTRY => {
                    Self::FailEntry { reason: anonymous.fail_entry.hardware_entry_failure_reason }
                }
                kvm::KVM_EXIT_HYPERCALL => {
                    Self::Hypercall { nr: anonymous.hypercall.nr, args: anonymous.hypercall.args }
                }
                kvm::KVM_EXIT_X86_RDMSR => {
                    Self::Rdmsr { index: anonymous.msr.index, reason: anonymous.msr.reason }
                }
                kvm::KVM_EXIT_X86_WRMSR => Self::Wrmsr {
                    index: anonymous.msr.index,
                    reason: anonymous.msr.reason,
                    data: anonymous.msr.data,
                },
                kvm::KVM_EXIT_DEBUG => Self::Debug,
                kvm::KVM_EXIT_EXCEPTION => {
                    let ex = anonymous.ex;
                    Self::Exception { vector: ex.exception, error_code: ex.error_code }
                }
                kvm::KVM_EXIT_IRQ_WINDOW_OPEN => Self::IrqWindowOpen,
                kvm::KVM_EXIT_DIRTY_RING_FULL => Self::DirtyRingFull,
                kvm::KVM_EXIT_IOAPIC_EOI => Self::IoapicEoi { vector: anonymous.eoi.vector },
                kvm::KVM_EXIT_SYSTEM_EVENT => {
                    Self::SystemEvent { kind: anonymous.system_event.type_ }
                }
                kvm::KVM_EXIT_X86_BUS_LOCK => Self::BusLock,
                kvm::KVM_EXIT_RISCV_SBI => {
                    let sbi = anonymous.riscv_sbi;
                    Self::RiscvSbi {
                        extension: sbi.extension_id,
                        function: sbi.function_id,
                        args: sbi.args,
                    }
                }
                kvm::KVM_EXIT_PAPR_HCALL => {
                    Self::PaprHcall { nr: anonymous.papr_hcall.nr, args: anonymous.papr_hcall.args }
                }
                kvm::KVM_EXIT_S390_SIEIC => {
                    let sieic = anonymous.s390_sieic;
                    Self::S390Sieic { code: sieic.icptcode, ipa: sieic.ipa, ipb: sieic.ipb }
                }
                kvm::KVM_EXIT_INTR => Self::Intr,
                other => Self::Other(other),
            }
        }
    }

    /// A port read of any size.
    pub fn io_in(port: u16) -> ExitMatch {
        ExitMatch::new(
            format!("a read of port {port:#x}"),
            move |exit| matches!(exit, Self::Io { direction: IoDirection::In, port: p, .. } if *p == port),
        )
    }

    /// A port write of any size.
    pub fn io_out(port: u16) -> ExitMatch {
        ExitMatch::new(
            format!("a write of port {port:#x}"),
            move |exit| matches!(exit, Self::Io { direction: IoDirection::Out, port: p, .. } if *p == port),
        )
    }

    /// An MMIO read of any size.
    pub fn mmio_read(gpa: u64) -> ExitMatch {
        ExitMatch::new(
            format!("an MMIO read at {gpa:#x}"),
            move |exit| matches!(exit, Self::Mmio { gpa: g, is_write: false, .. } if *g == gpa),
        )
    }

    /// An MMIO write of any size.
    pub fn mmio_write(gpa: u64) -> ExitMatch {
        ExitMatch::new(
            format!("an MMIO write at {gpa:#x}"),
            move |exit| matches!(exit, Self::Mmio { gpa: g, is_write: true, .. } if *g == gpa),
        )
    }

    /// `KVM_EXIT_X86_RDMSR` of `index`.
    pub fn rdmsr(index: u32) -> ExitMatch {
        ExitMatch::new(
            format!("RDMSR of {index:#x}"),
            move |exit| matches!(exit, Self::Rdmsr { index: i, .. } if *i == index),
        )
    }

    /// `KVM_EXIT_X86_WRMSR` of `index`.
    pub fn wrmsr(index: u32) -> ExitMatch {
        ExitMatch::new(
            format!("WRMSR of {index:#x}"),
            move |exit| matches!(exit, Self::Wrmsr { index: i, .. } if *i == index),
        )
    }

    /// Exactly this exit.
    pub fn exactly(exit: Self) -> ExitMatch {
        ExitMatch::new(format!("{exit:x?}"), move |other| *other == exit)
    }
}

/// An exit that a test waits for.
pub struct ExitMatch {
    pub(crate) what: String,
    pub(crate) matches: Box<dyn Fn(&Exit) -> bool>,
}

impl ExitMatch {
    /// An exit for which `matches` holds, called `what` in failures.
    pub fn new(what: impl Into<String>, matches: impl Fn(&Exit) -> bool + 'static) -> Self {
        Self { what: what.into(), matches: Box::new(matches) }
    }
}

impl From<Exit> for ExitMatch {
    fn from(exit: Exit) -> Self {
        Exit::exactly(exit)
    }
}

impl fmt::Debug for ExitMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
