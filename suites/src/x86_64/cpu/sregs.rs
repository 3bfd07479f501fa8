//! Special registers: KVM_{GET,SET}_SREGS (api.rst 4.13, 4.14) and KVM_{GET,SET}_SREGS2 (4.131,
//! 4.132).
use crate::prelude::*;
use guest_runtime::arch::x86_64::state::descriptor_tables;
use msr::{IA32_EFER, IA32_FS_BASE as FS_BASE, IA32_GS_BASE as GS_BASE};

const FS_VALUE: u64 = 0xffff_8000_1234_5000;
const GS_VALUE: u64 = 0x0000_7000_8765_4000;
const CR2_VALUE: u64 = 0xdead_beef_0123;
const CR8_VALUE: u64 = 9;
const GUEST_CR2: u64 = 0xfeed_0000_0042;
const GUEST_CR8: u64 = 3;
const IDT_LIMIT: u16 = 0xfff;

#[guest]
fn compares_special_registers(g: &mut Guest) {
    let [cr0, cr3, cr4, efer, gdt, ..] = g.sync(1, &[]);
    check_eq!("the guest sees userspace's CR0", read_cr0(), cr0);
    check_eq!("the guest sees userspace's CR2", read_cr2(), CR2_VALUE);
    check_eq!("the guest sees userspace's CR3", read_cr3(), cr3);
    check_eq!("the guest sees userspace's CR4", read_cr4(), cr4);
    check_eq!("the guest sees userspace's CR8", read_cr8(), CR8_VALUE);
    check_eq!("the guest sees userspace's EFER", rdmsr(IA32_EFER), efer);
    check_eq!("the guest sees userspace's FS base", rdmsr(FS_BASE), FS_VALUE);
    check_eq!("the guest sees userspace's GS base", rdmsr(GS_BASE), GS_VALUE);
    let [gdtr, idtr] = descriptor_tables();
    check_eq!("the guest sees userspace's GDT base", gdtr.0, gdt);
    check_eq!("the guest sees userspace's IDT", idtr, (layout::x86_64::IDT, IDT_LIMIT));

    write_cr2(GUEST_CR2);
    write_cr8(GUEST_CR8);
    write_cr4(cr4 & !Cr4::DE.bits());
    wrmsr(FS_BASE, FS_VALUE + 8);
    wrmsr(GS_BASE, GS_VALUE + 8);
    g.sync(2, &[]);
}

#[guest]
fn does_nothing(_: &mut Guest) {}

const INTERRUPT: u8 = 0x55;
const WAIT_PORT: u16 = 0x82;

#[guest]
fn takes_an_interrupt(_: &mut Guest) {
    let mut taken = 0;
    with_handler(
        INTERRUPT,
        |_| taken += 1,
        || {
            sti();
            outb(WAIT_PORT, 0);
            cli();
        },
    );
    check_eq!("the guest takes the bitmap's interrupt exactly once", taken, 1);
}

#[host]
mod host {
    use super::*;
    use vm::bindings::{
        KVM_SREGS2_FLAGS_PDPTRS_VALID, kvm_dtable, kvm_segment, kvm_sregs, kvm_sregs2,
    };
    use {
        apic::{ApicBase, XAPIC_BASE},
        cpuid::{Feature, feature},
    };

    fn get(vcpu: &Vcpu) -> TestResult<kvm_sregs> {
        vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")
    }

    fn set(vcpu: &Vcpu, sregs: &kvm_sregs) -> Result<(), Errno> {
        vcpu.fd().set_sregs(sregs).errno()
    }

    /// The guest reads what KVM_SET_SREGS gave, and KVM_GET_SREGS gives what the guest wrote.
    #[kvm_test(compares_special_registers, irqchip)]
    fn guest_and_userspace_see_the_same_special_registers(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until_sync(1)?;
        t.vcpu.complete_exit()?;
        let mut sregs = get(&t.vcpu)?;
        let cr4 = sregs.cr4;
        (sregs.cr2, sregs.cr4, sregs.cr8) = (CR2_VALUE, cr4 | Cr4::DE.bits(), CR8_VALUE);
        sregs.efer |= Efer::SCE.bits();
        (sregs.fs.base, sregs.gs.base, sregs.idt.limit) = (FS_VALUE, GS_VALUE, IDT_LIMIT);
        set(&t.vcpu, &sregs).ioctl("KVM_SET_SREGS")?;
        t.vcpu.answer(&[sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer, sregs.gdt.base]);
        t.vcpu.run_until_sync(2)?;
        let got = get(&t.vcpu)?;
        check_eq!("userspace sees the guest's CR2", got.cr2, GUEST_CR2);
        check_eq!("userspace sees the guest's CR8", got.cr8, GUEST_CR8);
        check_eq!("userspace sees the guest's CR4", got.cr4, cr4);
        check_eq!("userspace sees the guest's FS base", got.fs.base, FS_VALUE + 8);
        check_eq!("userspace sees the guest's GS base", got.gs.base, GS_VALUE + 8);
        t.vcpu.run_until_done()
    }

    /// A present, accessed data segment: what every CPU can hold.
    fn data_segment(base: u64, selector: u16) -> kvm_segment {
        let limit = 0xf_0000 | u32::from(selector);
        kvm_segment {
            base,
            limit,
            selector,
            type_: 3,
            present: 1,
            s: 1,
            db: 1,
            ..Default::default()
        }
    }

    /// Every field of KVM_SET_SREGS comes back from KVM_GET_SREGS.
    #[kvm_test(does_nothing)]
    fn special_registers_round_trip(t: &mut OneVcpu) -> TestResult {
        let mut want = get(&t.vcpu)?;
        want.ds = data_segment(0x1111_0000, 0x10);
        want.es = kvm_segment { avl: 1, ..data_segment(0x2222_0000, 0x18) };
        want.fs = kvm_segment { dpl: 3, ..data_segment(FS_VALUE, 0x23) };
        want.gs = kvm_segment { db: 0, ..data_segment(GS_VALUE, 0x28) };
        want.ss = kvm_segment { g: 1, limit: u32::MAX, ..data_segment(0x3333_0000, 0x30) };
        let system = kvm_segment { s: 0, db: 0, ..data_segment(0x4444_0000, 0x38) };
        want.ldt = kvm_segment { type_: 2, limit: 0xfff, ..system };
        want.tr =
            kvm_segment { type_: 11, limit: 0x67, selector: 0x48, base: 0x5555_0000, ..system };
        want.gdt = kvm_dtable { base: 0x6666_0000, limit: 0x7ff, ..Default::default() };
        want.idt = kvm_dtable { base: 0x7777_0000, limit: 0xfff, ..Default::default() };
        want.cr2 = u64::MAX;
        want.cr3 = 0x7000;
        want.cr4 |= Cr4::DE.bits();
        want.efer |= Efer::SCE.bits();
        set(&t.vcpu, &want).ioctl("KVM_SET_SREGS")?;
        let got = get(&t.vcpu)?;
        for (name, got, want) in [
            ("CS", got.cs, want.cs),
            ("DS", got.ds, want.ds),
            ("ES", got.es, want.es),
            ("FS", got.fs, want.fs),
            ("GS", got.gs, want.gs),
            ("SS", got.ss, want.ss),
            ("LDT", got.ldt, want.ldt),
            ("TR", got.tr, want.tr),
        ] {
            check_eq!("the segment register {name} round-trips", got, want);
        }
        check_eq!(
            "the GDT register round-trips",
            (got.gdt.base, got.gdt.limit),
            (want.gdt.base, want.gdt.limit)
        );
        check_eq!(
            "the IDT register round-trips",
            (got.idt.base, got.idt.limit),
            (want.idt.base, want.idt.limit)
        );
        for (name, got, want) in [
            ("CR0", got.cr0, want.cr0),
            ("CR2", got.cr2, want.cr2),
            ("CR3", got.cr3, want.cr3),
            ("CR4", got.cr4, want.cr4),
            ("EFER", got.efer, want.efer),
            ("the APIC base", got.apic_base, want.apic_base),
        ] {
            check_eq!("the value of {name} round-trips", got, want);
        }
        check_eq!("no interrupt is pending in the bitmap", got.interrupt_bitmap, [0; 4]);
        Ok(())
    }

    /// CR8 holds the four bits of a task priority (SDM vol. 3, "Task Priority in IA-32e Mode").
    #[kvm_test(does_nothing, irqchip)]
    fn cr8_holds_four_bits(t: &mut OneVcpu) -> TestResult {
        let mut sregs = get(&t.vcpu)?;
        for priority in 0..16 {
            sregs.cr8 = priority;
            set(&t.vcpu, &sregs).ioctl("KVM_SET_SREGS")?;
            check_eq!("every CR8 priority from 0 to 15 round-trips", get(&t.vcpu)?.cr8, priority);
        }
        for bit in 4..64 {
            sregs.cr8 = 1 << bit;
            // KVM may refuse or ignore it.
            let _ = set(&t.vcpu, &sregs);
            let got = get(&t.vcpu)?.cr8;
            check!("a reserved bit of CR8 is never set", got < 16, "bit {bit}: {got:#x}");
        }
        Ok(())
    }

    /// Sets a state that must be refused with EINVAL, and sees that nothing of it was taken.
    fn refused(
        vcpu: &Vcpu,
        change: impl FnOnce(&mut kvm_sregs),
    ) -> TestResult<(Result<(), Errno>, bool)> {
        let before = get(vcpu)?;
        let mut bad = before;
        // Something harmless that would show if the refused state were taken in part.
        bad.cr2 = before.cr2 ^ 0x1000;
        bad.ds.base = before.ds.base ^ 0x1000;
        bad.gdt.limit ^= 8;
        change(&mut bad);
        let result = set(vcpu, &bad);
        let unchanged = get(vcpu)? == before;
        if result.is_ok() {
            set(vcpu, &before).ioctl("KVM_SET_SREGS with the state from before")?;
        }
        Ok((result, unchanged))
    }

    /// A change to the state of a vCPU in 64-bit mode, and what is wrong with it.
    type Change = (&'static str, fn(&mut kvm_sregs));

    /// Combinations that no CPU can be in are EINVAL, and leave the state as it was.
    #[kvm_test(does_nothing)]
    fn impossible_modes_are_refused(t: &mut OneVcpu) -> TestResult {
        let changes: [Change; 9] = [
            ("CR0.PG without CR0.PE", |s| s.cr0 &= !Cr0::PE.bits()),
            ("CR0.NW without CR0.CD", |s| s.cr0 = s.cr0 & !Cr0::CD.bits() | Cr0::NW.bits()),
            ("a bit in CR0's high half", |s| s.cr0 |= 1 << 32),
            ("EFER.LMA without CR0.PG", |s| s.cr0 &= !Cr0::PG.bits()),
            ("EFER.LMA without EFER.LME", |s| s.efer &= !Efer::LME.bits()),
            ("EFER.LME and CR0.PG without EFER.LMA", |s| s.efer &= !Efer::LMA.bits()),
            ("64-bit mode without CR4.PAE", |s| s.cr4 &= !Cr4::PAE.bits()),
            ("CS.L outside 64-bit mode", |s| s.efer &= !bits!(Efer::{LMA | LME})),
            ("CR3 beyond the guest's physical addresses", |s| s.cr3 |= 1 << 52),
        ];
        for (what, change) in changes {
            let (result, unchanged) = refused(&t.vcpu, change)?;
            check_eq!("setting the state with {what} is EINVAL", result, Err(Errno::EINVAL));
            check!("the state with {what}, refused, leaves the old state", unchanged);
        }
        let same = get(&t.vcpu)?;
        check_eq!("the state that KVM returned is accepted", set(&t.vcpu, &same), Ok(()));
        Ok(())
    }

    /// Bits of CR4 that no guest feature stands for are EINVAL.
    #[kvm_test(does_nothing)]
    fn reserved_bits_of_cr4_are_refused(t: &mut OneVcpu) -> TestResult {
        // Never given a meaning, as far as the SDM goes: bits 15 and 29 to 31, and 33 to 63.
        let reserved = [15, 29, 30, 31].into_iter().chain(33..64);
        for bit in reserved {
            let before = get(&t.vcpu)?;
            let result = set(&t.vcpu, &kvm_sregs { cr4: before.cr4 | 1 << bit, ..before });
            check_eq!("a reserved bit of CR4 is EINVAL", result, Err(Errno::EINVAL));
            check_eq!("a refused reserved bit leaves CR4", get(&t.vcpu)?.cr4, before.cr4);
        }
        Ok(())
    }

    /// A guest may have a bit of CR4 set when its CPUID offers the feature, and not otherwise.
    #[kvm_test(does_nothing, params = [
    vmxe: (Cr4::VMXE, feature::VMX),
    umip: (Cr4::UMIP, feature::UMIP),
    la57: (Cr4::LA57, feature::LA57),
    fsgsbase: (Cr4::FSGSBASE, feature::FSGSBASE),
    pcide: (Cr4::PCIDE, feature::PCID),
    osxsave: (Cr4::OSXSAVE, feature::XSAVE),
    smep: (Cr4::SMEP, feature::SMEP),
    smap: (Cr4::SMAP, feature::SMAP),
    pke: (Cr4::PKE, feature::PKU),
])]
    fn cr4_bits_follow_cpuid(t: &mut OneVcpu, (bit, feature): (Cr4, Feature)) -> TestResult {
        let offered = |vm: &mut Vm, off: bool| {
            let mut offered = false;
            for entry in vm.cpuid_mut().as_mut_slice() {
                if (entry.function, entry.index) == (feature.leaf, feature.subleaf) {
                    let words = [&mut entry.eax, &mut entry.ebx, &mut entry.ecx, &mut entry.edx];
                    let word: &mut u32 =
                        words.into_iter().nth(feature.register as usize).expect("four registers");
                    offered = *word & feature.mask() != 0;
                    if off {
                        *word &= !feature.mask();
                    }
                }
            }
            offered
        };
        let before = get(&t.vcpu)?;
        let wanted = kvm_sregs { cr4: before.cr4 | bit.bits(), ..before };
        // VMXE also needs VMX operation in the host: KVM may offer the bit and refuse this here.
        if offered(&mut t.vm, false) && bit != Cr4::VMXE {
            check_eq!("the bit of an offered feature may be set", set(&t.vcpu, &wanted), Ok(()));
            check_eq!("the bit of an offered feature reads as set", get(&t.vcpu)?.cr4, wanted.cr4);
            set(&t.vcpu, &before).ioctl("KVM_SET_SREGS")?;
        }
        offered(&mut t.vm, true);
        let without = t.vm.add_vcpu(1, guest_fn!(does_nothing))?;
        let before = get(&without)?;
        let wanted = kvm_sregs { cr4: before.cr4 | bit.bits(), ..before };
        let result = set(&without, &wanted);
        check_eq!("the bit of a feature that CPUID lacks is EINVAL", result, Err(Errno::EINVAL));
        check_eq!("a refused feature bit leaves CR4", get(&without)?.cr4, before.cr4);
        Ok(())
    }

    /// The APIC base: reserved bits, and x2APIC mode without the enable bit, are EINVAL (SDM vol. 3,
    /// "IA32_APIC_BASE"; api.rst 4.14).
    #[kvm_test(does_nothing, irqchip)]
    fn impossible_apic_bases_are_refused(t: &mut OneVcpu) -> TestResult {
        let before = get(&t.vcpu)?;
        let base = before.apic_base;
        check_eq!(
            "the APIC is enabled at its default base",
            base,
            XAPIC_BASE | bits!(ApicBase::{BSP | EN})
        );
        let reserved = (0..8).chain([9]).chain(52..64);
        for bit in reserved {
            let (result, unchanged) = refused(&t.vcpu, |s| s.apic_base = base | 1 << bit)?;
            check_eq!("a reserved bit of the APIC base is EINVAL", result, Err(Errno::EINVAL));
            check!("a refused APIC base leaves the state", unchanged, "bit {bit}");
        }
        let disabled = base & !ApicBase::EN.bits();
        let (result, unchanged) =
            refused(&t.vcpu, |s| s.apic_base = disabled | ApicBase::EXTD.bits())?;
        check_eq!("EXTD without EN is EINVAL", result, Err(Errno::EINVAL));
        check!("EXTD without EN, refused, leaves the state", unchanged);
        set(&t.vcpu, &kvm_sregs { apic_base: disabled, ..before }).ioctl("disable the APIC")?;
        check_eq!("a disabled APIC base round-trips", get(&t.vcpu)?.apic_base, disabled);
        set(&t.vcpu, &before).ioctl("enable the APIC")?;
        check_eq!("an enabled APIC base round-trips", get(&t.vcpu)?.apic_base, base);
        Ok(())
    }

    /// `interrupt_bitmap` is an interrupt that the APIC has acknowledged and the CPU not yet taken.
    #[kvm_test(takes_an_interrupt)]
    fn interrupt_bitmap_is_taken_by_the_guest(t: &mut OneVcpu) -> TestResult {
        t.vcpu.run_until(Exit::io_out(WAIT_PORT))?;
        t.vcpu.complete_exit()?;
        let mut sregs = get(&t.vcpu)?;
        check_eq!("no interrupt is pending before one is set", sregs.interrupt_bitmap, [0; 4]);
        sregs.interrupt_bitmap[usize::from(INTERRUPT / 64)] = 1 << (INTERRUPT % 64);
        set(&t.vcpu, &sregs).ioctl("KVM_SET_SREGS")?;
        let bitmap = get(&t.vcpu)?.interrupt_bitmap;
        check_eq!("the pending interrupt reads as it was set", bitmap, sregs.interrupt_bitmap);
        t.vcpu.run_until_done()?;
        check_eq!(
            "no interrupt is pending after it was taken",
            get(&t.vcpu)?.interrupt_bitmap,
            [0; 4]
        );
        Ok(())
    }

    /// KVM_{GET,SET}_SREGS2 is the same state, with the PDPTRs where they are in use.
    #[kvm_test(does_nothing, requires(cap::SREGS2))]
    fn sregs2_carry_pdptrs_in_pae_mode_only(t: &mut OneVcpu) -> TestResult {
        let long = t.vcpu.sregs2().ioctl("KVM_GET_SREGS2")?;
        let same = get(&t.vcpu)?;
        check_eq!("64-bit mode has no PDPTRs", long.flags, 0);
        let both = (long.cr0, long.cr3, long.cr4, long.efer, long.apic_base, long.cs);
        let first = (same.cr0, same.cr3, same.cr4, same.efer, same.apic_base, same.cs);
        check_eq!("SREGS2 and SREGS are the same state", both, first);

        let set = |sregs: &kvm_sregs2| t.vcpu.set_sregs2(sregs);
        let valid = u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID);
        let with_pdptrs = kvm_sregs2 { flags: valid, ..long };
        check_eq!("PDPTRs in 64-bit mode are EINVAL", set(&with_pdptrs), Err(Errno::EINVAL));
        for bit in 1..64 {
            let unknown = set(&kvm_sregs2 { flags: 1 << bit, ..long });
            check_eq!("an unknown flag of KVM_SET_SREGS2 is EINVAL", unknown, Err(Errno::EINVAL));
        }
        let unpaged = kvm_sregs2 { cr0: long.cr0 & !Cr0::PG.bits(), efer: 0, flags: valid, ..long };
        let unpaged = kvm_sregs2 { cs: kvm_segment { l: 0, db: 1, ..long.cs }, ..unpaged };
        check_eq!("PDPTRs without paging are EINVAL", set(&unpaged), Err(Errno::EINVAL));
        let no_pae = kvm_sregs2 { cr0: long.cr0, cr4: long.cr4 & !Cr4::PAE.bits(), ..unpaged };
        check_eq!("PDPTRs without CR4.PAE are EINVAL", set(&no_pae), Err(Errno::EINVAL));
        check_eq!("refused SREGS2 leave the state", t.vcpu.sregs2().ioctl("get")?, long);

        let pdptrs = [0x1001, 0x2001, 0x3001, 0];
        let pae = kvm_sregs2 { cr0: long.cr0, pdptrs, ..unpaged };
        check_eq!("PDPTRs in PAE mode are accepted", set(&pae), Ok(()));
        let got = t.vcpu.sregs2().ioctl("KVM_GET_SREGS2")?;
        check_eq!("the flag reports the PDPTRs as valid", got.flags, valid);
        check_eq!("the PDPTRs of PAE mode round-trip", got.pdptrs, pdptrs);
        check_eq!("a return to 64-bit mode is accepted", set(&long), Ok(()));
        check_eq!(
            "64-bit mode has no PDPTRs after PAE mode",
            t.vcpu.sregs2().ioctl("KVM_GET_SREGS2")?.flags,
            0
        );
        Ok(())
    }

    /// KVM_SET_SREGS2 refuses what KVM_SET_SREGS does.
    #[kvm_test(does_nothing, requires(cap::SREGS2))]
    fn sregs2_refuse_impossible_modes(t: &mut OneVcpu) -> TestResult {
        let before = t.vcpu.sregs2().ioctl("KVM_GET_SREGS2")?;
        for (what, bad) in [
            ("EFER.LMA without CR0.PG", kvm_sregs2 { cr0: before.cr0 & !Cr0::PG.bits(), ..before }),
            (
                "64-bit mode without CR4.PAE",
                kvm_sregs2 { cr4: before.cr4 & !Cr4::PAE.bits(), ..before },
            ),
            ("a reserved bit of CR4", kvm_sregs2 { cr4: before.cr4 | 1 << 63, ..before }),
            (
                "a reserved bit of the APIC base",
                kvm_sregs2 { apic_base: before.apic_base | 1, ..before },
            ),
        ] {
            let bad = kvm_sregs2 { cr2: before.cr2 ^ 0x1000, ..bad };
            check_eq!(
                "setting the state with {what} is EINVAL",
                t.vcpu.set_sregs2(&bad),
                Err(Errno::EINVAL)
            );
            check_eq!(
                "the state with {what}, refused, leaves the old state",
                t.vcpu.sregs2().ioctl("get")?,
                before
            );
        }
        Ok(())
    }
}
