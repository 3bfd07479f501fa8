//! What tests of asynchronous page faults share: pages that the host supplies late, and a guest's
//! dealings with the faults (x86/msr.rst, MSR_KVM_ASYNC_PF_EN, _INT and _ACK).
use crate::prelude::*;
use core::mem::offset_of;
pub use kvm_pv::{
    APF_WAKE_ALL as WAKE_ALL, KVM_PV_REASON_PAGE_NOT_PRESENT as PAGE_NOT_PRESENT,
    MSR_KVM_ASYNC_PF_ACK, MSR_KVM_ASYNC_PF_EN, MSR_KVM_ASYNC_PF_INT,
};
use kvm_pv::{AsyncPf, KvmVcpuPvApfData};

pub const ENABLED: u64 = AsyncPf::ENABLED.bits();
pub const SEND_ALWAYS: u64 = AsyncPf::SEND_ALWAYS.bits();
pub const DELIVERY_AS_INT: u64 = AsyncPf::DELIVERY_AS_INT.bits();
/// Without both of these the guest is told of nothing.
pub const TOLD: u64 = ENABLED | DELIVERY_AS_INT;
pub const ON: u64 = ENABLED | SEND_ALWAYS | DELIVERY_AS_INT;

/// `struct kvm_vcpu_pv_apf_data`, one for each vCPU: not at the start of a page.
pub const AREA: u64 = layout::SCRATCH + 0x40;
pub const AREA_SIZE: u64 = kvm_pv::APF_DATA_SIZE;
pub const FLAGS: u64 = offset_of!(KvmVcpuPvApfData, flags) as u64;
pub const TOKEN: u64 = offset_of!(KvmVcpuPvApfData, token) as u64;
pub const PADDING: core::ops::Range<u64> = size_of::<KvmVcpuPvApfData>() as u64..AREA_SIZE;

pub const VECTOR: u8 = 0x61;
/// What the guest reports when it is told.
pub const NOT_PRESENT: u64 = 2;
/// Pages that are absent at first.
pub const PAGES: u64 = layout::FREE;
pub const NR_PAGES: u64 = 4;

pub const fn page(index: u64) -> u64 {
    PAGES + index * layout::PAGE_SIZE
}

pub const fn content(index: u64) -> u64 {
    0x6161_0000_0000_0000 | index
}

/// Reads a word, in ring 3 too.
pub extern "C" fn reads(gva: u64) -> u64 {
    peek(gva)
}

/// What a guest knows of its pages that became ready.
pub struct Pages {
    apic: Apic,
    pub area: u64,
    tokens: [AtomicU32; 8],
    count: AtomicU64,
}

impl Pages {
    pub fn new(area: u64) -> Self {
        poke(area, [0_u64; 8]);
        Self {
            apic: Apic::enable(),
            area,
            tokens: [const { AtomicU32::new(0) }; 8],
            count: AtomicU64::new(0),
        }
    }

    /// Turns them on, if `bits` say so, and takes what this wakes up.
    pub fn enable(&self, bits: u64) {
        let before = self.count.load(SeqCst);
        wrmsr(MSR_KVM_ASYNC_PF_INT, VECTOR.into());
        wrmsr(MSR_KVM_ASYNC_PF_EN, self.area | bits);
        if bits & TOLD == TOLD {
            self.wait(before + 1);
        }
    }

    pub fn token(&self) -> u32 {
        peek(self.area + TOKEN)
    }

    pub fn flags(&self) -> u32 {
        peek(self.area + FLAGS)
    }

    /// How many ready pages were told, and the last of them.
    pub fn ready(&self) -> (u64, u32) {
        let count = self.count.load(SeqCst);
        (count, self.tokens[count.wrapping_sub(1) as usize % 8].load(SeqCst))
    }

    /// Takes the interrupt: keeps the token, and makes room for the next.
    pub fn take(&self) {
        let index = self.count.fetch_add(1, SeqCst);
        self.tokens[index as usize % 8].store(self.token(), SeqCst);
        poke(self.area + TOKEN, 0_u32);
        self.apic.eoi();
    }

    pub fn acknowledge(&self) {
        wrmsr(MSR_KVM_ASYNC_PF_ACK, 1);
    }

    /// A fault was told: its token. Makes room for the next.
    pub fn told(&self, frame: &TrapFrame) -> u32 {
        let (flags, token) = (self.flags(), frame.trap().addr);
        check_eq!("the fault's flags say that a page is not present", flags, PAGE_NOT_PRESENT);
        check!(
            "CR2 holds a token of 32 bits",
            token != 0 && token < u64::from(WAKE_ALL),
            "{token:#x}"
        );
        poke(self.area + FLAGS, 0_u32);
        token as u32
    }

    /// Halts until `count` ready pages were told.
    pub fn wait(&self, count: u64) {
        while self.count.load(SeqCst) < count {
            sti_hlt();
            cli();
        }
    }
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use {
        std::sync::mpsc::{self, RecvTimeoutError},
        std::time::Duration,
        vm::{Backing, FaultMode, Patience, Userfault},
    };

    pub const SLOT: u32 = 1;
    /// Enough for KVM to tell of a page, if it did.
    pub const MOMENT: Duration = Duration::from_millis(3);

    /// How long a vCPU that runs may take from its fault to being told.
    const LONGEST: Duration = Duration::from_millis(700);

    /// The host's side of pages that are absent.
    pub struct Absent {
        fault: Userfault,
        hva: u64,
        stop: Event,
    }

    impl Absent {
        pub fn new(vm: &mut Vm) -> TestResult<Self> {
            let memory = Backing::Anonymous.map((NR_PAGES * layout::PAGE_SIZE) as usize)?;
            let fault = Userfault::new(FaultMode::Missing)?;
            fault.register(&memory, FaultMode::Missing)?;
            let hva = memory.hva();
            vm.add_mapping(SLOT, 0, PAGES, memory)?;
            Ok(Self { fault, hva, stop: Event::new()? })
        }

        /// Waits until a page is asked for.
        pub fn asked(&self) -> TestResult<u64> {
            match self.fault.next(&self.stop)? {
                Some(address) => Ok((address - self.hva) / layout::PAGE_SIZE),
                None => fail!("no page is asked for"),
            }
        }

        pub fn supply(&self, index: u64) -> TestResult {
            let mut bytes = [0; layout::PAGE_SIZE as usize];
            bytes[..8].copy_from_slice(&content(index).to_ne_bytes());
            self.fault.copy(self.hva + index * layout::PAGE_SIZE, &bytes).ioctl("UFFDIO_COPY")
        }

        /// Runs `vcpu` until it is told that it has no page `index`: what it says of that. One that waits
        /// in KVM_RUN instead gets its page after a while, so that the test fails, and does not hang.
        pub fn told(&self, vcpu: &mut Vcpu, index: u64) -> TestResult<u64> {
            let (running, ended) = mpsc::channel::<()>();
            together(|threads| {
                let watcher = threads.spawn(move || {
                    check_eq!("the vCPU asks for page {index}", self.asked()?, index);
                    let patience = Patience::new(LONGEST);
                    while ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
                        if patience.is_over() {
                            return self.supply(index);
                        }
                    }
                    Ok(())
                });
                let token = threads.run(vcpu, |vcpu| vcpu.run_until_sync(NOT_PRESENT)).join();
                drop(running);
                if token.is_err() {
                    self.stop.signal(1)?;
                }
                watcher.join()?;
                Ok(token?[0])
            })
        }

        /// Runs `vcpu` to its end while `supplier` does its part.
        pub fn meanwhile(
            &self,
            vcpu: &mut Vcpu,
            supplier: impl FnOnce() -> TestResult + Send,
        ) -> TestResult {
            together(|threads| {
                let supplier = threads.spawn(supplier);
                let ended = threads.run(vcpu, Vcpu::run_until_done).join();
                if ended.is_err() {
                    self.stop.signal(1)?;
                }
                supplier.join()?;
                ended
            })
        }
    }
}
