//! MMIO exits (api.rst 5, KVM_EXIT_MMIO): every size, direction and kind of instruction.
use crate::prelude::*;
use crate::x86_64::support::mmio_device::DEVICE;
use insn_table::{Form, Gpr::*, State};

const PAGE: u64 = layout::PAGE_SIZE;
/// RAM for instructions that need memory beside the device.
const BUFFER: u64 = layout::SCRATCH;

/// The device's bytes at `offset`, as an integer.
fn reset_value(offset: u64, bytes: u64) -> u64 {
    let byte = |i: u64| ((i + 1) * 37 + i / PAGE) & 0xff;
    (0..bytes).map(|i| byte(offset + i) << (8 * i)).sum()
}

#[guest]
fn loads(_: &mut Guest) {
    check_eq!("a load gets 1 byte from userspace", peek::<u8>(DEVICE), reset_value(0, 1) as u8);
    check_eq!(
        "a load gets 2 bytes from userspace",
        peek::<u16>(DEVICE + 0x10),
        reset_value(0x10, 2) as u16
    );
    check_eq!(
        "a load gets 4 bytes from userspace",
        peek::<u32>(DEVICE + 0x20),
        reset_value(0x20, 4) as u32
    );
    check_eq!(
        "a load gets 8 bytes from userspace",
        peek::<u64>(DEVICE + 0x30),
        reset_value(0x30, 8)
    );
    check_eq!(
        "a load gets 8 unaligned bytes from userspace",
        peek::<u64>(DEVICE + 0x43),
        reset_value(0x43, 8)
    );
    check_eq!(
        "a load gets the last byte of a page",
        peek::<u8>(DEVICE + PAGE - 1),
        reset_value(PAGE - 1, 1) as u8
    );
    check_eq!(
        "MOV AL from MMIO keeps RAX[63:8]",
        insn::MOV_R8_M8.native(DEVICE + 0x50, !0)[Rsi],
        !0xff | reset_value(0x50, 1)
    );
    check_eq!(
        "MOV EAX from MMIO clears RAX[63:32]",
        insn::MOV_R32_M32.native(DEVICE + 0x60, !0)[Rsi],
        reset_value(0x60, 4)
    );
    check_eq!(
        "MOVZX from MMIO clears the upper bits",
        insn::MOVZX_R64_M8.native(DEVICE + 0x71, !0)[Rsi],
        reset_value(0x71, 1)
    );
    check_eq!(
        "MOVSX from MMIO fills with the sign",
        insn::MOVSX_R64_M16.native(DEVICE + 0x82, 0)[Rsi],
        i64::from(reset_value(0x82, 2) as i16) as u64
    );
}

#[guest]
fn stores(_: &mut Guest) {
    poke(DEVICE, 0xa1_u8);
    poke(DEVICE + 0x10, 0xb2a1_u16);
    poke(DEVICE + 0x20, 0xd4c3_b2a1_u32);
    poke(DEVICE + 0x30, 0x1807_f6e5_d4c3_b2a1_u64);
    poke(DEVICE + 0x43, 0x1807_f6e5_d4c3_b2a1_u64);
    poke(DEVICE + PAGE - 1, 0xa1_u8);
    insn::MOVNTI_M64_R64.native(DEVICE + 0x50, 0x1807_f6e5_d4c3_b2a1);
    let top = insn_table::stack() - 16;
    poke(top, 0x1807_f6e5_d4c3_b2a1_u64);
    let mut state = State::default();
    (state[Rsp], state[Rdi]) = (top, DEVICE + 0x60);
    check_eq!("POP to MMIO does not fault", insn::POP_M64.run(Form::Native, &mut state), Ok(()));
}

/// Every way to put an access of 2, 4 or 8 bytes across a page's end: offset and length.
fn straddles() -> impl Iterator<Item = (u64, u64)> {
    [2, 4, 8].into_iter().flat_map(|len| (1..len).map(move |before| (PAGE - before, len)))
}

#[guest]
fn straddles_pages(_: &mut Guest) {
    for (offset, len) in straddles() {
        let gva = DEVICE + offset;
        let value = match len {
            2 => peek::<u16>(gva).into(),
            4 => peek::<u32>(gva).into(),
            _ => peek::<u64>(gva),
        };
        check_eq!(
            "{len} bytes at {offset:#x} are put together from both pages",
            value,
            reset_value(offset, len)
        );
    }
    for (offset, len) in straddles() {
        let (gva, value) = (DEVICE + offset, 0x0807_0605_0403_0201 + offset);
        match len {
            2 => poke(gva, value as u16),
            4 => poke(gva, value as u32),
            _ => poke(gva, value),
        }
    }
}

#[guest]
fn modifies(_: &mut Guest) {
    insn::OR_M32_R32.native(DEVICE, 0x8000_0001);
    insn::AND_M16_R16.native(DEVICE + 0x10, 0x0ff0);
    insn::XOR_M8_R8.native(DEVICE + 0x21, 0xff);
    insn::ADD_M64_R64.native(DEVICE + 0x30, 0x1_0000_0001);
    insn::LOCK_SUB_M32_R32.native(DEVICE + 0x40, 0x7777);
    insn::BTS_M32_R32.native(DEVICE + 0x50, 0);
    insn::INC_M16.native(DEVICE + 0x60, 0);
    insn::NOT_M64.native(DEVICE + 0x70, 0);
    check_eq!(
        "XCHG with MMIO returns the old value",
        insn::XCHG_M32_R32.native(DEVICE + 0x80, 0x1234_5678)[Rsi],
        reset_value(0x80, 4)
    );
    check_eq!(
        "XADD with MMIO returns the old value",
        insn::LOCK_XADD_M32_R32.native(DEVICE + 0x90, 0x1111)[Rsi],
        reset_value(0x90, 4)
    );
    let old = reset_value(0xa0, 8);
    check_eq!(
        "CMPXCHG of an equal value sets ZF",
        insn::cmpxchg64(Form::Native, DEVICE + 0xa0, old, 0x55aa),
        (old, true)
    );
    let old = reset_value(0xb0, 8);
    check_eq!(
        "CMPXCHG of another value clears ZF and loads RAX",
        insn::cmpxchg64(Form::Native, DEVICE + 0xb0, !old, 0x55aa),
        (old, false)
    );
}

#[guest]
fn only_reads(_: &mut Guest) {
    let value = reset_value(0x10, 4);
    let equals = |value| {
        let state = insn::CMP_M32_R32.native(DEVICE + 0x10, value);
        state.rflags.contains(Rflags::ZF)
    };
    check!("CMP of an equal value sets ZF", equals(value));
    check!("CMP of another value clears ZF", !equals(!value));
    check_eq!(
        "PUSH m64 pushes the device's value",
        peek::<u64>(insn::PUSH_M64.native(DEVICE + 0x20, 0)[Rsp]),
        reset_value(0x20, 8)
    );
}

/// Elements of a string instruction.
const COUNT: u64 = 5;

#[guest]
fn moves_strings(_: &mut Guest) {
    insn::repeat(&insn::REP_MOVSB, DEVICE, BUFFER, COUNT);
    insn::repeat(&insn::REP_MOVSD, DEVICE + 0x100, BUFFER, COUNT);
    let mut state = State::default();
    (state[Rdi], state[Rax], state[Rcx]) = (DEVICE + 0x200, 0xbeef, COUNT);
    check_eq!("REP STOSW does not fault", insn::REP_STOSW.run(Form::Native, &mut state), Ok(()));
    insn::repeat(&insn::REP_MOVSD, BUFFER + 0x100, DEVICE + PAGE - 10, COUNT);
    insn::repeat(&insn::REP_MOVSB, DEVICE + 0x300, DEVICE + 0x400, COUNT);
    insn::repeat(&insn::REP_MOVSB, DEVICE + 0x500, BUFFER, 0);
}

#[guest]
fn moves_16_bytes(_: &mut Guest) {
    for (to, from) in [
        (DEVICE + 0x10, BUFFER),
        (BUFFER + 0x20, DEVICE + 0x100),
        (BUFFER + 0x40, DEVICE + PAGE - 5),
    ] {
        insn::MOVDQU_XMM_M128.native(from, 0);
        insn::MOVDQU_M128_XMM.native(to, 0);
    }
}

/// Two pages that tests map as they need.
const WINDOW: u64 = layout::FREE + (64 << 20);

#[guest]
fn straddles_ram_and_mmio(_: &mut Guest) {
    mmu::map(WINDOW, BUFFER, mmu::Size::Small, Pte::DEFAULT);
    mmu::map(WINDOW + PAGE, DEVICE, mmu::Size::Small, Pte::DEFAULT);
    let across = WINDOW + PAGE - 3;
    check_eq!(
        "a load takes its low bytes from RAM, its high ones from userspace",
        peek::<u64>(across),
        reset_value(0, 5) << 24 | 0x33_2211
    );
    poke(across, 0x8877_6655_44cc_bbaa_u64);
    mmu::map(WINDOW, DEVICE + PAGE, mmu::Size::Small, Pte::DEFAULT);
    mmu::map(WINDOW + PAGE, BUFFER, mmu::Size::Small, Pte::DEFAULT);
    poke(across, 0x0102_0304_0506_0708_u64);
}

fn fault<T>(error: u32, addr: u64) -> Result<T, Trap> {
    Err(Trap { vector: vector::PF, error, addr })
}

#[guest]
fn faults_before_mmio(_: &mut Guest) {
    let read_only = Pte::DEFAULT - Pte::RW;
    mmu::map(WINDOW, DEVICE, mmu::Size::Small, read_only);
    mmu::unmap(WINDOW + PAGE, mmu::Size::Small);
    check_eq!(
        "a store to a read-only page is #PF, not MMIO",
        write_safe(WINDOW, 1_u32),
        fault(3, WINDOW)
    );
    check_eq!(
        "a load from a read-only page is MMIO",
        read_safe::<u8>(WINDOW),
        Ok(reset_value(0, 1) as u8)
    );
    let hole = WINDOW + PAGE;
    check_eq!(
        "a load that runs into a hole is #PF at the hole",
        read_safe::<u64>(hole - 4),
        fault(0, hole)
    );
    mmu::map(WINDOW, DEVICE, mmu::Size::Small, Pte::DEFAULT);
    check_eq!(
        "a store that runs into a hole is #PF at the hole",
        write_safe(hole - 4, 1_u64),
        fault(2, hole)
    );
}

extern "C" fn store_and_load(gva: u64) -> u64 {
    poke(gva, 0x5a5a_0001_u32);
    peek::<u32>(gva + 4).into()
}

#[guest]
fn accesses_in_ring_3(_: &mut Guest) {
    mmu::map(WINDOW, DEVICE, mmu::Size::Small, Pte::DEFAULT);
    check_eq!(
        "ring 3 loads what userspace placed",
        user::run(Rflags::empty(), store_and_load, WINDOW + 0x10),
        reset_value(0x14, 4)
    );
}

/// Guest-physical addresses without memory, below the 36 bits that every long-mode CPU has.
const GPAS: [u64; 4] = [layout::DEFAULT_RAM_SIZE, 0xd000_0ff8, 1 << 32, (1 << 36) - 8];

#[guest]
fn stores_everywhere(_: &mut Guest) {
    for gpa in GPAS {
        mmu::map(WINDOW, gpa & !(PAGE - 1), mmu::Size::Small, Pte::DEFAULT);
        poke(WINDOW + gpa % PAGE, gpa);
    }
}

#[host]
mod host {
    use super::*;
    use crate::x86_64::support::mmio_device::{Access, Device, read, write};

    /// A load from an address without memory asks userspace for its bytes, once, with the load's own
    /// address and length (api.rst 5, KVM_EXIT_MMIO).
    #[kvm_test(loads)]
    fn loads_return_what_userspace_placed(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let loads = [
            (0, 1),
            (0x10, 2),
            (0x20, 4),
            (0x30, 8),
            (0x43, 8),
            (PAGE - 1, 1),
            (0x50, 1),
            (0x60, 4),
            (0x71, 1),
            (0x82, 2),
        ];
        check_eq!("each load exits exactly once", device.log.len(), loads.len());
        for ((offset, len), access) in loads.into_iter().zip(&device.log) {
            let want = read(offset, &device.bytes[offset as usize..][..len]);
            check_eq!(
                "the load of {len} bytes at {offset:#x} exits with its address and length",
                *access,
                want
            );
        }
        Ok(())
    }

    /// A store hands userspace its bytes, once, with its own address and length (api.rst 5,
    /// KVM_EXIT_MMIO).
    #[kvm_test(stores)]
    fn stores_hand_their_bytes_to_userspace(t: &mut OneVcpu) -> TestResult {
        const DATA: [u8; 8] = [0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18];
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let stores = [
            (0, 1),
            (0x10, 2),
            (0x20, 4),
            (0x30, 8),
            (0x43, 8),
            (PAGE - 1, 1),
            (0x50, 8),
            (0x60, 8),
        ];
        check_eq!("each store exits exactly once", device.log.len(), stores.len());
        for ((offset, len), access) in stores.into_iter().zip(&device.log) {
            let want = write(offset, &DATA[..len]);
            check_eq!(
                "the store of {len} bytes at {offset:#x} exits with its address and bytes",
                *access,
                want
            );
        }
        Ok(())
    }

    /// An access across a page boundary is split there; the parts cover it exactly, each byte once.
    #[kvm_test(straddles_pages)]
    fn accesses_across_pages_are_split(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        let reset = Device::new().bytes;
        device.serve(&mut t.vcpu)?;
        let accesses = device.accesses();
        check_eq!(
            "every straddling access is reported once",
            accesses.len(),
            2 * straddles().count()
        );
        let (loads, stores) = accesses.split_at(accesses.len() / 2);
        for (((offset, len), load), store) in straddles().zip(loads).zip(stores) {
            let value = (0x0807_0605_0403_0201 + offset).to_le_bytes();
            let range = offset as usize..(offset + len) as usize;
            check_eq!(
                "the load of {len} bytes at {offset:#x} is covered exactly",
                *load,
                read(offset, &reset[range])
            );
            check_eq!(
                "the store of {len} bytes at {offset:#x} is covered exactly",
                *store,
                write(offset, &value[..len as usize])
            );
        }
        Ok(())
    }

    /// An instruction that reads, modifies and writes exits once for each half, with the same address
    /// and length; a LOCK prefix changes nothing. CMPXCHG that does not match writes the old value back
    /// (SDM vol. 2, CMPXCHG) or nothing, but never another value.
    #[kvm_test(modifies)]
    fn read_modify_write_reads_and_writes(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        let reset = Device::new();
        device.serve(&mut t.vcpu)?;
        let u16_at = |offset| u16::from_le_bytes(reset.at(offset));
        let u32_at = |offset| u32::from_le_bytes(reset.at(offset));
        let u64_at = |offset| u64::from_le_bytes(reset.at(offset));
        let results: [(&str, u64, &[u8]); 11] = [
            ("OR", 0, &(u32_at(0) | 0x8000_0001).to_le_bytes()),
            ("AND", 0x10, &(u16_at(0x10) & 0x0ff0).to_le_bytes()),
            ("XOR", 0x21, &[!reset.at::<1>(0x21)[0]]),
            ("ADD", 0x30, &u64_at(0x30).wrapping_add(0x1_0000_0001).to_le_bytes()),
            ("LOCK SUB", 0x40, &u32_at(0x40).wrapping_sub(0x7777).to_le_bytes()),
            ("BTS", 0x50, &(u32_at(0x50) | 1).to_le_bytes()),
            ("INC", 0x60, &u16_at(0x60).wrapping_add(1).to_le_bytes()),
            ("NOT", 0x70, &(!u64_at(0x70)).to_le_bytes()),
            ("XCHG", 0x80, &0x1234_5678_u32.to_le_bytes()),
            ("LOCK XADD", 0x90, &u32_at(0x90).wrapping_add(0x1111).to_le_bytes()),
            ("LOCK CMPXCHG", 0xa0, &0x55aa_u64.to_le_bytes()),
        ];
        let log = std::mem::take(&mut device.log);
        for (name, offset, result) in results {
            let of_this: Vec<&Access> =
                log.iter().filter(|a| (a.gpa - DEVICE) & !0xf == offset & !0xf).collect();
            let old = &reset.bytes[offset as usize..][..result.len()];
            let want = [&read(offset, old), &write(offset, result)];
            check_eq!("{name} is one read and one write of the result", of_this, want);
        }
        let mismatch: Vec<&Access> = log.iter().filter(|a| a.gpa == DEVICE + 0xb0).collect();
        let old = reset.at::<8>(0xb0);
        check!(
            "CMPXCHG that does not match reads",
            mismatch.first().is_some_and(|a| **a == read(0xb0, &old)),
            "{mismatch:x?}"
        );
        check_eq!("CMPXCHG that does not match changes nothing", device.at::<8>(0xb0), old);
        Ok(())
    }

    /// Instructions that only read a memory operand never write it.
    #[kvm_test(only_reads)]
    fn compare_and_push_do_not_write(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let (compared, pushed) = (device.at::<4>(0x10), device.at::<8>(0x20));
        let want = [read(0x10, &compared), read(0x10, &compared), read(0x20, &pushed)];
        check_eq!("each instruction is exactly one read", device.log, want);
        Ok(())
    }

    /// REP MOVS and STOS to, from and between MMIO move every element once and in order (SDM vol. 2).
    #[kvm_test(moves_strings)]
    fn string_instructions_move_every_element(t: &mut OneVcpu) -> TestResult {
        let source: Vec<u8> = (0..COUNT as u8 * 4).map(|i| 0x80 + i).collect();
        t.vm.ram().write(BUFFER, &source);
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let mut copied = [0; COUNT as usize * 4];
        t.vm.ram().read(BUFFER + 0x100, &mut copied);
        check_eq!("REP MOVSD from MMIO across a page fills memory", copied, device.at(PAGE - 10));
        check_eq!(
            "REP MOVSB between MMIO copies every byte",
            device.at::<5>(0x300),
            device.at::<5>(0x400)
        );
        let byte_moves: Vec<Access> =
            device.log.extract_if(.., |a| (0x300..0x500).contains(&(a.gpa - DEVICE))).collect();
        let alternating = byte_moves.chunks(2).enumerate().all(|(i, pair)| {
            let byte = device.at::<1>(0x400 + i as u64);
            pair == [read(0x400 + i as u64, &byte), write(0x300 + i as u64, &byte)]
        });
        check!(
            "REP MOVSB between MMIO reads and writes in turns",
            alternating && byte_moves.len() == 10,
            "{byte_moves:x?}"
        );
        let accesses = device.accesses();
        check_eq!("REP MOVSB to MMIO writes bytes in order", accesses[0], write(0, &source[..5]));
        check_eq!(
            "REP MOVSD to MMIO writes doublewords in order",
            accesses[1],
            write(0x100, &source)
        );
        check_eq!(
            "REP STOSW to MMIO writes words in order",
            accesses[2],
            write(0x200, &[0xef, 0xbe].repeat(5))
        );
        check_eq!("REP MOVSD from MMIO reads in order", accesses[3], read(PAGE - 10, &copied));
        check_eq!("REP MOVSB with RCX 0 moves nothing", accesses.len(), 4);
        Ok(())
    }

    /// An access of more than 8 bytes takes several exits, in ascending order.
    #[kvm_test(moves_16_bytes)]
    fn sixteen_bytes_take_several_exits(t: &mut OneVcpu) -> TestResult {
        let source: [u8; 16] = std::array::from_fn(|i| 0xc0 + i as u8);
        t.vm.ram().write(BUFFER, &source);
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let exits = device.log.len();
        check!("16 bytes take at least two exits", exits >= 6, "{exits} exits for three accesses");
        let accesses = device.accesses();
        let (aligned, straddling) = (device.at::<16>(0x100), device.at::<16>(PAGE - 5));
        check_eq!("MOVDQU to MMIO writes its 16 bytes", accesses[0], write(0x10, &source));
        check_eq!("MOVDQU from MMIO reads 16 bytes", accesses[1], read(0x100, &aligned));
        check_eq!("MOVDQU across pages reads 16 bytes", accesses[2], read(PAGE - 5, &straddling));
        let mut loaded = [0; 0x30];
        t.vm.ram().read(BUFFER + 0x20, &mut loaded);
        check_eq!("MOVDQU loads what userspace placed", loaded[..16], aligned);
        check_eq!("MOVDQU across pages loads what userspace placed", loaded[0x20..], straddling);
        Ok(())
    }

    /// Of an access that straddles RAM and MMIO, each part goes where it belongs.
    #[kvm_test(straddles_ram_and_mmio)]
    fn accesses_across_ram_and_mmio_are_split(t: &mut OneVcpu) -> TestResult {
        t.vm.ram().write(BUFFER + PAGE - 3, &[0x11, 0x22, 0x33]);
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let reset = Device::new().at::<5>(0);
        let want = [
            read(0, &reset),
            write(0, &[0x44, 0x55, 0x66, 0x77, 0x88]),
            write(2 * PAGE - 3, &[8, 7, 6]),
        ];
        check_eq!("userspace sees only the part without memory", device.accesses(), want);
        let (mut low, mut high) = ([0; 3], [0; 5]);
        t.vm.ram().read(BUFFER + PAGE - 3, &mut low);
        t.vm.ram().read(BUFFER, &mut high);
        check_eq!("the low part of the store is in RAM", low, [0xaa, 0xbb, 0xcc]);
        check_eq!("the high part of the other store is in RAM", high, [5, 4, 3, 2, 1]);
        Ok(())
    }

    /// What the page tables forbid faults, and userspace sees no store of an instruction that faulted.
    #[kvm_test(faults_before_mmio)]
    fn page_faults_come_before_mmio(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let writes = device.log.iter().filter(|access| access.is_write).count();
        check_eq!("userspace sees no store that faulted", writes, 0);
        check_eq!(
            "userspace sees the load that did not fault",
            device.log.contains(&read(0, &device.at::<1>(0))),
            true
        );
        Ok(())
    }

    /// MMIO in ring 3 exits as in ring 0, with the physical address behind the translation.
    #[kvm_test(accesses_in_ring_3)]
    fn ring_3_accesses_exit_with_physical_addresses(t: &mut OneVcpu) -> TestResult {
        let mut device = Device::new();
        device.serve(&mut t.vcpu)?;
        let want = [write(0x10, &0x5a5a_0001_u32.to_le_bytes()), read(0x14, &device.at::<4>(0x14))];
        check_eq!("accesses in ring 3 exit with their physical addresses", device.log, want);
        Ok(())
    }

    /// The exit has all bits of the guest-physical address, right behind RAM as well as above 4 GiB.
    #[kvm_test(stores_everywhere)]
    fn exits_have_all_bits_of_the_address(t: &mut OneVcpu) -> TestResult {
        for gpa in GPAS {
            let mut stop = t.vcpu.run_until(ExitMatch::new("an MMIO write", |e| {
                matches!(e, Exit::Mmio { is_write: true, .. })
            }))?;
            check_eq!(
                "a store at {gpa:#x} exits with that address",
                stop.exit(),
                Exit::Mmio { gpa, len: 8, is_write: true }
            );
            check_eq!("a store at {gpa:#x} has its data", stop.data(), gpa.to_le_bytes());
        }
        t.vcpu.run_until_done()
    }
}
