//! Tables that every vCPU starts on: translation tables and IDT in the payload image, GDT and TSS in
//! each vCPU's area (SDM vol. 3, chapters 3, 4, 6, 7).

use defs::x86::exception::vector;
use defs::x86::paging::{ENTRIES, LARGE_PAGE, Pte};
use defs::x86::segment::{Descriptor, GATE_SIZE, Gate, tss};
use guest_protocol::layout::{self, vcpu_area, x86_64 as map};

use super::super::more_ram;
use crate::Ram;

/// IST indices; every vector uses one.
const IST_TRAP: u8 = 1;
const IST_NMI: u8 = 2;
const IST_MC: u8 = 3;
const IST_DF: u8 = 4;

/// GDT and TSS of one vCPU.
pub(super) struct Tables {
    pub(super) gdt: [u64; 10],
    pub(super) tss: [u8; tss::SIZE],
}

pub(super) fn tables(area: u64) -> Tables {
    let base = area + vcpu_area::TSS;
    let [tss_low, tss_high] = Descriptor::busy_tss(base, tss::SIZE as u16 - 1);
    // In the order of the layout's selectors.
    let gdt = [
        0,
        Descriptor::code64(0).into_bits(),
        Descriptor::data(0).into_bits(),
        Descriptor::data(3).into_bits(),
        Descriptor::code64(3).into_bits(),
        tss_low,
        tss_high,
        Descriptor::code32(0).into_bits(),
        Descriptor::code16(map::low::TEXT as u32).into_bits(),
        Descriptor::DATA16.into_bits(),
    ];
    let mut segment = [0; tss::SIZE];
    let mut put = |offset: usize, value: u64| {
        segment[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    };
    put(tss::RSP0, area + vcpu_area::STACK_END);
    put(tss::ist(IST_TRAP), area + vcpu_area::TRAP_STACK_END);
    put(tss::ist(IST_NMI), area + vcpu_area::NMI_STACK_END);
    put(tss::ist(IST_MC), area + vcpu_area::MC_STACK_END);
    put(tss::ist(IST_DF), area + vcpu_area::FATAL_STACK_END);
    // No I/O bitmap: its offset is behind the segment's end.
    segment[tss::IO_MAP_BASE..].copy_from_slice(&(tss::SIZE as u16).to_le_bytes());
    Tables { gdt, tss: segment }
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
    put(pml4, pdpt | Pte::TABLE.bits());
    for gib in 0..4 {
        put(pdpt + gib * 8, (pd + gib * layout::PAGE_SIZE) | Pte::TABLE.bits());
        for i in 0..ENTRIES {
            let address = (gib * ENTRIES + i) * LARGE_PAGE;
            put(pd + gib * layout::PAGE_SIZE + i * 8, address | (Pte::DEFAULT | Pte::PS).bits());
        }
    }
    put(pd, pt | Pte::TABLE.bits());
    for page in 1..ENTRIES {
        put(pt + page * 8, (page * layout::PAGE_SIZE) | Pte::DEFAULT.bits());
    }
    for vcpu in 0..layout::DEFAULT_VCPUS {
        for guard in [vcpu_area::GUARD, vcpu_area::TRAP_GUARD] {
            put(pt + (layout::vcpu_area(vcpu) + guard) / layout::PAGE_SIZE * 8, 0);
        }
    }

    let stubs = symbol("trap_stubs").ok_or("the payload has no symbol trap_stubs")?;
    if !(layout::PAYLOAD..layout::DEFAULT_RAM_SIZE).contains(&stubs) {
        return Err(format!("the payload's trap_stubs are at {stubs:#x}, outside its place"));
    }
    for vector in 0..map::NR_VECTORS {
        let ist = match vector as u8 {
            vector::NMI => IST_NMI,
            vector::DF => IST_DF,
            vector::MC => IST_MC,
            _ => IST_TRAP,
        };
        // Ring 3 may use INT3 and INTO, as in every operating system.
        let dpl = if matches!(vector as u8, vector::BP | vector::OF) { 3 } else { 0 };
        let handler = stubs + vector as u64 * map::STUB_SIZE;
        let [low, high] = Gate::interrupt(handler, map::KERNEL_CS, ist, dpl);
        let gate = map::IDT + (vector * GATE_SIZE) as u64;
        put(gate, low);
        put(gate + 8, high);
    }
    Ok(())
}

/// Tables for the blocks with the areas of vCPUs behind the default ones, which have guard pages.
const MORE_TABLES: u64 = layout::PAGE_TABLES + 7 * layout::PAGE_SIZE;

/// Adapts the tables of one VM, which map everything, to RAM behind the default one.
pub(crate) fn extend_tables(ram: &Ram, nr_vcpus: u32) {
    let put = |gpa: u64, value: u64| {
        ram.write(gpa, &value.to_le_bytes()).expect("the tables are RAM");
    };
    let pd = layout::PAGE_TABLES + 2 * layout::PAGE_SIZE;
    let blocks = more_ram(ram, nr_vcpus, &[vcpu_area::GUARD, vcpu_area::TRAP_GUARD]);
    let split = blocks.into_iter().filter(|(_, guards)| !guards.is_empty());
    for ((block, guards), table) in split.zip((MORE_TABLES..).step_by(layout::PAGE_SIZE as usize)) {
        for page in (block..block + LARGE_PAGE).step_by(layout::PAGE_SIZE as usize) {
            let entry = if guards.contains(&page) { 0 } else { page | Pte::DEFAULT.bits() };
            put(table + (page - block) / layout::PAGE_SIZE * 8, entry);
        }
        put(pd + block / LARGE_PAGE * 8, table | Pte::TABLE.bits());
    }
}

const _: () = assert!(MORE_TABLES + 2 * layout::PAGE_SIZE <= map::IDT);
