//! Port I/O exits (api.rst 5, KVM_EXIT_IO): every size, direction and form of the instructions.
use crate::prelude::*;
use defs::x86::{pic, segment::tss};

/// A port without a device in the kernel.
const PORT: u16 = 0x7d4;
/// Such a port that fits into the instruction.
const NEAR_PORT: u8 = 0xe4;
const PAGE: u64 = layout::PAGE_SIZE;
/// Room for string instructions: a mapped page, and one that tests unmap.
const BUFFER: u64 = layout::SCRATCH;

#[guest]
fn reads(_: &mut Guest) {
    check_eq!("IN AL, DX returns userspace's byte", inb(PORT), 0xa1);
    check_eq!("IN AX, DX returns userspace's word", inw(PORT), 0xb2a1);
    check_eq!("IN EAX, DX returns userspace's doubleword", inl(PORT), 0xd4c3_b2a1);
    check_eq!("IN AL, imm8 returns userspace's byte", inb_imm::<NEAR_PORT>(), 0x1a);
    check_eq!("IN AX, imm8 returns userspace's word", inw_imm::<NEAR_PORT>(), 0x2b1a);
    check_eq!("IN EAX, imm8 returns userspace's doubleword", inl_imm::<NEAR_PORT>(), 0x4d3c_2b1a);
    check_eq!("IN AL keeps RAX[63:8]", inb_into(PORT, !0), 0xffff_ffff_ffff_ff00);
    check_eq!("IN AX keeps RAX[63:16]", inw_into(PORT, !0), 0xffff_ffff_ffff_0000);
    check_eq!("IN EAX clears RAX[63:32]", inl_into(PORT, !0), 0x8000_0000);
}

#[guest]
fn writes(_: &mut Guest) {
    outb(PORT, 0xa1);
    outw(PORT, 0xb2a1);
    outl(PORT, 0xd4c3_b2a1);
    outb_imm::<NEAR_PORT>(0x1a);
    outw_imm::<NEAR_PORT>(0x2b1a);
    outl_imm::<NEAR_PORT>(0x4d3c_2b1a);
}

/// Ports at the ends of the port space, and on both sides of each power of two.
const PORTS: [u16; 8] = [0, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff];

#[guest]
fn touches_ports(_: &mut Guest) {
    for port in PORTS {
        outb(port, port as u8);
        check_eq!("a byte comes back from port {port:#x}", inb(port), !port as u8);
    }
}

/// More than KVM's own buffer takes, and across a page.
const STRING_BYTES: usize = 1600;
/// Where the buffer starts: its first page ends within a doubleword.
const MISALIGNED: u64 = BUFFER + PAGE - 802;

/// One of REP INS or REP OUTS.
type StringInstruction = fn(u16, u64, u64) -> StringState;
const REP_INS: [StringInstruction; 6] =
    [rep_insb, rep_insw, rep_insd, rep_insb_down, rep_insw_down, rep_insd_down];
const REP_OUTS: [StringInstruction; 6] =
    [rep_outsb, rep_outsw, rep_outsd, rep_outsb_down, rep_outsw_down, rep_outsd_down];

fn run_string_instruction(g: &Guest, instructions: &[StringInstruction; 6]) {
    let (width, down) = (g.arg(0), g.arg(1) as usize);
    let instruction = instructions[width.ilog2() as usize + 3 * down];
    let end = MISALIGNED + STRING_BYTES as u64;
    let (first, behind) = match down {
        0 => (MISALIGNED, end),
        _ => (end - width, MISALIGNED - width),
    };
    let after = instruction(PORT, first, STRING_BYTES as u64 / width);
    check_eq!("a finished string instruction leaves RCX 0", after.count, 0);
    check_eq!("a finished string instruction moves RDI or RSI behind its end", after.gva, behind);
}

#[guest]
fn reads_strings(g: &mut Guest) {
    run_string_instruction(g, &REP_INS);
}

#[guest]
fn writes_strings(g: &mut Guest) {
    run_string_instruction(g, &REP_OUTS);
}

#[guest]
fn moves_nothing(_: &mut Guest) {
    let untouched = StringState { count: 0, gva: BUFFER };
    check_eq!("REP INS with RCX = 0 does nothing", rep_insb(PORT, BUFFER, 0), untouched);
    check_eq!("REP OUTS with RCX = 0 does nothing", rep_outsd(PORT, BUFFER, 0), untouched);
}

#[guest]
fn moves_one(_: &mut Guest) {
    poke(BUFFER + 1, 0x77_u8);
    let after = StringState { count: 5, gva: BUFFER + 1 };
    check_eq!(
        "INSB without REP leaves RCX alone and moves RDI by 1",
        insb_once(PORT, BUFFER, 5),
        after
    );
    check_eq!("INSB without REP stores the byte", peek::<u8>(BUFFER), 0x5a);
    check_eq!("INSB without REP stores nothing else", peek::<u8>(BUFFER + 1), 0x77);
    check_eq!(
        "OUTSB without REP leaves RCX alone and moves RSI by 1",
        outsb_once(PORT, BUFFER, 5),
        after
    );
}

/// Bytes of the string that are on the mapped page.
const MAPPED: u64 = 6;

#[guest]
fn faults_in_a_string(g: &mut Guest) {
    let hole = BUFFER + PAGE;
    let first = hole - MAPPED;
    mmu::unmap(hole, mmu::Size::Small);
    let stopped = StringState { count: 10 - MAPPED, gva: hole };
    if g.arg(0) == 0 {
        let (trap, state) = rep_insb_safe(PORT, first, 10);
        check_eq!(
            "REP INSB into a hole is #PF on a write",
            trap,
            Err(Trap { vector: vector::PF, error: 2, addr: hole })
        );
        check_eq!("RCX and RDI name the element that faulted", state, stopped);
    } else {
        let (trap, state) = rep_outsb_safe(PORT, first, 10);
        check_eq!(
            "REP OUTSB out of a hole is #PF on a read",
            trap,
            Err(Trap { vector: vector::PF, error: 0, addr: hole })
        );
        check_eq!("RCX and RSI name the element that faulted", state, stopped);
    }
}

extern "C" fn port_from_ring_3(port: u64) -> u64 {
    inb(port as u16).into()
}

/// Reads `port` in ring 3. `None`: #GP(0), as the only trap.
fn read_in_ring_3(port: u16, rflags: Rflags) -> Option<u64> {
    let mut fault = None;
    let skip = |frame: &mut TrapFrame| {
        fault = Some(frame.trap().error);
        // IN AL, DX is one byte.
        frame.rip += 1;
    };
    let value = with_handler(vector::GP, skip, || user::run(rflags, port_from_ring_3, port.into()));
    match fault {
        None => Some(value),
        Some(error) => {
            check_eq!("the #GP of a forbidden port has error code 0", error, 0);
            None
        }
    }
}

/// What userspace answers at [`PORT`], and at any other port.
const PORT_ANSWER: u64 = 0x31;
const NEIGHBOUR_ANSWER: u64 = 0x32;
/// A port behind what the I/O bitmap covers.
const BEYOND_BITMAP: u16 = PORT + 16;

#[guest]
fn reads_in_ring_3(g: &mut Guest) {
    let segment = layout::vcpu_area(g.vcpu().into()) + layout::vcpu_area::TSS;
    let io_map_base = segment + tss::IO_MAP_BASE as u64;
    poke(io_map_base, u16::MAX);
    check_eq!(
        "IOPL 3 allows ports to ring 3",
        read_in_ring_3(PORT, Rflags::IOPL_3),
        Some(PORT_ANSWER)
    );
    check_eq!(
        "IOPL 2 forbids ports to ring 3 without an I/O bitmap",
        read_in_ring_3(PORT, Rflags::IOPL_2),
        None
    );
    poke(io_map_base, tss::SIZE as u16);
    check_eq!(
        "a clear bit in the I/O bitmap allows the port",
        read_in_ring_3(PORT, Rflags::empty()),
        Some(PORT_ANSWER)
    );
    poke::<u8>(segment + tss::SIZE as u64 + u64::from(PORT / 8), 1 << (PORT % 8));
    check_eq!(
        "a set bit in the I/O bitmap forbids the port",
        read_in_ring_3(PORT, Rflags::empty()),
        None
    );
    check_eq!(
        "a set bit in the I/O bitmap allows the next port",
        read_in_ring_3(PORT + 1, Rflags::empty()),
        Some(NEIGHBOUR_ANSWER)
    );
    check_eq!(
        "ports behind the TSS limit are forbidden",
        read_in_ring_3(BEYOND_BITMAP, Rflags::empty()),
        None
    );
}

#[guest]
fn reads_pic_ports(_: &mut Guest) {
    for port in pic::PORTS {
        inb(port);
    }
}

/// The port whose OUT increments RIP early.
const QUIRKY_PORT: u8 = 0x7e;

#[guest]
fn writes_port_7e(_: &mut Guest) {
    outb_imm::<QUIRKY_PORT>(1);
}

#[host]
mod host {
    use super::*;

    /// A port access that the guest must make next: what it writes, or what it is given.
    fn port(t: &mut OneVcpu, direction: IoDirection, port: u16, data: &[u8]) -> TestResult {
        let size = data.len() as u8;
        let mut stop = match direction {
            IoDirection::In => t.vcpu.run_until(Exit::io_in(port))?,
            IoDirection::Out => t.vcpu.run_until(Exit::io_out(port))?,
        };
        let want = Exit::Io { direction, size, port, count: 1 };
        let told = check_eq!(
            "{direction:?} of {size} bytes at {port:#x} exits with its size and count",
            stop.exit(),
            want
        );
        match direction {
            IoDirection::In if told => stop.set_data(data),
            IoDirection::In => fail!("no room for the answer"),
            IoDirection::Out => {
                check_eq!("{size} bytes written to {port:#x} reach userspace", stop.data(), data);
            }
        }
        Ok(())
    }

    /// IN returns what userspace placed at `data_offset`, in the access's width and no more (api.rst 5,
    /// KVM_EXIT_IO; SDM vol. 2, IN).
    #[kvm_test(reads, moved)]
    fn in_returns_what_userspace_placed(t: &mut OneVcpu) -> TestResult {
        for (near, data) in
            [(u16::from(NEAR_PORT), [0x1a, 0x2b, 0x3c, 0x4d]), (PORT, [0xa1, 0xb2, 0xc3, 0xd4])]
                .into_iter()
                .rev()
        {
            for size in [1, 2, 4] {
                port(t, IoDirection::In, near, &data[..size])?;
            }
        }
        port(t, IoDirection::In, PORT, &[0])?;
        port(t, IoDirection::In, PORT, &[0; 2])?;
        port(t, IoDirection::In, PORT, &[0, 0, 0, 0x80])?;
        t.vcpu.run_until_done()
    }

    /// OUT hands the value to userspace, little-endian, in the access's width (api.rst 5, KVM_EXIT_IO).
    #[kvm_test(writes)]
    fn out_hands_the_value_to_userspace(t: &mut OneVcpu) -> TestResult {
        for (port_number, data) in
            [(PORT, [0xa1, 0xb2, 0xc3, 0xd4]), (NEAR_PORT.into(), [0x1a, 0x2b, 0x3c, 0x4d])]
        {
            for size in [1, 2, 4] {
                port(t, IoDirection::Out, port_number, &data[..size])?;
            }
        }
        t.vcpu.run_until_done()
    }

    /// All of DX names the port, from 0 to 0xffff (SDM vol. 1, "I/O Port Addressing").
    #[kvm_test(touches_ports)]
    fn every_port_number_is_told_exactly(t: &mut OneVcpu) -> TestResult {
        for number in PORTS {
            port(t, IoDirection::Out, number, &[number as u8])?;
            port(t, IoDirection::In, number, &[!number as u8])?;
        }
        t.vcpu.run_until_done()
    }

    /// Lets the guest end. Returns the bytes that crossed [`PORT`], in order; answers reads from
    /// `source`. KVM may put any number of a string instruction's elements into one exit.
    fn serve_string(
        t: &mut OneVcpu,
        want: IoDirection,
        width: u8,
        source: &[u8],
    ) -> TestResult<Vec<u8>> {
        let mut seen = Vec::new();
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            let Exit::Io { direction, size, port, count } = stop.exit() else {
                fail!("{:x?} from a string instruction", stop.exit())
            };
            check_eq!("each exit has the element's size", size, width);
            check_eq!("each exit has the port in DX", port, PORT);
            check_eq!("each exit has the instruction's direction", direction, want);
            check!("each exit moves at least one element", count >= 1);
            if direction == IoDirection::In {
                let len = stop.data().len();
                let mut answer: Vec<u8> =
                    source.iter().skip(seen.len()).take(len).copied().collect();
                answer.resize(len, 0);
                stop.set_data(&answer);
            }
            seen.extend_from_slice(stop.data());
        }
        Ok(seen)
    }

    /// The string in the order in which it crosses the port.
    fn string() -> Vec<u8> {
        (0..STRING_BYTES).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    /// The string in memory, when elements of `width` bytes go downwards.
    fn string_down(width: u8) -> Vec<u8> {
        string().rchunks(width.into()).flatten().copied().collect()
    }

    /// REP INS fills memory element by element, upwards or (RFLAGS.DF) downwards, across pages, and asks
    /// userspace for exactly RCX elements (SDM vol. 2, INS and REP).
    #[kvm_test(reads_strings, params = [
    bytes: (1, false), words: (2, false), doublewords: (4, false),
    bytes_down: (1, true), words_down: (2, true), doublewords_down: (4, true),
])]
    fn rep_ins_fills_memory(t: &mut OneVcpu, (width, down): (u8, bool)) -> TestResult {
        t.vcpu.set_args(&[width.into(), down.into()]);
        let seen = serve_string(t, IoDirection::In, width, &string())?;
        check_eq!("userspace is asked for exactly RCX elements", seen.len(), STRING_BYTES);
        let mut got = vec![0; STRING_BYTES + 2];
        t.vm.ram().read(MISALIGNED - 1, &mut got);
        let want = if down { string_down(width) } else { string() };
        check!("memory has the elements in order", got[1..=STRING_BYTES] == want);
        check_eq!("the byte before the buffer is untouched", got[0], 0);
        check_eq!("the byte behind the buffer is untouched", got[STRING_BYTES + 1], 0);
        Ok(())
    }

    /// REP OUTS hands memory to userspace element by element, upwards or (RFLAGS.DF) downwards, across
    /// pages (SDM vol. 2, OUTS and REP).
    #[kvm_test(writes_strings, params = [
    bytes: (1, false), words: (2, false), doublewords: (4, false),
    bytes_down: (1, true), words_down: (2, true), doublewords_down: (4, true),
])]
    fn rep_outs_hands_memory_to_userspace(
        t: &mut OneVcpu,
        (width, down): (u8, bool),
    ) -> TestResult {
        t.vcpu.set_args(&[width.into(), down.into()]);
        let memory = if down { string_down(width) } else { string() };
        t.vm.ram().write(MISALIGNED, &memory);
        let seen = serve_string(t, IoDirection::Out, width, &[])?;
        check!("userspace sees the elements in order", seen == string(), "{} bytes", seen.len());
        Ok(())
    }

    /// A REP prefix with RCX = 0 makes no access (SDM vol. 2, REP).
    #[kvm_test(moves_nothing)]
    fn rep_with_zero_count_does_not_exit(t: &mut OneVcpu) -> TestResult {
        let seen = serve_string(t, IoDirection::In, 1, &[])?;
        check_eq!("REP with RCX 0 moves no data", seen.len(), 0);
        Ok(())
    }

    /// INS and OUTS without REP move one element, whatever RCX says.
    #[kvm_test(moves_one)]
    fn string_instructions_without_rep_move_one_element(t: &mut OneVcpu) -> TestResult {
        port(t, IoDirection::In, PORT, &[0x5a])?;
        port(t, IoDirection::Out, PORT, &[0x5a])?;
        t.vcpu.run_until_done()
    }

    /// A page fault in the middle of REP INS or REP OUTS leaves the registers at the element that
    /// faulted, so that the instruction can be resumed (SDM vol. 2, REP).
    #[kvm_test(faults_in_a_string, params = [ins: IoDirection::In, outs: IoDirection::Out])]
    fn page_fault_stops_a_string_at_its_element(
        t: &mut OneVcpu,
        direction: IoDirection,
    ) -> TestResult {
        t.vcpu.set_args(&[u64::from(direction == IoDirection::Out)]);
        let (before_hole, want) = (BUFFER + PAGE - MAPPED, &string()[..MAPPED as usize]);
        if direction == IoDirection::Out {
            t.vm.ram().write(before_hole, want);
            let seen = serve_string(t, direction, 1, &[])?;
            check_eq!("only the bytes before the hole reach the port", seen, want);
        } else {
            // Whether the element that cannot be stored was read from the port is left open.
            serve_string(t, direction, 1, &string())?;
            let mut got = [0; MAPPED as usize];
            t.vm.ram().read(before_hole, &mut got);
            check_eq!("REP INSB stores the bytes before the hole", got, want);
        }
        Ok(())
    }

    /// Ring 3 reaches a port where IOPL or the TSS's I/O bitmap allows it, and gets #GP(0) elsewhere,
    /// without an exit (SDM vol. 1, "I/O Permission Bit Map").
    #[kvm_test(reads_in_ring_3)]
    fn iopl_and_io_bitmap_guard_ring_3(t: &mut OneVcpu) -> TestResult {
        let mut sregs = t.vcpu.fd().get_sregs().ioctl("KVM_GET_SREGS")?;
        // The last byte must be there although its bits say nothing: the CPU reads two bytes.
        sregs.tr.limit = tss::SIZE as u32 + u32::from(PORT) / 8 + 1;
        t.vcpu.fd().set_sregs(&sregs).ioctl("KVM_SET_SREGS")?;
        while let Some(mut stop) = t.vcpu.run_until_exit()? {
            let answer = match stop.exit() {
                Exit::Io { direction: IoDirection::In, size: 1, port: PORT, count: 1 } => {
                    PORT_ANSWER
                }
                Exit::Io { direction: IoDirection::In, size: 1, count: 1, .. } => NEIGHBOUR_ANSWER,
                other => fail!("{other:x?} instead of a byte read from a port"),
            };
            stop.set_data(&[answer as u8]);
        }
        Ok(())
    }

    /// Ports of devices that KVM emulates do not exit (api.rst 4.24, KVM_CREATE_IRQCHIP).
    #[kvm_test(reads_pic_ports, irqchip, requires(cap::IRQCHIP))]
    fn ports_of_the_kernels_pic_do_not_exit(t: &mut OneVcpu) -> TestResult {
        let exit = t.vcpu.run_until_exit()?.map(|stop| stop.exit());
        check_eq!("PIC ports are served in the kernel", exit, None);
        Ok(())
    }

    /// Without KVM_CREATE_IRQCHIP the same ports are userspace's.
    #[kvm_test(reads_pic_ports)]
    fn pic_ports_exit_without_irqchip(t: &mut OneVcpu) -> TestResult {
        for number in pic::PORTS {
            port(t, IoDirection::In, number, &[0])?;
        }
        t.vcpu.run_until_done()
    }

    /// With a split irqchip only the local APICs are KVM's (api.rst 7, KVM_CAP_SPLIT_IRQCHIP).
    #[kvm_test(reads_pic_ports, split_irqchip, requires(cap::SPLIT_IRQCHIP))]
    fn pic_ports_exit_with_a_split_irqchip(t: &mut OneVcpu) -> TestResult {
        for number in pic::PORTS {
            port(t, IoDirection::In, number, &[0])?;
        }
        t.vcpu.run_until_done()
    }
    /// `OUT 0x7e, AL`.
    const OUT_7E: [u8; 2] = [0xe6, QUIRKY_PORT];

    /// KVM_X86_QUIRK_OUT_7E_INC_RIP: by default RIP is behind an OUT to port 0x7e when userspace sees it;
    /// with the quirk disabled it is not (api.rst 7, KVM_CAP_DISABLE_QUIRKS2).
    #[kvm_test(writes_port_7e, requires(cap::DISABLE_QUIRKS2), params = [default: true, disabled: false])]
    fn out_7e_increments_rip_early_by_default(t: &mut OneVcpu, quirk: bool) -> TestResult {
        let mask = u64::from(bindings::KVM_X86_QUIRK_OUT_7E_INC_RIP);
        let supported = t.vm.check_extension(bindings::KVM_CAP_DISABLE_QUIRKS2) as u64;
        require!(supported & mask != 0, "KVM_X86_QUIRK_OUT_7E_INC_RIP");
        if !quirk {
            t.vm.enable_cap(bindings::KVM_CAP_DISABLE_QUIRKS2, [mask, 0, 0, 0])
                .ioctl("KVM_ENABLE_CAP")?;
        }
        t.vcpu.run_until(Exit::io_out(QUIRKY_PORT.into()))?;
        let rip = t.vcpu.fd().get_regs().ioctl("KVM_GET_REGS")?.rip;
        let start = if quirk { rip - OUT_7E.len() as u64 } else { rip };
        let mut code = [0; OUT_7E.len()];
        t.vm.ram().read(start, &mut code);
        check_eq!("RIP is behind OUT 0x7e with the quirk, at it without", code, OUT_7E);
        t.vcpu.run_until_done()
    }
}
