//! Extended state: KVM_{GET,SET}_XSAVE and KVM_GET_XSAVE2 (api.rst 4.42, 4.43, 4.134), and
//! KVM_{GET,SET}_XCRS (4.44, 4.45).
use crate::prelude::*;
use defs::x86::xsave::Xcr0;
use guest_runtime::arch::x86_64::state::{EXCHANGE_PORT, Xmms, exchange_xmms};
const GUEST: u64 = 0x1357_9bdf_0246_8ace;
const USERSPACE: u64 = 0xa5a5_5a5a_3c3c_c3c3;

fn pattern(base: u64) -> Xmms {
    core::array::from_fn(|i| [base.wrapping_add(i as u64), base.rotate_left(i as u32)])
}

#[guest]
fn exchanges(_: &mut Guest) {
    let taken = exchange_xmms(&pattern(GUEST));
    check_eq!("the guest sees userspace's XMM0 to XMM15", taken, pattern(USERSPACE));
}

#[guest]
fn asks_cpuid_for_the_size(g: &mut Guest) {
    write_cr4(read_cr4() | Cr4::OSXSAVE.bits());
    loop {
        let [_, ebx, ..] = cpuid(cpuid::leaf::XSAVE, 0);
        let [more, ..] = g.sync(1, &[ebx.into()]);
        if more == 0 {
            return;
        }
    }
}

#[guest]
fn reads_and_writes_xcr0(g: &mut Guest) {
    write_cr4(read_cr4() | Cr4::OSXSAVE.bits());
    check_eq!("the guest sees userspace's XCR0", xgetbv_safe(0), Ok(bits!(Xcr0::{X87 | SSE})));
    check_eq!("the guest may write XCR0", xsetbv_safe(0, Xcr0::X87.bits()), Ok(()));
    g.sync(1, &[]);
}

#[host]
mod host {
    use super::*;
    use defs::x86::xsave::area::{EXTENDED, MXCSR, XMM0, XSTATE_BV};
    use vm::bindings::{KVM_CAP_XSAVE2, kvm_xcr, kvm_xcrs};

    const KVM_GET_XSAVE: u64 = 0x9000_aea4;
    const KVM_SET_XSAVE: u64 = 0x5000_aea5;
    const KVM_GET_XSAVE2: u64 = 0x9000_aecf;
    /// What KVM_GET_XSAVE fills.
    const XSAVE_BYTES: usize = 4096;

    /// End of the AVX state in the standard format, where CPUID leaf 0xd puts it on every CPU.
    const AVX_END: u32 = EXTENDED + 256;

    fn get_xsave(vcpu: &Vcpu) -> TestResult<Vec<u8>> {
        let mut area = vec![0; XSAVE_BYTES];
        vcpu.raw(KVM_GET_XSAVE, &mut area).ioctl("KVM_GET_XSAVE")?;
        Ok(area)
    }

    /// The size that KVM_SET_XSAVE reads: all that KVM_CAP_XSAVE2 reports, where it does.
    fn area_bytes(vm: &Vm) -> usize {
        (vm.check_extension(KVM_CAP_XSAVE2) as usize).max(XSAVE_BYTES)
    }

    fn set_xsave(vm: &Vm, vcpu: &Vcpu, area: &[u8]) -> Result<(), Errno> {
        let mut bytes = area.to_vec();
        bytes.resize(area_bytes(vm), 0);
        vcpu.raw(KVM_SET_XSAVE, &mut bytes).map(drop)
    }

    fn word(area: &[u8], offset: usize) -> u64 {
        u64::from_ne_bytes(area[offset..offset + 8].try_into().unwrap_or_default())
    }

    fn xmms(area: &[u8]) -> Xmms {
        std::array::from_fn(|i| [word(area, XMM0 + i * 16), word(area, XMM0 + i * 16 + 8)])
    }

    fn put_xmms(area: &mut [u8], xmms: Xmms) {
        for (i, half) in xmms.as_flattened().iter().enumerate() {
            area[XMM0 + i * 8..][..8].copy_from_slice(&half.to_ne_bytes());
        }
        let xstate_bv = word(area, XSTATE_BV) | Xcr0::SSE.bits();
        area[XSTATE_BV..][..8].copy_from_slice(&xstate_bv.to_ne_bytes());
    }

    /// The area has the guest's registers, and the guest those of the area.
    #[kvm_test(exchanges, moved, requires(cap::XSAVE))]
    fn guest_and_userspace_see_the_same_vector_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(EXCHANGE_PORT))?;
        t.vcpu.complete_exit()?;
        let mut area = get_xsave(&t.vcpu)?;
        check_eq!("userspace sees the guest's XMM0 to XMM15", xmms(&area), pattern(GUEST));
        check_eq!(
            "XSTATE_BV reports that SSE is in use",
            word(&area, XSTATE_BV) & Xcr0::SSE.bits(),
            Xcr0::SSE.bits()
        );
        put_xmms(&mut area, pattern(USERSPACE));
        set_xsave(&t.vm, &t.vcpu, &area).ioctl("KVM_SET_XSAVE")?;
        let fpu = t.vcpu.fd().get_fpu().ioctl("KVM_GET_FPU")?;
        let low = u64::from_ne_bytes(fpu.xmm[3][..8].try_into().unwrap_or_default());
        check_eq!("KVM_GET_FPU has the area's XMM3", low, pattern(USERSPACE)[3][0]);
        t.vcpu.run_until_done()
    }

    /// KVM_GET_XSAVE fills 4096 bytes, KVM_GET_XSAVE2 what KVM_CAP_XSAVE2 reports, and neither one more:
    /// behind both buffers lies memory that nobody may touch.
    #[kvm_test(requires(cap::XSAVE))]
    fn areas_have_the_sizes_that_are_documented(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let mut area = vec![0xff; XSAVE_BYTES];
        let got = vcpu.raw(KVM_GET_XSAVE, &mut area);
        check_eq!("KVM_GET_XSAVE writes 4096 bytes at most", got, Ok(0));
        check!(
            "KVM_GET_XSAVE writes the last of 4096 bytes",
            area.iter().rev().take(64).all(|byte| *byte != 0xff)
        );
        let mut short = vec![0; XSAVE_BYTES - 8];
        let got = vcpu.raw(KVM_GET_XSAVE, &mut short);
        check_eq!("KVM_GET_XSAVE to a buffer 8 bytes short is EFAULT", got, Err(Errno::EFAULT));

        let size = t.vm.check_extension(KVM_CAP_XSAVE2) as usize;
        require!(size != 0, "KVM_CAP_XSAVE2");
        check!("KVM_CAP_XSAVE2 reports 4096 bytes or more", size >= XSAVE_BYTES, "{size}");
        let mut large = vec![0; size];
        let got = vcpu.raw(KVM_GET_XSAVE2, &mut large);
        check_eq!("KVM_GET_XSAVE2 writes the reported size at most", got, Ok(0));
        let same = large[..XSAVE_BYTES] == get_xsave(&vcpu)?;
        check!("KVM_GET_XSAVE2 begins with what KVM_GET_XSAVE returns", same);
        let mut short = vec![0; size - 8];
        let got = vcpu.raw(KVM_GET_XSAVE2, &mut short);
        check_eq!("KVM_GET_XSAVE2 to a buffer 8 bytes short is EFAULT", got, Err(Errno::EFAULT));
        let got = vcpu.raw(KVM_SET_XSAVE, &mut short);
        check_eq!(
            "KVM_SET_XSAVE of a buffer shorter than reported is EFAULT",
            got,
            Err(Errno::EFAULT)
        );
        check_eq!(
            "KVM_SET_XSAVE accepts an area of the reported size",
            vcpu.raw(KVM_SET_XSAVE, &mut large),
            Ok(0)
        );
        Ok(())
    }

    /// Components that the guest cannot have, and bits that MXCSR lacks, are EINVAL.
    #[kvm_test(requires(cap::XSAVE))]
    fn impossible_areas_are_refused(t: &mut OneVm) -> TestResult {
        let vcpu = t.vm.create_vcpu(0)?;
        let mut before = get_xsave(&vcpu)?;
        put_xmms(&mut before, pattern(USERSPACE));
        set_xsave(&t.vm, &vcpu, &before).ioctl("KVM_SET_XSAVE")?;
        let before = get_xsave(&vcpu)?;
        let mut bad = before.clone();
        put_xmms(&mut bad, pattern(GUEST));
        // Bit 63 will never be a component; 62 is LWP, which KVM has never offered.
        for bit in [62, 63] {
            let mut bad = bad.clone();
            let xstate_bv = word(&bad, XSTATE_BV) | 1 << bit;
            bad[XSTATE_BV..][..8].copy_from_slice(&xstate_bv.to_ne_bytes());
            let result = set_xsave(&t.vm, &vcpu, &bad);
            check_eq!("an undefined component of XSTATE_BV is EINVAL", result, Err(Errno::EINVAL));
        }
        for bit in 18..32 {
            let mut bad = bad.clone();
            bad[MXCSR..][..4].copy_from_slice(&(0x1f80_u32 | 1 << bit).to_ne_bytes());
            let result = set_xsave(&t.vm, &vcpu, &bad);
            check_eq!("a reserved bit of MXCSR is EINVAL", result, Err(Errno::EINVAL));
        }
        check!("refused areas leave the state", get_xsave(&vcpu)? == before);
        let mut good = before.clone();
        good[MXCSR..][..4].copy_from_slice(&0x7fbf_u32.to_ne_bytes());
        set_xsave(&t.vm, &vcpu, &good).ioctl("KVM_SET_XSAVE")?;
        let mxcsr = word(&get_xsave(&vcpu)?, MXCSR) as u32;
        check_eq!("every bit that MXCSR has on any CPU round-trips", mxcsr, 0x7fbf);
        Ok(())
    }

    fn xcrs(xcr: u32, value: u64) -> kvm_xcrs {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        xcrs.xcrs[0] = kvm_xcr { xcr, value, ..Default::default() };
        xcrs
    }

    fn set_xcr0(vcpu: &Vcpu, value: u64) -> Result<(), Errno> {
        vcpu.fd().set_xcrs(&xcrs(0, value)).errno()
    }

    fn xcr0(vcpu: &Vcpu) -> TestResult<u64> {
        Ok(vcpu.fd().get_xcrs().ioctl("KVM_GET_XCRS")?.xcrs[0].value)
    }

    /// XCR0 takes what XSETBV would (SDM vol. 1, 13.3): x87 always, AVX only with SSE, nothing that the
    /// guest's CPUID lacks.
    #[kvm_test(exchanges, requires(cap::XCRS, cpu::XSAVE))]
    fn xcr0_takes_what_xsetbv_would(t: &mut OneVcpu) -> TestResult {
        let reset = t.vcpu.fd().get_xcrs().ioctl("KVM_GET_XCRS")?;
        check_eq!("KVM_GET_XCRS returns one register", reset.nr_xcrs, 1);
        check_eq!("the one register is XCR0", reset.xcrs[0].xcr, 0);
        check_eq!("flags of kvm_xcrs are 0", reset.flags, 0);
        check_eq!("XCR0 is x87 alone at reset", reset.xcrs[0].value, Xcr0::X87.bits());
        for (what, value) in [
            ("nothing", 0),
            ("SSE without x87", Xcr0::SSE.bits()),
            ("AVX without SSE", bits!(Xcr0::{X87 | AVX})),
            ("bit 63", Xcr0::X87.bits() | 1 << 63),
            ("bit 62", Xcr0::X87.bits() | 1 << 62),
        ] {
            check_eq!("{what} in XCR0 is EINVAL", set_xcr0(&t.vcpu, value), Err(Errno::EINVAL));
        }
        check_eq!("refused values of XCR0 change nothing", xcr0(&t.vcpu)?, Xcr0::X87.bits());
        check_eq!(
            "x87 and SSE in XCR0 are accepted",
            set_xcr0(&t.vcpu, bits!(Xcr0::{X87 | SSE})),
            Ok(())
        );
        check_eq!("XCR0 reads as it was set", xcr0(&t.vcpu)?, bits!(Xcr0::{X87 | SSE}));

        let set = |xcrs: &kvm_xcrs| t.vcpu.fd().set_xcrs(xcrs).errno();
        let too_many = kvm_xcrs { nr_xcrs: 17, ..xcrs(0, Xcr0::X87.bits()) };
        check_eq!("more registers than fit are EINVAL", set(&too_many), Err(Errno::EINVAL));
        let flags = kvm_xcrs { flags: 1, ..xcrs(0, Xcr0::X87.bits()) };
        check_eq!("a flag of kvm_xcrs is EINVAL", set(&flags), Err(Errno::EINVAL));
        check_eq!("refused lists leave XCR0 unchanged", xcr0(&t.vcpu)?, bits!(Xcr0::{X87 | SSE}));
        Ok(())
    }

    /// CPUID leaf 0xd tells the guest the size of what XCR0 enables.
    #[kvm_test(asks_cpuid_for_the_size, requires(cap::XCRS, cpu::AVX))]
    fn cpuid_follows_xcr0(t: &mut OneVcpu) -> TestResult {
        for (what, value, size) in [
            ("x87 alone", Xcr0::X87.bits(), EXTENDED),
            ("x87 and SSE", bits!(Xcr0::{X87 | SSE}), EXTENDED),
            ("x87, SSE and AVX", bits!(Xcr0::{X87 | SSE | AVX}), AVX_END),
            ("x87 and SSE again", bits!(Xcr0::{X87 | SSE}), EXTENDED),
        ] {
            set_xcr0(&t.vcpu, value).ioctl("KVM_SET_XCRS")?;
            let [got, ..] = t.vcpu.run_until_sync(1)?;
            check_eq!("CPUID reports the size of {what}", got, u64::from(size));
            t.vcpu.answer(&[1]);
            t.vcpu.complete_exit()?;
        }
        t.vcpu.run_until_sync(1)?;
        t.vcpu.answer(&[0]);
        t.vcpu.run_until_done()
    }

    /// XGETBV gives the XCR0 that userspace set, and userspace sees the guest's XSETBV.
    #[kvm_test(reads_and_writes_xcr0, requires(cap::XCRS, cpu::XSAVE))]
    fn guest_and_userspace_see_the_same_xcr0(t: &mut OneVcpu) -> TestResult {
        set_xcr0(&t.vcpu, bits!(Xcr0::{X87 | SSE})).ioctl("KVM_SET_XCRS")?;
        t.vcpu.run_until_sync(1)?;
        check_eq!("userspace sees the guest's XCR0", xcr0(&t.vcpu)?, Xcr0::X87.bits());
        t.vcpu.run_until_done()
    }
}
