//! The virtual machine control block (APM vol. 2, "Layout of VMCB").
#![expect(missing_docs, reason = "the manual's names")]

use bitfield_struct::bitfield;

/// A VMCB: one page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    pub control: Control,
    pub save: SaveArea,
    reserved: [u8; 0x968],
}

/// The control area.
#[derive(Debug)]
#[repr(C)]
pub struct Control {
    pub intercept_cr_reads: u16,
    pub intercept_cr_writes: u16,
    pub intercept_dr_reads: u16,
    pub intercept_dr_writes: u16,
    pub intercept_exceptions: u32,
    /// [`intercept`]'s bits 0 to 31, 32 to 63, and more.
    pub intercepts: [u32; 3],
    reserved_1: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base_pa: u64,
    pub msrpm_base_pa: u64,
    pub tsc_offset: u64,
    pub guest_asid: u32,
    pub tlb_control: u32,
    pub virtual_interrupt: VirtualInterrupt,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info_1: u64,
    pub exit_info_2: u64,
    /// The event whose delivery the exit cut off.
    pub exit_int_info: Event,
    /// NP_ENABLE, …
    pub nested_paging: u64,
    pub avic_apic_bar: u64,
    pub ghcb_pa: u64,
    /// EVENTINJ.
    pub event_injection: Event,
    pub n_cr3: u64,
    pub lbr_virtualization: u64,
    pub clean_bits: u64,
    pub next_rip: u64,
    /// How many bytes were fetched, and they.
    pub instruction: [u8; 16],
    pub avic_backing_page: u64,
    reserved_2: u64,
    pub avic_logical_table: u64,
    pub avic_physical_table: u64,
    reserved_3: [u8; 0x300],
}

/// What a guest has of interrupts that its hypervisor makes up.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct VirtualInterrupt {
    pub v_tpr: u8,
    pub v_irq: bool,
    pub v_gif: bool,
    __: bool,
    pub v_nmi: bool,
    pub v_nmi_mask: bool,
    #[bits(3)]
    __: u8,
    #[bits(4)]
    pub v_intr_prio: u8,
    pub v_ign_tpr: bool,
    #[bits(3)]
    __: u8,
    pub v_intr_masking: bool,
    pub v_gif_enable: bool,
    pub v_nmi_enable: bool,
    #[bits(3)]
    __: u8,
    pub x2avic_enable: bool,
    pub avic_enable: bool,
    pub v_intr_vector: u8,
    #[bits(24)]
    __: u32,
}

/// An event, as EVENTINJ and EXITINTINFO have it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Event {
    pub vector: u8,
    /// [`event`]'s types.
    #[bits(3)]
    pub kind: u8,
    pub has_error: bool,
    #[bits(19)]
    __: u32,
    pub is_valid: bool,
    pub error: u32,
}

impl Event {
    const fn valid(kind: u8, vector: u8) -> Self {
        Self::new().with_kind(kind).with_vector(vector).with_is_valid(true)
    }

    pub const fn interrupt(vector: u8) -> Self {
        Self::valid(event::INTR, vector)
    }

    /// With the vector that NMIs have.
    pub const fn nmi() -> Self {
        Self::valid(event::NMI, 2)
    }

    pub const fn exception(vector: u8) -> Self {
        Self::valid(event::EXCEPTION, vector)
    }

    pub const fn software(vector: u8) -> Self {
        Self::valid(event::SOFTWARE, vector)
    }

    /// The exception, with an error code.
    pub const fn with_code(self, error: u32) -> Self {
        self.with_has_error(true).with_error(error)
    }
}

/// Types of an [`Event`].
pub mod event {
    pub const INTR: u8 = 0;
    pub const NMI: u8 = 2;
    pub const EXCEPTION: u8 = 3;
    pub const SOFTWARE: u8 = 4;
}

/// A segment register.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Segment {
    pub selector: u16,
    /// Bits 40 to 47 and 52 to 55 of a descriptor, side by side.
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// The state save area.
#[derive(Debug)]
#[repr(C)]
pub struct SaveArea {
    pub es: Segment,
    pub cs: Segment,
    pub ss: Segment,
    pub ds: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub gdtr: Segment,
    pub ldtr: Segment,
    pub idtr: Segment,
    pub tr: Segment,
    reserved_1: [u8; 0x2b],
    pub cpl: u8,
    reserved_2: u32,
    pub efer: u64,
    reserved_3: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_4: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_5: [u8; 0x20],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(offset_of!(Control, iopm_base_pa) == 0x40);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, n_cr3) == 0xb0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, avic_physical_table) == 0xf8);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(SaveArea, tr) == 0x90);
    assert!(offset_of!(SaveArea, cpl) == 0xcb);
    assert!(offset_of!(SaveArea, efer) == 0xd0);
    assert!(offset_of!(SaveArea, cr4) == 0x148);
    assert!(offset_of!(SaveArea, rip) == 0x178);
    assert!(offset_of!(SaveArea, rsp) == 0x1d8);
    assert!(offset_of!(SaveArea, rax) == 0x1f8);
    assert!(offset_of!(SaveArea, cr2) == 0x240);
    assert!(offset_of!(SaveArea, g_pat) == 0x268);
    assert!(offset_of!(SaveArea, last_excp_to) == 0x290);
};

/// Bits of [`Control::intercepts`].
pub mod intercept {
    pub const INTR: u32 = 0;
    pub const NMI: u32 = 1;
    pub const SMI: u32 = 2;
    pub const INIT: u32 = 3;
    pub const VINTR: u32 = 4;
    pub const CR0_SEL_WRITE: u32 = 5;
    pub const IDTR_READ: u32 = 6;
    pub const GDTR_READ: u32 = 7;
    pub const LDTR_READ: u32 = 8;
    pub const TR_READ: u32 = 9;
    pub const IDTR_WRITE: u32 = 10;
    pub const GDTR_WRITE: u32 = 11;
    pub const LDTR_WRITE: u32 = 12;
    pub const TR_WRITE: u32 = 13;
    pub const RDTSC: u32 = 14;
    pub const RDPMC: u32 = 15;
    pub const PUSHF: u32 = 16;
    pub const POPF: u32 = 17;
    pub const CPUID: u32 = 18;
    pub const RSM: u32 = 19;
    pub const IRET: u32 = 20;
    pub const SWINT: u32 = 21;
    pub const INVD: u32 = 22;
    pub const PAUSE: u32 = 23;
    pub const HLT: u32 = 24;
    pub const INVLPG: u32 = 25;
    pub const INVLPGA: u32 = 26;
    pub const IOIO_PROT: u32 = 27;
    pub const MSR_PROT: u32 = 28;
    pub const TASK_SWITCH: u32 = 29;
    pub const FERR_FREEZE: u32 = 30;
    pub const SHUTDOWN: u32 = 31;
    pub const VMRUN: u32 = 32;
    pub const VMMCALL: u32 = 33;
    pub const VMLOAD: u32 = 34;
    pub const VMSAVE: u32 = 35;
    pub const STGI: u32 = 36;
    pub const CLGI: u32 = 37;
    pub const SKINIT: u32 = 38;
    pub const RDTSCP: u32 = 39;
    pub const ICEBP: u32 = 40;
    pub const WBINVD: u32 = 41;
    pub const MONITOR: u32 = 42;
    pub const MWAIT: u32 = 43;
    pub const MWAIT_CONDITIONAL: u32 = 44;
    pub const XSETBV: u32 = 45;
    pub const RDPRU: u32 = 46;
    pub const EFER_WRITE_TRAP: u32 = 47;
}

/// [`Control::exit_code`]: first of all what [`intercept`] intercepts, in its order from INTR on.
pub mod exit {
    /// Read of CR0; the others follow.
    pub const READ_CR0: u64 = 0x0;
    pub const WRITE_CR0: u64 = 0x10;
    pub const READ_DR0: u64 = 0x20;
    pub const WRITE_DR0: u64 = 0x30;
    /// Exception 0; the others follow.
    pub const EXCP0: u64 = 0x40;
    pub const INTR: u64 = 0x60;
    pub const NPF: u64 = 0x400;
    /// VMRUN found the state invalid.
    pub const INVALID: u64 = u64::MAX;

    /// The code of an intercepted instruction or event.
    pub const fn intercepted(intercept: u32) -> u64 {
        INTR + intercept as u64
    }
}

/// [`Control::nested_paging`]: NP_ENABLE.
pub const NP_ENABLE: u64 = 1 << 0;

/// [`Control::tlb_control`].
pub mod tlb_control {
    pub const NOTHING: u32 = 0;
    /// Every translation, of every address space.
    pub const FLUSH_ALL: u32 = 1;
    /// Those of the guest's address space.
    pub const FLUSH_GUEST: u32 = 3;
    /// Those of the guest's address space that are not global.
    pub const FLUSH_GUEST_NON_GLOBAL: u32 = 7;
}

/// [`Segment::attributes`].
pub mod attributes {
    pub const P: u16 = 1 << 7;
    pub const L: u16 = 1 << 9;
    pub const DB: u16 = 1 << 10;
}

/// [`Control::exit_info_1`] of a nested page fault: an error code of #PF, and what the walk was for.
pub mod npf {
    /// The guest's own access.
    pub const FINAL: u64 = 1 << 32;
    /// The walk of the guest's tables.
    pub const WALK: u64 = 1 << 33;
}

/// [`Control::exit_info_1`] of an intercepted port access.
pub mod ioio {
    pub const IN: u64 = 1 << 0;
    pub const STRING: u64 = 1 << 2;
    pub const REP: u64 = 1 << 3;
    pub const SZ32: u64 = 1 << 6;
    pub const A64: u64 = 1 << 9;
    pub const PORT_SHIFT: u32 = 16;
}
