//! The three resets of a vCPU (api.rst 4.122 to 4.124, KVM_S390_NORMAL_RESET, KVM_S390_INITIAL_RESET,
//! KVM_S390_CLEAR_RESET; Principles of Operation, "Resets"): each clears what its name says, and
//! nothing else.
use crate::prelude::*;

const READY: u64 = 1;

#[guest]
fn waits(g: &mut Guest) {
    g.sync(READY, &[]);
    check_eq!("the guest goes on where it was set", g.arg(0), 7);
}

#[host]
mod host {
    use super::*;
    use {
        bindings::{
            KVM_S390_INT_EMERGENCY, kvm_fpu, kvm_regs, kvm_s390_irq, kvm_s390_irq_state, kvm_sregs,
        },
        defs::s390x::cr::{CR0_INITIAL, CR14_INITIAL, KVM_S390_PFAULT_TOKEN_INVALID},
        request::s390x::*,
        zerocopy::IntoBytes,
    };

    /// Bytes of a pending interrupt.
    const IRQ: usize = size_of::<kvm_s390_irq>();

    /// What a vCPU's registers are, as the ioctls tell.
    #[derive(Clone, Debug, PartialEq)]
    struct Registers {
        gprs: [u64; 16],
        acrs: [u32; 16],
        crs: [u64; 16],
        fpc: u32,
        fprs: [u64; 16],
        todpr: u64,
        cpu_timer: u64,
        clock_comparator: u64,
        program_parameter: u64,
        breaking_event: u64,
        pfault_token: u64,
    }

    impl Registers {
        fn read(vcpu: &Vcpu) -> TestResult<Self> {
            let (mut regs, mut sregs, mut fpu) =
                (kvm_regs::default(), kvm_sregs::default(), kvm_fpu::default());
            vcpu.raw(KVM_GET_REGS, regs.as_mut_bytes()).ioctl("KVM_GET_REGS")?;
            vcpu.raw(KVM_GET_SREGS, sregs.as_mut_bytes()).ioctl("KVM_GET_SREGS")?;
            vcpu.raw(KVM_GET_FPU, fpu.as_mut_bytes()).ioctl("KVM_GET_FPU")?;
            let one = |id| vcpu.get_reg(id).ioctl("KVM_GET_ONE_REG");
            Ok(Self {
                gprs: regs.gprs,
                acrs: sregs.acrs,
                crs: sregs.crs,
                fpc: fpu.fpc,
                fprs: fpu.fprs,
                todpr: vcpu.get_reg32(reg::TODPR).ioctl("KVM_GET_ONE_REG")?.into(),
                cpu_timer: one(reg::CPU_TIMER)?,
                clock_comparator: one(reg::CLOCK_COMPARATOR)?,
                program_parameter: one(reg::PROGRAM_PARAMETER)?,
                breaking_event: one(reg::BREAKING_EVENT)?,
                pfault_token: one(reg::PFAULT_TOKEN)?,
            })
        }

        /// Values that no reset leaves, but for the general registers, which are the guest's.
        fn dirty(vcpu: &Vcpu) -> TestResult<Self> {
            let clean = Self::read(vcpu)?;
            let acrs: [u32; 16] = std::array::from_fn(|n| 0xa0 + n as u32);
            // 0, 1, 7, 13 and 14 steer what the guest does; the rest is free where nothing uses it.
            let crs: [u64; 16] = std::array::from_fn(|n| match n {
                0 | 14 => clean.crs[n] | 1 << 12,
                n => 0xc000 + 0x1000 * n as u64,
            });
            let fprs: [u64; 16] = std::array::from_fn(|n| 0x3ff0_0000_0000_0000 + n as u64);
            let mut sregs = kvm_sregs { acrs, crs };
            vcpu.raw(KVM_SET_SREGS, sregs.as_mut_bytes()).ioctl("KVM_SET_SREGS")?;
            let fpc = 0x11_0000_u32;
            let mut fpu = kvm_fpu { fpc, padding: 0, fprs };
            vcpu.raw(KVM_SET_FPU, fpu.as_mut_bytes()).ioctl("KVM_SET_FPU")?;
            vcpu.set_reg32(reg::TODPR, 0x1234).ioctl("KVM_SET_ONE_REG(KVM_REG_S390_TODPR)")?;
            for (id, value) in [
                (reg::CPU_TIMER, 0x7fff_0000_0000_0000),
                (reg::CLOCK_COMPARATOR, 0xffff_0000_0000_0000),
                (reg::PROGRAM_PARAMETER, 0x1111),
                (reg::BREAKING_EVENT, 0x2222),
                (reg::PFAULT_TOKEN, 0x3333),
            ] {
                vcpu.set_reg(id, value).ioctl("KVM_SET_ONE_REG")?;
            }
            let seen = Self::read(vcpu)?;
            check_eq!("access registers are what was set", seen.acrs, acrs);
            check_eq!("control registers are what was set", seen.crs, crs);
            check_eq!("floating-point registers are what was set", seen.fprs, fprs);
            check_eq!("the floating-point control register is what was set", seen.fpc, fpc);
            let [todpr, token] = [seen.todpr, seen.pfault_token];
            check_eq!("registers one by one are what was set", [todpr, token], [0x1234, 0x3333]);
            Ok(seen)
        }
    }

    /// Makes an emergency signal pending. The guest has not enabled it.
    fn inject_emergency(vcpu: &Vcpu) -> TestResult {
        // The sender's CPU address is 0: itself.
        let mut irq = kvm_s390_irq { type_: KVM_S390_INT_EMERGENCY, u: [0; 64] };
        vcpu.raw(KVM_S390_IRQ, irq.as_mut_bytes()).map(drop).ioctl("KVM_S390_IRQ")
    }

    /// KVM_S390_GET_IRQ_STATE: how many bytes of pending interrupts there are.
    fn pending(vcpu: &Vcpu) -> Result<i32, Errno> {
        const ROOM: usize = 16 * IRQ;
        let buffer = GuardedBuffer::new(&[0; ROOM]);
        let mut state = kvm_s390_irq_state {
            buf: buffer.address(),
            len: ROOM as u32,
            ..kvm_s390_irq_state::default()
        };
        vcpu.raw(KVM_S390_GET_IRQ_STATE, state.as_mut_bytes())
    }

    /// Dirties everything, resets, and gives the registers before and after.
    fn reset(vcpu: &mut Vcpu, request: u64) -> TestResult<(Registers, Registers)> {
        vcpu.run_until_sync(READY)?;
        let before = Registers::dirty(vcpu)?;
        inject_emergency(vcpu)?;
        check_eq!("an emergency signal is pending before the reset", pending(vcpu), Ok(IRQ as i32));
        check_eq!("the reset ioctl succeeds", raw_ioctl_value(vcpu, request, 0), Ok(0));
        let after = Registers::read(vcpu)?;
        check_eq!("no interrupt is pending after the reset", pending(vcpu), Ok(0));
        check_eq!(
            "the page-fault token is invalid after the reset",
            after.pfault_token,
            KVM_S390_PFAULT_TOKEN_INVALID
        );
        Ok((before, after))
    }

    /// What an initial reset clears, and a clear reset too.
    fn check_initial(vcpu: &mut Vcpu, after: &Registers) {
        let crs = std::array::from_fn(|n| match n {
            0 => CR0_INITIAL,
            14 => CR14_INITIAL,
            _ => 0,
        });
        check_eq!("control registers have their initial values", after.crs, crs);
        check_eq!("the floating-point control register is 0", after.fpc, 0);
        check_eq!("the TOD programmable register is 0", after.todpr, 0);
        check_eq!("the CPU timer is 0", after.cpu_timer, 0);
        check_eq!("the clock comparator is 0", after.clock_comparator, 0);
        check_eq!("the program parameter is 0", after.program_parameter, 0);
        check_eq!("the breaking-event address is 1", after.breaking_event, 1);
        let run = vcpu.kvm_run();
        check_eq!("the PSW is 0 after the reset", [run.psw_mask, run.psw_addr], [0, 0]);
    }

    /// A normal reset takes pending interrupts and the page-fault token away, and leaves every register.
    #[kvm_test(waits, requires(cap::S390_VCPU_RESETS))]
    fn normal_reset_keeps_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.set_args(&[7]);
        let (before, after) = reset(&mut t.vcpu, KVM_S390_NORMAL_RESET)?;
        let kept = Registers { pfault_token: KVM_S390_PFAULT_TOKEN_INVALID, ..before };
        check_eq!("every register is as before", after, kept);
        t.vcpu.run_until_done()
    }

    /// An initial reset clears control, timing and the PSW too, and leaves general, access and
    /// floating-point registers.
    #[kvm_test(waits)]
    fn initial_reset_keeps_operands(t: &mut OneVcpu) -> TestResult {
        let (before, after) = reset(&mut t.vcpu, KVM_S390_INITIAL_RESET)?;
        check_initial(&mut t.vcpu, &after);
        check_eq!("general registers are as before", after.gprs, before.gprs);
        check_eq!("access registers are as before", after.acrs, before.acrs);
        check_eq!("floating-point registers are as before", after.fprs, before.fprs);
        Ok(())
    }

    /// A clear reset clears general, access and floating-point registers too.
    #[kvm_test(waits, requires(cap::S390_VCPU_RESETS))]
    fn clear_reset_clears_operands(t: &mut OneVcpu) -> TestResult {
        let (before, after) = reset(&mut t.vcpu, KVM_S390_CLEAR_RESET)?;
        check_initial(&mut t.vcpu, &after);
        check!("general registers were not 0", before.gprs != [0; 16]);
        check_eq!("general registers are 0", after.gprs, [0; 16]);
        check_eq!("access registers are 0", after.acrs, [0; 16]);
        check_eq!("floating-point registers are 0", after.fprs, [0; 16]);
        Ok(())
    }

    /// A vCPU that was reset runs again from where it is set.
    #[kvm_test(waits, requires(cap::S390_VCPU_RESETS), params = [
    initial: KVM_S390_INITIAL_RESET,
    clear: KVM_S390_CLEAR_RESET,
])]
    fn guest_starts_again_after_a_reset(t: &mut OneVcpu, request: u64) -> TestResult {
        t.vcpu.set_args(&[7]);
        reset(&mut t.vcpu, request)?;
        t.vcpu.start_at(guest_fn!(waits))?;
        t.vcpu.run_until_sync(READY)?;
        t.vcpu.run_until_done()
    }
}
