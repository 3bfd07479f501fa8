//! Structures that every architecture has.
#![expect(missing_docs, reason = "the kernel's names")]

use crate::kvm_sync_regs;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_userspace_memory_region {
    pub slot: u32,
    pub flags: u32,
    pub guest_phys_addr: u64,
    pub memory_size: u64,
    pub userspace_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_userspace_memory_region2 {
    pub slot: u32,
    pub flags: u32,
    pub guest_phys_addr: u64,
    pub memory_size: u64,
    pub userspace_addr: u64,
    pub guest_memfd_offset: u64,
    pub guest_memfd: u32,
    pub pad1: u32,
    pub pad2: [u64; 14],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_enable_cap {
    pub cap: u32,
    pub flags: u32,
    pub args: [u64; 4],
    pub pad: [u8; 64],
}

impl Default for kvm_enable_cap {
    fn default() -> Self {
        Self { cap: 0, flags: 0, args: [0; 4], pad: [0; 64] }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_dirty_log {
    pub slot: u32,
    pub padding1: u32,
    pub dirty_bitmap: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_clear_dirty_log {
    pub slot: u32,
    pub num_pages: u32,
    pub first_page: u64,
    pub dirty_bitmap: u64,
}

/// Entries follow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_irq_routing {
    pub nr: u32,
    pub flags: u32,
}

/// The set follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_signal_mask {
    pub len: u32,
}

/// Registers follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_reg_list {
    pub n: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_create_guest_memfd {
    pub size: u64,
    pub flags: u64,
    pub reserved: [u64; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_create_device {
    pub type_: u32,
    pub fd: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_device_attr {
    pub flags: u32,
    pub group: u32,
    pub attr: u64,
    pub addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_mp_state {
    pub mp_state: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_stats_header {
    pub flags: u32,
    pub name_size: u32,
    pub num_desc: u32,
    pub id_offset: u32,
    pub desc_offset: u32,
    pub data_offset: u32,
}

/// The name follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct kvm_stats_desc {
    pub flags: u32,
    pub exponent: i16,
    pub size: u16,
    pub offset: u32,
    pub bucket_size: u32,
}

#[repr(C)]
pub struct kvm_run {
    pub request_interrupt_window: u8,
    pub immediate_exit: u8,
    pub padding1: [u8; 6],
    pub exit_reason: u32,
    pub ready_for_interrupt_injection: u8,
    pub if_flag: u8,
    pub flags: u16,
    pub cr8: u64,
    pub apic_base: u64,
    #[cfg(target_arch = "s390x")]
    pub psw_mask: u64,
    #[cfg(target_arch = "s390x")]
    pub psw_addr: u64,
    pub __bindgen_anon_1: exit_data,
    pub kvm_valid_regs: u64,
    pub kvm_dirty_regs: u64,
    pub s: sync_area,
}

impl std::fmt::Debug for kvm_run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("kvm_run").field("exit_reason", &self.exit_reason).finish_non_exhaustive()
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union sync_area {
    pub regs: kvm_sync_regs,
    pub padding: [u8; 2048],
}

/// What `exit_reason` selects.
#[repr(C)]
#[derive(Clone, Copy)]
pub union exit_data {
    pub fail_entry: fail_entry,
    pub ex: ex,
    pub io: io,
    pub mmio: mmio,
    pub hypercall: hypercall,
    pub s390_sieic: s390_sieic,
    pub internal: internal,
    pub papr_hcall: papr_hcall,
    pub system_event: system_event,
    pub eoi: eoi,
    pub msr: msr,
    pub riscv_sbi: riscv_sbi,
    pub memory_fault: memory_fault,
    pub padding: [u8; 256],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct hypercall {
    pub nr: u64,
    pub args: [u64; 6],
    pub ret: u64,
    pub __bindgen_anon_1: hypercall_flags,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union hypercall_flags {
    pub longmode: u32,
    pub flags: u64,
}

macro_rules! exits {
    ($($name:ident { $($field:ident: $ty:ty,)* })*) => {$(
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name {
            $(pub $field: $ty,)*
        }
    )*};
}

exits! {
    fail_entry { hardware_entry_failure_reason: u64, cpu: u32, }
    ex { exception: u32, error_code: u32, }
    io { direction: u8, size: u8, port: u16, count: u32, data_offset: u64, }
    mmio { phys_addr: u64, data: [u8; 8], len: u32, is_write: u8, }
    s390_sieic { icptcode: u8, ipa: u16, ipb: u32, }
    internal { suberror: u32, ndata: u32, data: [u64; 16], }
    papr_hcall { nr: u64, ret: u64, args: [u64; 9], }
    system_event { type_: u32, ndata: u32, data: [u64; 16], }
    eoi { vector: u8, }
    msr { error: u8, pad: [u8; 7], reason: u32, index: u32, data: u64, }
    riscv_sbi { extension_id: u64, function_id: u64, args: [u64; 6], ret: [u64; 2], }
    memory_fault { flags: u64, gpa: u64, size: u64, }
}

const _: () = {
    let head = if cfg!(target_arch = "s390x") { 48 } else { 32 };
    assert!(std::mem::offset_of!(kvm_run, __bindgen_anon_1) == head);
    assert!(std::mem::offset_of!(kvm_run, s) == head + 256 + 16);
    assert!(size_of::<kvm_enable_cap>() == 104 && size_of::<kvm_userspace_memory_region2>() == 160);
    assert!(size_of::<kvm_sync_regs>() <= 2048);
};
