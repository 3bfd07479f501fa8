//! Assembled code with a name: what `guest_asm!` of the suites gives.
#![expect(unsafe_code, reason = "code by address")]

/// Address of a symbol that assembly of the payload defines; 0 in the host half, where there is none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! symbol {
    ($name:ident) => {{
        #[cfg(kvm_guest)]
        {
            unsafe extern "C" {
                safe static $name: [u8; 0];
            }
            $name.as_ptr() as u64
        }
        #[cfg(not(kvm_guest))]
        {
            0_u64
        }
    }};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use symbol;

/// Code that the assembler made. It is part of the payload, where it can be run in place, and may be copied
/// to where something else runs it; the host half finds it by its name.
#[derive(Debug)]
pub struct Blob {
    name: &'static str,
    bits: u32,
    start: *const u8,
    end: *const u8,
}

// SAFETY: the code is never written.
unsafe impl Sync for Blob {}

impl Blob {
    /// The code between two symbols; in the host half, where there is none, its name.
    #[doc(hidden)]
    pub const fn new(name: &'static str, bits: u32, start: *const u8, end: *const u8) -> Self {
        Self { name, bits, start, end }
    }

    /// 16, 32 or 64: the mode that it was assembled for.
    pub const fn bits(&self) -> u32 {
        self.bits
    }

    /// The path of its static, by which the payload knows it.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Where it is in the payload.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// The first address behind it in the payload.
    pub fn end(&self) -> u64 {
        self.end as u64
    }

    /// Its bytes. In the host half use `Payload::code`.
    pub fn bytes(&self) -> &'static [u8] {
        if self.start.is_null() {
            return &[];
        }
        // SAFETY: the assembler put the symbols around the code, which is in the payload's text.
        unsafe {
            let len = self.end.offset_from_unsigned(self.start);
            core::slice::from_raw_parts(self.start, len)
        }
    }

    /// Copies it to `gva`; fetches may need more before they see it.
    pub fn copy_to(&self, gva: u64) {
        for (byte, gva) in self.bytes().iter().zip(gva..) {
            crate::memory::poke(gva, *byte);
        }
    }
}
