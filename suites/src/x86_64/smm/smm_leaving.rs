//! How a vCPU leaves system management mode beside the usual way: RSM to code above 4 GiB, and a shutdown in
//! the handler (SDM vol. 3, "Exiting From SMM"; APM vol. 2, "Leaving SMM"). And what is a device outside of it
//! and memory inside.
use crate::prelude::*;
use crate::x86_64::smm::smm::{ENTERED, LEAVING, STOP};
use defs::x86::paging::LARGE_PAGE;
use insn_table::Gpr;

/// Where RAM is mapped a second time: no address there fits into 32 bits.
const HIGH: u64 = 3 << 32;

/// Stops twice; the host half moves it up between the two, and back behind them.
#[guest]
fn stops_in_a_high_alias(_: &mut Guest) {
    for gpa in (0..layout::DEFAULT_RAM_SIZE).step_by(LARGE_PAGE as usize) {
        mmu::map(HIGH + gpa, gpa, mmu::Size::Large, Pte::DEFAULT);
    }
    outb(STOP, 0);
    outb(STOP, 1);
}

guest_asm! {
    /// A handler that faults, in an IDT of no entries.
    FAULTS, bits16:
    "out {entered}, al",
    "ud2",
    entered = const ENTERED,
}

#[guest]
fn stops_twice(_: &mut Guest) {
    outb(STOP, 0);
    outb(STOP, 1);
}

/// Memory in SMM alone; outside a device.
const BOTH: u64 = layout::FREE;

guest_asm! {
    /// A handler that reports the byte at BOTH, read by an instruction that KVM emulates.
    READS_EMULATED, bits16:
    "mov ebx, {both}",
    "ud2",
    ".ascii \"kvm\"",
    "mov al, [ebx]",
    "out {entered}, al",
    "out {leaving}, al",
    "rsm",
    both = const BOTH as u32,
    entered = const ENTERED,
    leaving = const LEAVING,
}

#[guest]
fn reads_emulated(_: &mut Guest) {
    outb(STOP, insn::MOV_R8_M8.forced(BOTH, 0)[Gpr::Rsi] as u8);
    outb(STOP, insn::MOV_R8_M8.forced(BOTH, 0)[Gpr::Rsi] as u8);
    outb(STOP, insn::MOV_R8_M8.forced(BOTH, 0)[Gpr::Rsi] as u8);
}

#[host]
mod host {
    use super::*;
    use {
        crate::x86_64::smm::smm::{events, is_in_smm, make_smram, run_past, smi},
        bindings::KVM_VCPUEVENT_VALID_SMM,
        defs::x86::smm::{HANDLER, SMBASE},
    };

    kvm_tests! { requires(cap::X86_SMM) }

    fn move_by(vcpu: &Vcpu, distance: u64) -> TestResult<u64> {
        let mut regs = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        regs.rip = regs.rip.wrapping_add(distance);
        vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
        Ok(regs.rip)
    }

    /// RSM returns to a 64-bit guest's whole RIP.
    #[kvm_test(stops_in_a_high_alias)]
    fn rsm_returns_above_4_gib(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        let before = move_by(vcpu, HIGH)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        run_past(vcpu, LEAVING)?;
        vcpu.run_until(Exit::io_out(STOP))?;
        let after = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?.rip;
        check!(
            "RSM returns to the interrupted code above 4 GiB",
            (before..before + layout::PAGE_SIZE).contains(&after),
            "{before:#x} {after:#x}"
        );
        vcpu.complete_exit()?;
        move_by(vcpu, HIGH.wrapping_neg())?;
        vcpu.run_until_done()
    }

    /// A handler that shuts the vCPU down: userspace can reset the vCPU, and it runs on outside of SMM.
    #[kvm_test(stops_twice)]
    fn shutdown_in_the_handler_can_be_reset(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        t.vm.put_code(SMBASE + HANDLER, &FAULTS)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        let regs = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        let sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        let mut outside = events(vcpu)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        check_eq!("a fault without an IDT in SMM is a shutdown", vcpu.run_once()?, Exit::Shutdown);
        outside.flags |= KVM_VCPUEVENT_VALID_SMM;
        vcpu.fd().set_vcpu_events(&outside).ioctl("KVM_SET_VCPU_EVENTS")?;
        vcpu.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")?;
        vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
        check_eq!("a vCPU that was reset is not in SMM", events(vcpu)?.smi.smm, 0);
        run_past(vcpu, STOP)?;
        check!("kvm_run reports no SMM after the reset", !is_in_smm(vcpu));
        vcpu.run_until_done()
    }

    /// What is a device outside of SMM may be memory in SMM, also to accesses that KVM emulates one after the
    /// other.
    #[kvm_test(reads_emulated, requires(cap::MULTI_ADDRESS_SPACE, host::FORCED_EMULATION))]
    fn emulated_reads_see_their_own_address_space(t: &mut OneVcpu) -> TestResult {
        /// A slot of the address space of SMM (api.rst 4.35).
        const SMM_SLOT: u32 = 1 << 16 | 1;
        make_smram(&t.vm)?;
        t.vm.put_code(SMBASE + HANDLER, &READS_EMULATED)?;
        t.vm.add_memory(SMM_SLOT, 0, BOTH, layout::PAGE_SIZE)?.write(0, &[0x22]);
        let vcpu = &mut t.vcpu;
        for device in [0x31, 0x32, 0x33] {
            vcpu.run_until(Exit::mmio_read(BOTH))?.set_data(&[device]);
            let seen = vcpu.run_until(Exit::io_out(STOP))?.data().to_vec();
            check_eq!("outside of SMM the guest reads the device", seen, [device]);
            vcpu.complete_exit()?;
            smi(vcpu)?;
            let seen = vcpu.run_until(Exit::io_out(ENTERED))?.data().to_vec();
            check_eq!("in SMM the guest reads memory at the device's address", seen, [0x22]);
            run_past(vcpu, LEAVING)?;
        }
        vcpu.run_until_done()
    }
}
