//! The maps by which a hypervisor on SVM lets its guest at ports and MSRs (APM vol. 2, "IOIO Intercepts",
//! "MSR Intercepts"), one bit at a time.
use crate::prelude::*;
use defs::x86::vmcb::{exit, intercept, ioio};
use guest_runtime::asm::Blob;

const VMMCALL: u64 = exit::intercepted(intercept::VMMCALL);
const IOIO: u64 = exit::intercepted(intercept::IOIO_PROT);
const MSR: u64 = exit::intercepted(intercept::MSR_PROT);

guest_asm! { IN_8, bits64: "in al, dx", "vmmcall" }
guest_asm! { IN_16, bits64: "in ax, dx", "vmmcall" }
guest_asm! { IN_32, bits64: "in eax, dx", "vmmcall" }
guest_asm! { OUT_8, bits64: "out dx, al", "vmmcall" }
guest_asm! { OUT_16, bits64: "out dx, ax", "vmmcall" }
guest_asm! { OUT_32, bits64: "out dx, eax", "vmmcall" }
guest_asm! { INS_8, bits64: "insb", "vmmcall" }
guest_asm! { OUTS_16, bits64: "outsw", "vmmcall" }
guest_asm! { REP_OUTS_32, bits64: "rep outsd", "vmmcall" }

/// An access, and what EXITINFO1 has of it beside the port.
struct Access {
    name: &'static str,
    code: &'static Blob,
    bytes: u64,
    info: u64,
}

const SIZE_SHIFT: u32 = 4;

const ACCESSES: [Access; 9] = {
    const fn row(name: &'static str, code: &'static Blob, bytes: u64, info: u64) -> Access {
        Access { name, code, bytes, info: info | bytes << SIZE_SHIFT }
    }
    const STRING: u64 = ioio::STRING | ioio::A64;
    [
        row("IN of 1 byte", &IN_8, 1, ioio::IN),
        row("IN of 2 bytes", &IN_16, 2, ioio::IN),
        row("IN of 4 bytes", &IN_32, 4, ioio::IN),
        row("OUT of 1 byte", &OUT_8, 1, 0),
        row("OUT of 2 bytes", &OUT_16, 2, 0),
        row("OUT of 4 bytes", &OUT_32, 4, 0),
        row("INS of 1 byte", &INS_8, 1, ioio::IN | STRING),
        row("OUTS of 2 bytes", &OUTS_16, 2, STRING),
        row("REP OUTS of 4 bytes", &REP_OUTS_32, 4, STRING | ioio::REP),
    ]
};

/// Ports at the start, in the middle and at the edges of the map's bytes and pages; those of 4 bytes from
/// the last one on reach into the map's third page.
const PORTS: [u16; 6] = [0x98, 0x4d5, 0x4d7, 0x7ffe, 0x8003, 0xfffe];

fn set_bit(map: u64, bit: u64, value: bool) {
    let at = map + bit / 8;
    let mask = 1_u8 << (bit % 8);
    let old: u8 = peek(at);
    poke(at, if value { old | mask } else { old & !mask });
}

/// Runs an access of the guest to `port`.
fn access(svm: &mut Svm, code: &Blob, port: u16) -> svm::Exit {
    svm.start(code);
    svm.gprs.rdx = port.into();
    (svm.gprs.rdi, svm.gprs.rsi, svm.gprs.rcx) = (layout::SCRATCH, layout::SCRATCH, 1);
    svm.run()
}

/// Port accesses that are to reach the host.
#[shared]
static REACH_HOST: AtomicU64 = AtomicU64::new(0);

#[guest]
fn intercepts_ports(_: &mut Guest) {
    let mut svm = Svm::new();
    let map = svm.intercept_ports();
    for Access { name, code, bytes, info } in ACCESSES {
        for port in PORTS {
            for bit in 0..bytes {
                set_bit(map, u64::from(port) + bit, true);
                let exit = access(&mut svm, code, port);
                set_bit(map, u64::from(port) + bit, false);
                check_eq!(
                    "{name} is an exit where one of its ports has its bit set",
                    exit.code,
                    IOIO
                );
                let wanted = u64::from(port) << ioio::PORT_SHIFT | info;
                let mask = 0xffff << ioio::PORT_SHIFT
                    | 0x7d
                    | if info & ioio::STRING != 0 { ioio::A64 } else { 0 };
                check_eq!("EXITINFO1 describes the {name}", exit.info[0] & mask, wanted);
                let behind = code.end() - 3;
                check_eq!("EXITINFO2 is the address behind the {name}", exit.info[1], behind);
                check_eq!(
                    "the exit of {name} is at the instruction",
                    svm.vmcb().save.rip,
                    code.address()
                );
            }
        }
    }
    // Neighbours' bits: below the port, and above its last byte.
    for Access { name, code, bytes, .. } in ACCESSES {
        let port = PORTS[1];
        let neighbours = [u64::from(port) - 1, u64::from(port) + bytes];
        neighbours.iter().for_each(|bit| set_bit(map, *bit, true));
        REACH_HOST.fetch_add(1, SeqCst);
        let exit = access(&mut svm, code, port);
        neighbours.iter().for_each(|bit| set_bit(map, *bit, false));
        check_eq!("bits of other ports are no exits of {name}", exit.code, VMMCALL);
    }
    (0..0x2000).step_by(8).for_each(|at| poke(map + at, u64::MAX));
    svm.vmcb().control.intercepts[0] &= !(1 << intercept::IOIO_PROT);
    REACH_HOST.fetch_add(1, SeqCst);
    let exit = access(&mut svm, &IN_8, PORTS[0]);
    check_eq!("the map of ports counts with its intercept alone", exit.code, VMMCALL);
}

guest_asm! { READS_MSR, bits64: "rdmsr", "vmmcall" }
guest_asm! { WRITES_MSR, bits64: "wrmsr", "vmmcall" }

/// MSRs of each range of the map, at the edges of its bytes and words, which the guest may read and write.
const MSRS: [u32; 11] = [
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_PAT,
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GS_BASE,
];

/// The last range of the map.
const FIRST_OF_AMD: u32 = 0xc001 << 16;
const LAST_OF_AMD: u32 = FIRST_OF_AMD + 0x1fff;

/// The bit of an MSR's read in the map; that of its write follows.
fn msr_bit(index: u32) -> u64 {
    let (first, base) = match index {
        0..0x2000 => (0, 0),
        0xc000_0000..0xc000_2000 => (0xc000_0000, 0x800),
        FIRST_OF_AMD..=LAST_OF_AMD => (FIRST_OF_AMD, 0x1000),
        _ => panic!("MSR {index:#x} has no bit"),
    };
    base * 8 + u64::from(index - first) * 2
}

/// Runs an access of the guest to an MSR, which writes what is there.
fn msr_access(svm: &mut Svm, index: u32, is_write: bool, value: u64) -> svm::Exit {
    svm.start(if is_write { &WRITES_MSR } else { &READS_MSR });
    svm.gprs.rcx = index.into();
    svm.vmcb().save.rax = value & 0xffff_ffff;
    svm.gprs.rdx = value >> 32;
    svm.run()
}

#[guest]
fn intercepts_msrs(_: &mut Guest) {
    let mut svm = Svm::new();
    let map = svm.intercept_msrs();
    for index in MSRS {
        let value = rdmsr(index);
        for is_write in [false, true] {
            let bit = msr_bit(index) + u64::from(is_write);
            set_bit(map, bit, true);
            let exit = msr_access(&mut svm, index, is_write, value);
            let other = msr_access(&mut svm, index, !is_write, value);
            set_bit(map, bit, false);
            check_eq!(
                "the bit of an MSR's access makes it an exit",
                (index, exit.code),
                (index, MSR)
            );
            let got = (index, exit.info[0]);
            check_eq!("EXITINFO1 is 1 for a write of an MSR", got, (index, is_write.into()));
            let got = (index, other.code);
            check_eq!("the other access of an MSR has its own bit", got, (index, VMMCALL));
            // All bits but this one.
            (0..0x2000).step_by(8).for_each(|at| poke(map + at, u64::MAX));
            set_bit(map, bit, false);
            let exit = msr_access(&mut svm, index, is_write, value);
            (0..0x2000).step_by(8).for_each(|at| poke(map + at, 0_u64));
            let got = (index, exit.code);
            check_eq!("bits of other MSRs are no exits of this one", got, (index, VMMCALL));
        }
        wrmsr(index, value);
    }
    for index in [0x2000, 1 << 30, msr::UNKNOWN, 0xbfff_ffff, 0xc000_2000, 0xc001_2000, u32::MAX] {
        for is_write in [false, true] {
            let exit = msr_access(&mut svm, index, is_write, 0);
            check_eq!(
                "an MSR without a bit is an exit with the intercept",
                (index, exit.code),
                (index, MSR)
            );
            check_eq!(
                "EXITINFO1 is 1 for a write of an MSR without a bit",
                exit.info[0],
                u64::from(is_write)
            );
        }
    }
    (0..0x2000).step_by(8).for_each(|at| poke(map + at, u64::MAX));
    svm.vmcb().control.intercepts[0] &= !(1 << intercept::MSR_PROT);
    let exit = msr_access(&mut svm, msr::IA32_LSTAR, false, 0);
    check_eq!("the map of MSRs counts with its intercept alone", exit.code, VMMCALL);
}

#[guest]
fn keeps_msrs_apart(_: &mut Guest) {
    let mut svm = Svm::new();
    for (name, index, given, guests) in [
        ("LSTAR", msr::IA32_LSTAR, 0x1111_2222_u64, 0x3333_4444_u64),
        ("KERNEL_GS_BASE", msr::IA32_KERNEL_GS_BASE, 0x5555_6666, 0x7777_8888),
        ("SYSENTER_EIP", msr::IA32_SYSENTER_EIP, 0x1234_5678, 0x8765_4321),
    ] {
        let before = rdmsr(index);
        wrmsr(index, given);
        let exit = msr_access(&mut svm, index, true, guests);
        check_eq!("no exit comes of the guest's write of {name}", exit.code, VMMCALL);
        check_eq!("the hypervisor's {name} is back behind its guest", rdmsr(index), given);
        let exit = msr_access(&mut svm, index, false, 0);
        check_eq!("no exit comes of the guest's read of {name}", exit.code, VMMCALL);
        let got = svm.gprs.rdx << 32 | svm.vmcb().save.rax & 0xffff_ffff;
        check_eq!("the guest keeps its own {name} from entry to entry", got, guests);
        wrmsr(index, before);
    }
}

#[host]
mod host {
    use super::*;

    /// Accesses of the guest that no bit intercepts are the hypervisor's hypervisor's: userspace sees them.
    #[kvm_test(intercepts_ports, requires(cpu::SVM))]
    fn ports_are_intercepted_one_by_one(t: &mut OneVcpu) -> TestResult {
        let mut seen = 0;
        while let Some(stop) = t.vcpu.run_until_exit()? {
            match stop.exit() {
                Exit::Io { port, .. } if PORTS.contains(&port) => seen += 1,
                exit => fail!("an exit that is none of the guest's accesses: {exit:?}"),
            }
        }
        let wanted = t.vm.shared(shared_static!(REACH_HOST)).load(SeqCst);
        check_eq!("userspace sees the accesses that level 1 lets through", seen, wanted);
        Ok(())
    }

    /// Each access of each MSR has its own bit.
    #[kvm_test(intercepts_msrs, requires(cpu::SVM))]
    fn msrs_are_intercepted_one_by_one(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// What VMLOAD and VMSAVE move is the hypervisor's and its guest's apart.
    #[kvm_test(keeps_msrs_apart, requires(cpu::SVM))]
    fn vmload_state_is_kept_apart(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }
}
