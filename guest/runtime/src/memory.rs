//! Memory accesses that need nothing of the architecture.
#![expect(unsafe_code, reason = "reads and writes addresses that tests choose")]

/// Loads from `gva` in one access; a fault ends the test.
pub fn peek<T: Copy>(gva: u64) -> T {
    // SAFETY: the guest's memory is its own.
    unsafe { (gva as *const T).read_volatile() }
}

/// Stores to `gva` in one access; a fault ends the test.
pub fn poke<T: Copy>(gva: u64, value: T) {
    // SAFETY: the guest's memory is its own.
    unsafe { (gva as *mut T).write_volatile(value) }
}

/// `read_safe` and `write_safe` for integers of each size, by the architecture's load and store
/// instructions with `{value}` and `{gva}` in them; a load leaves the upper bits of the value zero.
/// The first word is the class of registers that can hold an address.
#[cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unused_macros, reason = "their registers are named by width")
)]
macro_rules! words {
    ($address:ident: $($ty:ty = $load:literal, $store:literal;)*) => {
        /// Integers that one instruction can load or store.
        pub trait Word: Copy + 'static {
            #[doc(hidden)]
            fn read_safe(gva: u64) -> Result<Self, Trap>;
            #[doc(hidden)]
            fn write_safe(gva: u64, value: Self) -> Result<(), Trap>;
        }

        $(impl Word for $ty {
            fn read_safe(gva: u64) -> Result<Self, Trap> {
                let value: u64;
                // SAFETY: a fault resumes behind the instruction and comes back as a value.
                let trap = unsafe { catching!($load, value = out(reg) value, gva = in($address) gva) };
                trap.map(|()| value as Self)
            }

            fn write_safe(gva: u64, value: Self) -> Result<(), Trap> {
                // SAFETY: as above.
                unsafe { catching!($store, value = in(reg) u64::from(value), gva = in($address) gva) }
            }
        })*

        /// Loads from `gva`; a fault is a value.
        pub fn read_safe<T: Word>(gva: u64) -> Result<T, Trap> {
            T::read_safe(gva)
        }

        /// Stores to `gva`; a fault is a value.
        pub fn write_safe<T: Word>(gva: u64, value: T) -> Result<(), Trap> {
            T::write_safe(gva, value)
        }
    };
}
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) use words;

/// Copies `n` bytes upwards, by words where both are aligned.
///
/// # Safety
///
/// As for C's `memcpy`.
#[cfg(all(kvm_guest, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) unsafe fn copy_forward(dest: *mut u8, src: *const u8, n: usize) {
    let mut done = 0;
    if dest.addr() % 8 == 0 && src.addr() % 8 == 0 {
        while n - done >= 8 {
            // SAFETY: the caller's promise; both are aligned. Volatile, or the loop would become a
            // call of itself.
            unsafe {
                let word = src.add(done).cast::<u64>().read_volatile();
                dest.add(done).cast::<u64>().write_volatile(word);
            }
            done += 8;
        }
    }
    for i in done..n {
        // SAFETY: as above.
        unsafe { dest.add(i).write_volatile(src.add(i).read_volatile()) };
    }
}

/// Fills `n` bytes.
///
/// # Safety
///
/// As for C's `memset`.
#[cfg(all(kvm_guest, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(crate) unsafe fn fill(dest: *mut u8, value: u8, n: usize) {
    for i in 0..n {
        // SAFETY: the caller's promise.
        unsafe { dest.add(i).write_volatile(value) };
    }
}
