//! All of a register set at one instruction, for tests in which userspace reads and writes it there.
#![expect(unsafe_code, reason = "loads and stores whole register sets")]

use core::arch::asm;
use core::cell::UnsafeCell;

use guest_protocol::layout::vcpu_area;
use guest_protocol::layout::x86_64::TSS_SELECTOR;

use crate::context::Context;
use crate::memory::{peek, poke};

/// The port whose `OUT` stops the vCPU with the given registers.
pub const EXCHANGE_PORT: u16 = 0x81;

/// General registers in the order of `struct kvm_regs`: RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8–R15.
pub type Gprs = [u64; 16];

struct Frame(UnsafeCell<[u64; 35]>);

// SAFETY: one vCPU at a time uses the frame, as `exchange_gprs` demands.
unsafe impl Sync for Frame {}

/// Given registers, taken registers, RSP meanwhile, RFLAGS given and taken.
static FRAME: Frame = Frame(UnsafeCell::new([0; 35]));

/// Loads every general register and RFLAGS, writes to [`EXCHANGE_PORT`], and returns what is in them
/// behind that instruction. For one vCPU of a VM; interrupts must be off.
pub fn exchange_gprs(give: &Gprs, rflags: u64) -> (Gprs, u64) {
    let frame = FRAME.0.get();
    // SAFETY: nobody else uses the frame. All registers that the compiler may keep values in are
    // saved or named as clobbered; RSP is back before anything uses the stack.
    unsafe {
        (&mut (*frame))[..16].copy_from_slice(give);
        (&mut (*frame))[33] = rflags;
        asm!(
            "push rbx",
            "push rbp",
            "pushfq",
            "mov [rip + {f} + 256], rsp",
            "mov rax, [rip + {f} + 264]",
            "push rax",
            "popfq",
            "mov rax, [rip + {f}]",
            "mov rbx, [rip + {f} + 8]",
            "mov rcx, [rip + {f} + 16]",
            "mov rdx, [rip + {f} + 24]",
            "mov rsi, [rip + {f} + 32]",
            "mov rdi, [rip + {f} + 40]",
            "mov rsp, [rip + {f} + 48]",
            "mov rbp, [rip + {f} + 56]",
            "mov r8, [rip + {f} + 64]",
            "mov r9, [rip + {f} + 72]",
            "mov r10, [rip + {f} + 80]",
            "mov r11, [rip + {f} + 88]",
            "mov r12, [rip + {f} + 96]",
            "mov r13, [rip + {f} + 104]",
            "mov r14, [rip + {f} + 112]",
            "mov r15, [rip + {f} + 120]",
            "out {port}, al",
            "mov [rip + {f} + 128], rax",
            "mov [rip + {f} + 136], rbx",
            "mov [rip + {f} + 144], rcx",
            "mov [rip + {f} + 152], rdx",
            "mov [rip + {f} + 160], rsi",
            "mov [rip + {f} + 168], rdi",
            "mov [rip + {f} + 176], rsp",
            "mov [rip + {f} + 184], rbp",
            "mov [rip + {f} + 192], r8",
            "mov [rip + {f} + 200], r9",
            "mov [rip + {f} + 208], r10",
            "mov [rip + {f} + 216], r11",
            "mov [rip + {f} + 224], r12",
            "mov [rip + {f} + 232], r13",
            "mov [rip + {f} + 240], r14",
            "mov [rip + {f} + 248], r15",
            "mov rsp, [rip + {f} + 256]",
            "pushfq",
            "pop rax",
            "mov [rip + {f} + 272], rax",
            "popfq",
            "pop rbp",
            "pop rbx",
            f = sym FRAME,
            port = const EXCHANGE_PORT,
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
        let mut taken = [0; 16];
        taken.copy_from_slice(&(&(*frame))[16..32]);
        (taken, (*frame)[34])
    }
}

/// Bytes of XMM0–XMM15.
pub type Xmms = [[u64; 2]; 16];

struct XmmFrame(UnsafeCell<[Xmms; 2]>);

// SAFETY: one vCPU at a time uses the frame, as `exchange_xmms` demands.
unsafe impl Sync for XmmFrame {}

static XMM_FRAME: XmmFrame = XmmFrame(UnsafeCell::new([[[0; 2]; 16]; 2]));

/// Loads every XMM register, writes to [`EXCHANGE_PORT`], and returns what is in them behind that
/// instruction. For one vCPU of a VM. The guest's own code uses no vector registers.
pub fn exchange_xmms(give: &Xmms) -> Xmms {
    let frame = XMM_FRAME.0.get();
    // SAFETY: nobody else uses the frame, and the compiler no vector registers.
    unsafe {
        (&mut (*frame))[0] = *give;
        asm!(
            "movups xmm0, [rip + {f}]",
            "movups xmm1, [rip + {f} + 16]",
            "movups xmm2, [rip + {f} + 32]",
            "movups xmm3, [rip + {f} + 48]",
            "movups xmm4, [rip + {f} + 64]",
            "movups xmm5, [rip + {f} + 80]",
            "movups xmm6, [rip + {f} + 96]",
            "movups xmm7, [rip + {f} + 112]",
            "movups xmm8, [rip + {f} + 128]",
            "movups xmm9, [rip + {f} + 144]",
            "movups xmm10, [rip + {f} + 160]",
            "movups xmm11, [rip + {f} + 176]",
            "movups xmm12, [rip + {f} + 192]",
            "movups xmm13, [rip + {f} + 208]",
            "movups xmm14, [rip + {f} + 224]",
            "movups xmm15, [rip + {f} + 240]",
            "out {port}, al",
            "movups [rip + {f} + 256], xmm0",
            "movups [rip + {f} + 272], xmm1",
            "movups [rip + {f} + 288], xmm2",
            "movups [rip + {f} + 304], xmm3",
            "movups [rip + {f} + 320], xmm4",
            "movups [rip + {f} + 336], xmm5",
            "movups [rip + {f} + 352], xmm6",
            "movups [rip + {f} + 368], xmm7",
            "movups [rip + {f} + 384], xmm8",
            "movups [rip + {f} + 400], xmm9",
            "movups [rip + {f} + 416], xmm10",
            "movups [rip + {f} + 432], xmm11",
            "movups [rip + {f} + 448], xmm12",
            "movups [rip + {f} + 464], xmm13",
            "movups [rip + {f} + 480], xmm14",
            "movups [rip + {f} + 496], xmm15",
            f = sym XMM_FRAME,
            port = const EXCHANGE_PORT,
            options(nostack, preserves_flags),
        );
        (*frame)[1]
    }
}

/// `SGDT` and `SIDT`: base and limit of both tables.
pub fn descriptor_tables() -> [(u64, u16); 2] {
    let (mut gdt, mut idt) = ([0_u16; 5], [0_u16; 5]);
    // SAFETY: each instruction stores ten bytes.
    unsafe {
        asm!("sgdt [{}]", in(reg) gdt.as_mut_ptr(), options(nostack, preserves_flags));
        asm!("sidt [{}]", in(reg) idt.as_mut_ptr(), options(nostack, preserves_flags));
    }
    [gdt, idt].map(|t| {
        let base = (0..4).map(|i| u64::from(t[i + 1]) << (16 * i)).sum();
        (base, t[0])
    })
}

/// Gives a context GDT and TSS: the caller's, with stacks of its own.
pub(crate) fn copy_tables(context: Context) {
    let own = Context::current();
    let distance = context.area() - own.area();
    for offset in (vcpu_area::TABLES..vcpu_area::STATE).step_by(8) {
        context.set_word(offset, own.word(offset));
    }
    // The base of the TSS is in bits 16 to 39 of its descriptor, where areas have their address.
    let descriptor = vcpu_area::TABLES + u64::from(TSS_SELECTOR);
    context.set_word(descriptor, own.word(descriptor) + (distance << 16));
    for stack in TSS_STACKS {
        // Each is below 4 GiB, and not aligned to more than that.
        let place = context.area() + vcpu_area::TSS + stack;
        poke(place, peek::<u32>(place) + distance as u32);
    }
}

/// Offsets in the TSS of RSP0, and of IST1 to IST4.
const TSS_STACKS: [u64; 5] = [4, 36, 44, 52, 60];

/// `REP MOVSB`: copies bytes upwards.
pub fn move_string(dest: u64, src: u64, n: u64) {
    // SAFETY: the guest's memory is its own.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") dest => _, inout("rsi") src => _, options(nostack, preserves_flags))
    }
}

/// `REP INSB`: reads bytes from a port to an address.
pub fn ins_string(port: u16, dest: u64, n: u64) {
    // SAFETY: the guest's memory is its own.
    unsafe {
        asm!("rep insb", in("dx") port, inout("rcx") n => _, inout("rdi") dest => _, options(nostack, preserves_flags))
    }
}
