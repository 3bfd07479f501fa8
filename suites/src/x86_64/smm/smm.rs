//! System management mode: KVM_SMI (api.rst, "KVM_SMI") takes a vCPU to the handler in SMRAM, RSM takes
//! it back (SDM vol. 3, "System Management Mode"; APM vol. 2, "System-Management Mode"). What waits
//! meanwhile: `smm_events`.
use crate::prelude::*;
use defs::x86::debug::Dr7;
use defs::x86::smm::SMBASE;

/// Where the guest stops.
pub const STOP: u16 = 0x94;
/// Port of the handler's first instruction.
pub const ENTERED: u16 = 0x95;
/// Port of its last one before RSM.
pub const LEAVING: u16 = 0x96;
guest_asm! {
    /// The handler: two stops.
    STOPS_TWICE, bits16:
    "out {entered}, al",
    "out {leaving}, al",
    "rsm",
    entered = const ENTERED,
    leaving = const LEAVING,
}

/// Stops before the place where an SMI comes, and again right behind it. What SMM clears is set.
#[guest]
fn stops_twice(_: &mut Guest) {
    const EM_TS: u64 = bits!(Cr0::{EM | TS});
    let (cr0, dr7) = (read_cr0(), read_dr7());
    write_dr3(layout::FREE);
    write_dr7(dr7 | Dr7::G3.bits());
    write_cr0(cr0 | EM_TS);
    outb(STOP, 0);
    outb(STOP, 0);
    write_cr0(cr0);
    write_dr7(dr7);
}

#[guest]
fn resumes_from_nowhere(_: &mut Guest) {
    let trap = rsm_safe().map_err(|trap| (trap.vector, trap.error));
    check_eq!("RSM outside SMM is #UD", trap, Err((vector::UD, 0)));
}

#[guest]
fn looks_at_smram(g: &mut Guest) {
    outb(STOP, 0);
    outb(STOP, peek(g.arg(0)));
    poke(g.arg(0), 0x33u8);
}

guest_asm! {
    /// A handler that reports the byte at SMBASE, and overwrites it.
    REPORTS_A_BYTE, bits16:
    "mov ebx, {smbase}",
    "mov al, [ebx]",
    "out {entered}, al",
    "mov byte ptr [ebx], 0x44",
    "out {leaving}, al",
    "rsm",
    smbase = const SMBASE,
    entered = const ENTERED,
    leaving = const LEAVING,
}

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;
    use bindings::{
        KVM_CAP_MULTI_ADDRESS_SPACE, KVM_CAP_X86_SMM, KVM_RUN_X86_SMM, KVM_VCPUEVENT_VALID_SMM,
        kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events,
    };
    use {
        cpuid::{leaf, vendor},
        defs::x86::smm::{self, HANDLER, saved},
    };

    /// Slot 0 of the address space that a vCPU sees in SMM (api.rst 4.35).
    const SMM_SPACE: u32 = 1 << 16;

    /// Gives SMM the guest's memory, and the handler in it.
    pub fn make_smram(vm: &Vm) -> TestResult {
        if vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE) > 1 {
            let hva = vm.ram().mapping().hva();
            vm.set_region(SMM_SPACE, 0, 0, layout::DEFAULT_RAM_SIZE, hva)
                .ioctl("KVM_SET_USER_MEMORY_REGION of SMM's address space")?;
        }
        put_handler(vm, SMBASE)
    }

    fn put_handler(vm: &Vm, smbase: u64) -> TestResult {
        vm.put_code(smbase + HANDLER, &STOPS_TWICE)
    }

    /// Runs to an OUT of this port, and behind it.
    pub fn run_past(vcpu: &mut Vcpu, port: u16) -> TestResult {
        vcpu.run_until(Exit::io_out(port))?;
        vcpu.complete_exit()
    }

    /// Queues an SMI.
    pub fn smi(vcpu: &Vcpu) -> TestResult {
        vcpu.fd().smi().ioctl("KVM_SMI")
    }

    /// What waits, and in which mode the vCPU is.
    pub fn events(vcpu: &Vcpu) -> TestResult<kvm_vcpu_events> {
        vcpu.fd().get_vcpu_events().ioctl("KVM_GET_VCPU_EVENTS")
    }

    /// Whether `kvm_run` says that the vCPU is in SMM.
    pub fn is_in_smm(vcpu: &mut Vcpu) -> bool {
        u32::from(vcpu.kvm_run().flags) & KVM_RUN_X86_SMM != 0
    }

    /// The registers, the instruction pointer apart.
    fn state(vcpu: &Vcpu) -> TestResult<(kvm_regs, kvm_sregs, kvm_debugregs)> {
        let regs = kvm_regs { rip: 0, ..vcpu.fd().get_regs().ioctl("KVM_GET_REGS")? };
        let sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        Ok((regs, sregs, vcpu.fd().get_debug_regs().ioctl("KVM_GET_DEBUGREGS")?))
    }

    /// Gives each register that the guest's next OUT does not need a value of its own. Behind that OUT the
    /// guest is lost.
    fn fill_registers(vcpu: &Vcpu) -> TestResult<kvm_regs> {
        let mut regs = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        let unneeded = [
            (&mut regs.rbx, 0x0123_4567_89ab_cde3_u64),
            (&mut regs.rcx, 0x0123_4567_89ab_cde1),
            (&mut regs.rsi, 0x0123_4567_89ab_cde6),
            (&mut regs.rdi, 0x0123_4567_89ab_cde7),
            (&mut regs.rbp, 0x0123_4567_89ab_cde5),
            (&mut regs.r8, 0x0123_4567_89ab_cde8),
            (&mut regs.r9, 0x0123_4567_89ab_cde9),
            (&mut regs.r10, 0x0123_4567_89ab_cdea),
            (&mut regs.r11, 0x0123_4567_89ab_cdeb),
            (&mut regs.r12, 0x0123_4567_89ab_cdec),
            (&mut regs.r13, 0x0123_4567_89ab_cded),
            (&mut regs.r14, 0x0123_4567_89ab_cdee),
            (&mut regs.r15, 0x0123_4567_89ab_cdef),
        ];
        for (register, value) in unneeded {
            *register = value;
        }
        vcpu.fd().set_regs(&regs).ioctl("KVM_SET_REGS")?;
        Ok(regs)
    }

    /// Brings a vCPU behind its first stop and into SMM, behind the first instruction there.
    pub fn enter(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        run_past(&mut t.vcpu, STOP)?;
        smi(&t.vcpu)?;
        run_past(&mut t.vcpu, ENTERED)
    }

    /// The save area's layout is the CPU vendor's: KVM has AMD's.
    fn require_amd(vm: &mut Vm) -> TestResult {
        let leaves = vm.cpuid_mut().as_slice();
        let leaf = leaves.iter().find(|entry| entry.function == leaf::VENDOR);
        let name = leaf.map(|e| vendor::name([e.eax, e.ebx, e.ecx, e.edx]));
        require!(matches!(name, Some(vendor::AMD | vendor::HYGON)), "a CPU with AMD's save area");
        Ok(())
    }

    /// Without system management mode there is no KVM_SMI.
    #[kvm_test]
    fn smi_is_refused_where_there_is_no_smm(t: &mut OneVm) -> TestResult {
        require!(t.vm.check_extension(KVM_CAP_X86_SMM) == 0, "a KVM without KVM_CAP_X86_SMM");
        let vcpu = t.vm.create_vcpu(0)?;
        let got = vcpu.fd().smi().errno();
        check_eq!("KVM_SMI without SMM is ENOTTY", got, Err(Errno::ENOTTY));
        Ok(())
    }

    /// The state in which the handler starts (SDM vol. 3, "Initial SMM Execution Environment").
    #[kvm_test(stops_twice, moved, requires(cap::X86_SMM))]
    fn handler_starts_in_smms_own_state(t: &mut OneVcpu) -> TestResult {
        const PE_EM_TS_PG: u64 = bits!(Cr0::{PE | EM | TS | PG});
        const LME_LMA: u64 = bits!(Efer::{LME | LMA});
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        check!("kvm_run reports no SMM before the SMI", !is_in_smm(vcpu));
        let (_, before, _) = state(vcpu)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        check!("kvm_run reports SMM after the SMI", is_in_smm(vcpu));
        check_eq!("KVM_GET_VCPU_EVENTS reports SMM after the SMI", events(vcpu)?.smi.smm, 1);

        let regs = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("RIP is behind the handler's first instruction", regs.rip, HANDLER + 2);
        check_eq!("RFLAGS has only its fixed bit in SMM", regs.rflags, 2);
        let sregs = vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        let seen = (sregs.cs.selector, sregs.cs.base, sregs.cs.limit);
        check_eq!(
            "CS is SMRAM, with a limit of 4 GiB",
            seen,
            ((SMBASE >> 4) as u16, SMBASE, u32::MAX)
        );
        let data = [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss];
        for (name, segment) in ["DS", "ES", "FS", "GS", "SS"].into_iter().zip(data) {
            let seen = (segment.selector, segment.base, segment.limit);
            check_eq!("{name} has a base of 0 and a limit of 4 GiB", seen, (0, 0, u32::MAX));
        }
        check_eq!("CR0 has PE, EM, TS and PG cleared", sregs.cr0, before.cr0 & !PE_EM_TS_PG);
        check_eq!("CR4 is 0 in SMM", sregs.cr4, 0);
        check_eq!("long mode is off in SMM", sregs.efer & LME_LMA, 0);
        check_eq!("DR7 has only its fixed bit in SMM", state(vcpu)?.2.dr7, 0x400);
        Ok(())
    }

    /// RSM brings everything back as it was.
    #[kvm_test(stops_twice, requires(cap::X86_SMM))]
    fn rsm_brings_everything_back(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        fill_registers(vcpu)?;
        let before = state(vcpu)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        check!("the handler sets registers of its own", state(vcpu)? != before);
        run_past(vcpu, LEAVING)?;
        vcpu.run_until(Exit::io_out(STOP))?;
        check!("kvm_run reports no SMM after RSM", !is_in_smm(vcpu));
        check_eq!("KVM_GET_VCPU_EVENTS reports no SMM after RSM", events(vcpu)?.smi.smm, 0);
        let (regs, sregs, debugregs) = state(vcpu)?;
        check_eq!("RSM restores the general registers", regs, before.0);
        check_eq!("RSM restores the system registers", sregs, before.1);
        check_eq!("RSM restores the guest's DR7", debugregs.dr7, before.2.dr7);
        Ok(())
    }

    /// RSM is an instruction of SMM alone.
    #[kvm_test(resumes_from_nowhere)]
    fn rsm_outside_smm_is_undefined(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_done()
    }

    /// What was interrupted is in the save area, where the handler may read it and change it.
    #[kvm_test(stops_twice, requires(cap::X86_SMM))]
    fn save_area_holds_the_interrupted_state(t: &mut OneVcpu) -> TestResult {
        const CHANGED: u64 = 0x1234_5678_9abc_def0;
        require_amd(&mut t.vm)?;
        make_smram(&t.vm)?;
        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        let regs = fill_registers(vcpu)?;
        let (_, sregs, debugregs) = state(vcpu)?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        let ram = t.vm.ram();
        let word = |offset: u64| ram.word(SMBASE + offset).expect("SMRAM is RAM");
        let gprs = [
            [regs.r15, regs.r14, regs.r13, regs.r12, regs.r11, regs.r10, regs.r9, regs.r8],
            [regs.rdi, regs.rsi, regs.rbp, regs.rsp, regs.rbx, regs.rdx, regs.rcx, regs.rax],
        ];
        for (offset, want) in (saved::GPRS..).step_by(8).zip(gprs.concat()) {
            check_eq!("the save area has the general register at {offset:#x}", word(offset), want);
        }
        for (name, offset, want) in [
            ("RIP", saved::RIP, regs.rip),
            ("RFLAGS", saved::RFLAGS, regs.rflags),
            ("DR7", saved::DR7, debugregs.dr7),
            ("CR0", saved::CR0, sregs.cr0),
            ("CR3", saved::CR3, sregs.cr3),
            ("CR4", saved::CR4, sregs.cr4),
            ("EFER", saved::EFER, sregs.efer),
        ] {
            check_eq!("the save area has {name}", word(offset), want);
        }
        check_eq!("the save area has SMBASE", word(saved::SMBASE) as u32, SMBASE as u32);
        // The word that ends with the revision: it need not be aligned.
        let revision = (word(saved::REVISION - 4) >> 32) as u32;
        check_eq!("the save area's revision is that of AMD64", revision & 0xffff, 0x64);
        check!(
            "the revision says that SMBASE can be moved",
            revision & smm::REVISION_SMBASE_RELOCATION != 0,
            "{revision:#x}"
        );

        ram.write(SMBASE + saved::GPRS, &CHANGED.to_le_bytes()).expect("SMRAM is RAM");
        run_past(vcpu, LEAVING)?;
        vcpu.run_until(Exit::io_out(STOP))?;
        let after = vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?;
        check_eq!("RSM loads the register that the handler changed", after.r15, CHANGED);
        check_eq!("RSM leaves the register beside the changed one", after.r14, regs.r14);
        Ok(())
    }

    /// A state that no CPU can be in shuts the vCPU down.
    #[kvm_test(stops_twice, requires(cap::X86_SMM))]
    fn impossible_saved_state_shuts_down(t: &mut OneVcpu) -> TestResult {
        require_amd(&mut t.vm)?;
        enter(t)?;
        let ram = t.vm.ram();
        let cr4 = ram.word(SMBASE + saved::CR4).expect("SMRAM is RAM") | 1 << 31;
        ram.write(SMBASE + saved::CR4, &cr4.to_le_bytes()).expect("SMRAM is RAM");
        run_past(&mut t.vcpu, LEAVING)?;
        check_eq!(
            "RSM to an impossible state shuts the vCPU down",
            t.vcpu.run_once()?,
            Exit::Shutdown
        );
        Ok(())
    }

    /// A handler that changes the saved SMBASE moves SMRAM: the next SMI goes there (SDM vol. 3, "SMBASE
    /// Relocation").
    #[kvm_test(stops_twice, requires(cap::X86_SMM))]
    fn handler_moves_smram(t: &mut OneVcpu) -> TestResult {
        const ELSEWHERE: u64 = 0x5_0000;
        require_amd(&mut t.vm)?;
        enter(t)?;
        let vcpu = &mut t.vcpu;
        check_eq!("userspace can read SMBASE", vcpu.msr(msr::IA32_SMBASE)?, Some(SMBASE));
        let moved = (ELSEWHERE as u32).to_le_bytes();
        t.vm.ram().write(SMBASE + saved::SMBASE, &moved).expect("SMRAM is RAM");
        put_handler(&t.vm, ELSEWHERE)?;
        run_past(vcpu, LEAVING)?;
        vcpu.run_until(Exit::io_out(STOP))?;
        check_eq!("RSM has moved SMBASE", vcpu.msr(msr::IA32_SMBASE)?, Some(ELSEWHERE));
        vcpu.complete_exit()?;
        smi(vcpu)?;
        run_past(vcpu, ENTERED)?;
        let cs = state(vcpu)?.1.cs;
        let want = ((ELSEWHERE >> 4) as u16, ELSEWHERE);
        check_eq!("the next SMI goes to the new SMRAM", (cs.selector, cs.base), want);
        run_past(vcpu, LEAVING)?;
        vcpu.run_until_done()
    }

    /// In SMM a vCPU sees the memslots of address space 1, outside those of 0 (api.rst 4.35 and 8.4).
    #[kvm_test(looks_at_smram, requires(cap::X86_SMM, cap::MULTI_ADDRESS_SPACE))]
    fn smram_is_another_address_space(t: &mut OneVcpu) -> TestResult {
        const SIZE: u64 = 0x1_0000;
        let spaces = t.vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE);
        check_eq!("KVM_CAP_MULTI_ADDRESS_SPACE reports two address spaces", spaces, 2);
        t.vcpu.set_args(&[SMBASE]);
        let outside = t.vm.ram().clone();
        outside.write(SMBASE, &[0x11]).expect("scratch memory is RAM");
        let smram = t.vm.add_memory(SMM_SPACE, 0, SMBASE, SIZE)?;
        smram.write(0, &[0x22]);
        smram.write(HANDLER as usize, code_bytes(&REPORTS_A_BYTE)?);

        let vcpu = &mut t.vcpu;
        run_past(vcpu, STOP)?;
        smi(vcpu)?;
        let seen = vcpu.run_until(Exit::io_out(ENTERED))?.data().to_vec();
        check_eq!("a vCPU in SMM reads SMRAM", seen, [0x22]);
        run_past(vcpu, LEAVING)?;
        let seen = vcpu.run_until(Exit::io_out(STOP))?.data().to_vec();
        check_eq!("a vCPU outside SMM reads memory at the same address", seen, [0x11]);
        let written = |vm: &Vm| [outside.mapping().touch(SMBASE as usize), vm.mapping(0).touch(0)];
        check_eq!("what the vCPU wrote in SMM is in SMRAM alone", written(&t.vm), [0x11, 0x44]);
        vcpu.run_until_done()?;
        check_eq!(
            "what the vCPU wrote outside SMM is in memory alone",
            written(&t.vm),
            [0x33, 0x44]
        );
        Ok(())
    }

    /// A vCPU in SMM goes on as another one: registers, events and SMBASE are all that it is.
    #[kvm_test(stops_twice, requires(cap::X86_SMM))]
    fn vcpu_in_smm_can_be_migrated(t: &mut OneVcpu) -> TestResult {
        make_smram(&t.vm)?;
        run_past(&mut t.vcpu, STOP)?;
        let before = state(&t.vcpu)?;
        smi(&t.vcpu)?;
        run_past(&mut t.vcpu, ENTERED)?;

        check!(
            "KVM_GET_VCPU_EVENTS marks its SMM state as valid",
            events(&t.vcpu)?.flags & KVM_VCPUEVENT_VALID_SMM != 0
        );
        let saved = t.vm.save(&mut [&mut t.vcpu])?;
        let (_vm, mut vcpus) = Vm::restored(&saved)?;
        let mut to = vcpus.remove(0);
        check_eq!("the other vCPU is put into SMM", events(&to)?.smi.smm, 1);
        check_eq!(
            "the other vCPU takes the SMBASE",
            to.msr(msr::IA32_SMBASE)?,
            saved.vcpus[0].msr(msr::IA32_SMBASE)
        );
        run_past(&mut to, LEAVING)?;
        check!("the other vCPU runs in SMM", is_in_smm(&mut to));
        to.run_until(Exit::io_out(STOP))?;
        check!("RSM takes the other vCPU out of SMM", !is_in_smm(&mut to));
        let (regs, sregs, _) = state(&to)?;
        check_eq!("RSM gives the other vCPU the first one's general registers", regs, before.0);
        check_eq!("RSM gives the other vCPU the first one's system registers", sregs, before.1);
        Ok(())
    }
}
