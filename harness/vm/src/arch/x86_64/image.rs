//! Tables that every vCPU starts on: translation tables and IDT in the payload image, GDT and TSS in
//! each vCPU's area (SDM vol. 3, chapters 3, 4, 6, 7).

use guest_protocol::layout::{self, vcpu_area, x86_64 as map};

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const TABLE: u64 = P | RW | US;
const LEAF: u64 = P | RW | US | A | D;
const LARGE_PAGE: u64 = 2 << 20;

/// 64-bit TSS without an I/O bitmap.
pub(super) const TSS_SIZE: usize = 104;

/// IST indices; every vector uses one.
const IST_TRAP: u64 = 1;
const IST_NMI: u64 = 2;
const IST_MC: u64 = 3;
const IST_DF: u64 = 4;

/// GDT and TSS of one vCPU.
pub(super) struct Tables {
    pub(super) gdt: [u64; 7],
    pub(super) tss: [u8; TSS_SIZE],
}

pub(super) fn tables(area: u64) -> Tables {
    let base = area + vcpu_area::TSS;
    let limit = TSS_SIZE as u64 - 1;
    let tss_low = limit | (base & 0xff_ffff) << 16 | 0x8b << 40 | (base >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0x00af_9b00_0000_ffff, // KERNEL_CS
        0x00cf_9300_0000_ffff, // KERNEL_DS
        0x00cf_f300_0000_ffff, // USER_DS
        0x00af_fb00_0000_ffff, // USER_CS
        tss_low,
        base >> 32,
    ];
    let mut tss = [0; TSS_SIZE];
    let mut put =
        |offset: usize, value: u64| tss[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    put(4, area + vcpu_area::STACK_END);
    let ist = |n: u64| 36 + 8 * (n as usize - 1);
    put(ist(IST_TRAP), area + vcpu_area::TRAP_STACK_END);
    put(ist(IST_NMI), area + vcpu_area::NMI_STACK_END);
    put(ist(IST_MC), area + vcpu_area::MC_STACK_END);
    put(ist(IST_DF), area + vcpu_area::FATAL_STACK_END);
    // No I/O bitmap: its offset is behind the segment's end.
    tss[102..].copy_from_slice(&(TSS_SIZE as u16).to_le_bytes());
    Tables { gdt, tss }
}

/// Writes translation tables and IDT into the image of guest-physical memory.
pub(crate) fn prepare_image(
    image: &mut [u8],
    symbol: impl Fn(&str) -> Option<u64>,
) -> Result<(), String> {
    let mut put = |gpa: u64, value: u64| {
        image[gpa as usize..gpa as usize + 8].copy_from_slice(&value.to_le_bytes());
    };
    let table = |index: u64| layout::PAGE_TABLES + index * layout::PAGE_SIZE;
    let (pml4, pdpt, pd, pt) = (table(0), table(1), table(2), table(6));
    put(pml4, pdpt | TABLE);
    for gib in 0..4 {
        put(pdpt + gib * 8, (pd + gib * layout::PAGE_SIZE) | TABLE);
        for i in 0..512 {
            let address = (gib * 512 + i) * LARGE_PAGE;
            put(pd + gib * layout::PAGE_SIZE + i * 8, address | LEAF | PS);
        }
    }
    put(pd, pt | TABLE);
    for page in 1..512 {
        put(pt + page * 8, (page * layout::PAGE_SIZE) | LEAF);
    }
    for vcpu in 0..layout::MAX_VCPUS {
        for guard in [vcpu_area::GUARD, vcpu_area::TRAP_GUARD] {
            put(pt + (layout::vcpu_area(vcpu) + guard) / layout::PAGE_SIZE * 8, 0);
        }
    }

    let stubs = symbol("trap_stubs").ok_or("the payload has no symbol trap_stubs")?;
    if !(layout::PAYLOAD..layout::RAM_SIZE).contains(&stubs) {
        return Err(format!("the payload's trap_stubs are at {stubs:#x}, outside its place"));
    }
    for vector in 0..map::NR_VECTORS as u64 {
        let handler = stubs + vector * map::STUB_SIZE;
        let ist = match vector {
            2 => IST_NMI,
            8 => IST_DF,
            18 => IST_MC,
            _ => IST_TRAP,
        };
        // Ring 3 may use INT3 and INTO, as in every operating system.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let low = handler & 0xffff
            | u64::from(map::KERNEL_CS) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        put(map::IDT + vector * 16, low);
        put(map::IDT + vector * 16 + 8, handler >> 32);
    }
    Ok(())
}
